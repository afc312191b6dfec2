# SPDX-License-Identifier: Apache-2.0
"""Our own tasks and trunks keep the contracts that a stranger's must keep; heads: tests/heads/test_every_head.py."""

from __future__ import annotations

from typing import Any

import pytest

from unified.contracts.protocols import backbones, tasks
from unified.testing import check_backbone
from unified.testing.task import CHECKS, TaskTrial

TASKS = [name for name in tasks.names() if tasks.source(name) == "unified-networks"]
HEADS = [("det", "detect_anchor", {}), ("det", "detect_free", {}), ("det", "detr", {}), ("cls", "multilabel", {})]
HEADS += [("emb", "embed", {})]
TRUNKS: dict[str, dict[str, Any]] = {
    "csp": {"channels": [8, 8, 16, 16, 16], "depths": [1, 1, 1, 1]},
    "yolor": {"channels": [8, 16, 16, 16, 16], "depths": [1, 1, 1, 1, 1]},
    "timm": {"model": "resnet18", "pretrained": False},
}


def test_every_task_of_ours_is_tried() -> None:
    assert {task for task, _, _ in HEADS} <= set(TASKS)
    assert set(TRUNKS) == {name for name in backbones.names() if backbones.source(name) == "unified-networks"}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("task", "head", "options"), HEADS, ids=[f"{task}-{head}" for task, head, _ in HEADS])
def test_every_task_keeps_its_contract(task: str, head: str, options: dict[str, Any], check: object) -> None:
    from unified.contracts.protocols import heads

    check(TaskTrial(tasks.get(task), heads.get(head), options))  # type: ignore[operator]


@pytest.mark.parametrize("name", TRUNKS)
def test_every_trunk_keeps_its_contract(name: str) -> None:
    check_backbone(name, options=TRUNKS[name])
