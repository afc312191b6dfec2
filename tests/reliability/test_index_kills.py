# SPDX-License-Identifier: Apache-2.0
"""SIGKILL while vectors are added to an index: every acknowledged addition is there, whole, and no other by half."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from tally import Tally
from test_kills import Saver, duration, kill, mark

from unified.contracts.errors import UnifiedError
from unified.index import ExactIndex, Layout, Row

DIM, FEW = 64, 32  # numbers of a vector, vectors of an addition


def vectors(step: int) -> torch.Tensor:
    """(FEW, DIM): known from the step, so that what is read can be compared."""
    return torch.randn(FEW, DIM, generator=torch.Generator().manual_seed(step))


def rows(step: int) -> list[Row]:
    return [Row(f"{step}-{k}", f"{step}.jpg", tags=(f"step {step}",)) for k in range(FEW)]


def add_for_ever(place: Path, step: int, pipe: int) -> None:
    """Adds; every fifth time deletes what was added three steps before, and now and then writes everything anew."""
    index = ExactIndex(place)
    while True:
        step += 1
        mark(pipe, b"B", step)
        index.add(vectors(step), rows(step), replace=True)
        mark(pipe, b"A", step)
        if step % 5 == 0:
            index.delete([row.id for row in rows(step - 3)])
        if step % 31 == 0:
            index.compact()


def add_plainly(place: Path, step: int, pipe: int) -> None:
    """The control: numbers and names in two files that are written over their older selves."""
    while True:
        step += 1
        known = json.loads((place / "rows.json").read_text()) if (place / "rows.json").exists() else []
        known = [name for name in known if int(name.split("-")[0]) < step]
        before = (place / "vectors.bin").read_bytes()[: 4 * DIM * len(known)] if known else b""
        mark(pipe, b"B", step)
        (place / "vectors.bin").write_bytes(before + vectors(step).numpy().tobytes())
        (place / "rows.json").write_text(json.dumps([*known, *(row.id for row in rows(step))]))
        mark(pipe, b"A", step)


def verdict_of(place: Path, acknowledged: int, first: int) -> tuple[int, str]:
    """The last step that is there, and what is wrong. first: the step that the killed process began with."""
    try:
        index = ExactIndex(place)
    except UnifiedError as error:
        return acknowledged, f"unreadable: {error}"
    ids = {row.id for row in index.rows()}
    steps = {int(name.split("-")[0]) for name in ids}
    for step in range(1, acknowledged + 1):
        there = sum(f"{step}-{k}" in ids for k in range(FEW))
        may_be_gone = (step + 3) % 5 == 0
        if there != FEW and not (may_be_gone and there == 0):
            return acknowledged, f"step {step} was acknowledged, and {there} of {FEW} rows are there"
    for step in {acknowledged, *(s for s in steps if s > acknowledged)} - {0}:
        if not {f"{step}-{k}" for k in range(FEW)} <= ids:
            return step, f"step {step} is there by half"
        found = index.search(vectors(step), 1)
        if [hits[0].row for hits in found] != rows(step) or float(found.scores.min()) < 0.999999:
            return step, f"step {step} holds other numbers"
    return max([acknowledged, *steps]), ""


def plain_is_whole(place: Path, acknowledged: int) -> bool:
    try:
        known = json.loads((place / "rows.json").read_text())
        data = (place / "vectors.bin").read_bytes()
    except (OSError, ValueError):
        return acknowledged == 0
    whole = len(data) == 4 * DIM * len(known)
    return whole and all(f"{step}-0" in known for step in range(1, acknowledged + 1))


@pytest.fixture(autouse=True)
def alone() -> None:
    """No helper threads of torch, which a fork would leave behind."""
    torch.set_num_threads(1)


def fresh(memory: Path, number: int) -> Path:
    place = memory / f"index-{number}"
    ExactIndex.create(place, Layout(DIM)).add(vectors(1), rows(1))
    return place


def test_a_kill_while_adding_loses_nothing_that_was_acknowledged(tally: Tally, memory: Path) -> None:
    tally.begin("SIGKILL while adding to an index", "0 acknowledged additions lost, 0 by half, 0 unreadable")
    generator, place, step, inside = random.Random(0), fresh(memory, 0), 1, 0
    typical = duration(add_for_ever, fresh(memory, -1))
    for trial in range(tally.count(500, share=20)):
        if trial % 50 == 49:  # not ever larger
            place, step = fresh(memory, trial), 1
        killed = kill(add_for_ever, place, step, generator.uniform(0, 4 * typical))
        step, wrong = verdict_of(place, max(step, killed.acknowledged), step)
        inside += killed.inside
        tally.add(not wrong, f"kill {trial}: {wrong}")
        left = {p.name for p in place.iterdir()} - ExactIndex(place)._now.catalog.files
        assert len(left) < 40, "what killed processes left is never swept"
    tally.note(f"{inside} kills fell into an addition; one takes about {1000 * typical:.0f} ms")
    control(tally, memory, add_plainly, generator)
    tally.verdict()


def control(tally: Tally, memory: Path, saver: Saver, generator: random.Random) -> None:
    (memory / "timed").mkdir()
    typical = duration(saver, memory / "timed")
    for trial in range(tally.count(100, share=60)):
        place = memory / f"plain-{trial}"
        place.mkdir()
        (place / "rows.json").write_text("[]")
        killed = kill(saver, place, 0, generator.uniform(0, 12 * typical))
        tally.control(1, not plain_is_whole(place, killed.acknowledged), "two files written over their older selves")
        if tally.control_failures and not tally.full:
            return
