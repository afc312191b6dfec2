# SPDX-License-Identifier: Apache-2.0
"""What every registered head promises: the checks of ``unified.testing``, one by one, and what only ours promise."""

from __future__ import annotations

import pytest
import torch

import unified  # noqa: F401
from unified.contracts.protocols import heads
from unified.testing.contract import SPEC
from unified.testing.head import CHECKS, HeadTrial

OWN = [name for name in heads.names() if heads.source(name) == "unified-networks"]


def test_the_heads_that_come_with_the_package_are_all_here() -> None:
    assert {"detect_anchor", "detect_free", "detr", "embed", "multilabel"} <= set(OWN)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", OWN)
def test_every_head_keeps_its_contract(name: str, check: object) -> None:
    check(HeadTrial(heads.get(name)))  # type: ignore[operator]


@pytest.mark.parametrize("name", OWN)
def test_two_heads_are_not_alike_before_they_learn(name: str) -> None:
    one, other = (torch.cat([p.flatten() for p in heads.get(name)(SPEC, 5).parameters()]) for _ in range(2))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", OWN)
def test_latents_of_ours_can_be_folded_somewhere(name: str) -> None:
    head = heads.get(name)(SPEC, 5)
    assert any(head.neighbours(site).after for site in [*head.sites, *(f"align.{level}" for level in SPEC.levels)])
