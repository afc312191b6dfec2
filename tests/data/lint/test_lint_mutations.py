# SPDX-License-Identifier: Apache-2.0
"""Ten thousand spoilt COCO files: nothing is raised, and the planted fault is always among those that are named."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import coco_mutator
import pytest
from coco_truth import valid

from unified.data.lint.faults import FAULTS
from unified.data.lint.finding import Finding
from unified.data.lint.part import lint_bytes

KINDS = [*coco_mutator.MUTATIONS, *coco_mutator.TEXT_MUTATIONS]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutations") / "pictures"
    valid(0, folder)
    return folder


def found(planted: coco_mutator.Planted, findings: list[Finding]) -> bool:
    """Whether one finding has the planted fault's name and its place."""
    return any(
        finding.fault == planted.fault and (planted.record in (f"{finding.record}.{finding.field}"))
        for finding in findings
    )


def missed(seeds: range, folder: Path) -> Counter[str]:
    """Kinds of planted faults that were not found, by a line that names file, reason and what will be done."""
    lost: Counter[str] = Counter()
    for seed in seeds:
        planted = coco_mutator.plant(seed)
        findings = list(lint_bytes(planted.data, "spoilt.json", folder))
        lost[planted.kind] += not found(planted, findings)
        for finding in findings:
            assert finding.line.startswith("spoilt.json: ") and finding.line.isprintable(), finding.line
            assert finding.line.encode() and finding.reason and finding.action
    return +lost


def test_a_thousand_spoilt_files(pictures: Path) -> None:
    assert len(KINDS) >= 60
    assert missed(range(1000), pictures) == Counter()


@pytest.mark.reliability
def test_ten_thousand_spoilt_files(pictures: Path) -> None:
    assert missed(range(10_000), pictures) == Counter()


@pytest.mark.parametrize("seed", range(40))
def test_the_file_before_it_is_spoilt_is_clean(seed: int, pictures: Path) -> None:
    assert list(lint_bytes(json.dumps(valid(seed)).encode(), "good.json", pictures)) == []


def test_a_blind_linter_would_be_noticed(pictures: Path) -> None:
    """The control of the test's own eye: the findings of the valid file satisfy no mutation."""
    good = list(lint_bytes(json.dumps(valid(0)).encode(), "good.json", pictures))
    assert not any(found(coco_mutator.plant(seed), good) for seed in range(len(KINDS)))


def test_every_kind_is_planted_and_every_planted_fault_is_in_the_catalogue() -> None:
    planted = [coco_mutator.plant(seed) for seed in range(len(KINDS))]
    assert {one.kind for one in planted} == set(KINDS)
    assert {one.fault for one in planted} <= set(FAULTS)


def test_a_seed_plants_the_same_fault_again() -> None:
    assert [coco_mutator.plant(seed) for seed in range(100)] == [coco_mutator.plant(seed) for seed in range(100)]
