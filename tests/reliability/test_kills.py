# SPDX-License-Identifier: Apache-2.0
"""SIGKILL while saving: whatever was acknowledged before the kill is there after it, whole."""

from __future__ import annotations

import os
import random
import select
import signal
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from specimen import PARTS, same, specimen
from tally import Tally

from unified.contracts.errors import CheckpointError
from unified.shelf import Shelf
from unified.training.folder import RunFolder
from unified.training.keeper import Keeper

NUMBERS = 1 << 18  # in each of three parts: 3 MB a checkpoint
MARK = struct.Struct("<cq")  # B: begins to save a step; A: that step is acknowledged
Saver = Callable[[Path, int, int], None]


@dataclass(frozen=True)
class Killed:
    """What a killed process had said of its saves."""

    begun: int
    acknowledged: int

    @property
    def inside(self) -> bool:
        """Whether the kill fell into a save."""
        return self.begun > self.acknowledged


def mark(pipe: int, kind: bytes, step: int) -> None:
    os.write(pipe, MARK.pack(kind, step))


def save_plainly(place: Path, step: int, pipe: int) -> None:
    """The control: a file written over its older self, as many trainers do."""
    while True:
        step += 1
        data = save(dict(specimen(step, 3 * NUMBERS).tensors["ema"]))
        mark(pipe, b"B", step)
        (place / "last.safetensors").write_bytes(data)
        mark(pipe, b"A", step)


def save_in_turn(place: Path, step: int, pipe: int) -> None:
    folder = RunFolder(place)
    while True:
        step += 1
        mark(pipe, b"B", step)
        folder.save(step, specimen(step, NUMBERS), best=step % 3 == 0)
        mark(pipe, b"A", step)


def save_beside(place: Path, step: int, pipe: int) -> None:
    """The keeper's thread writes; a step is acknowledged when the keeper says so."""
    keeper, told = Keeper(RunFolder(place)), step
    while True:
        step += 1
        mark(pipe, b"B", step)
        keeper.save(step, specimen(step, NUMBERS), best=step % 3 == 0)
        if keeper.acknowledged is not None and keeper.acknowledged > told:
            told = keeper.acknowledged
            mark(pipe, b"A", told)


def kill(saver: Saver, place: Path, step: int, seconds: float) -> Killed:
    """Lets a child save for ever, and kills it ``seconds`` after its first save began."""
    ear, mouth = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ear)
            saver(place, step, mouth)
        finally:
            os._exit(1)  # a saver never returns
    os.close(mouth)
    try:
        assert select.select([ear], [], [], 60)[0], "the child did not begin"
        time.sleep(seconds)
    finally:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    said = b""
    while block := os.read(ear, 1 << 16):
        said += block
    os.close(ear)
    assert os.WIFSIGNALED(status), "the saver ended by itself"
    marks = list(MARK.iter_unpack(said[: len(said) // MARK.size * MARK.size]))
    begun = max((s for kind, s in marks if kind == b"B"), default=step)
    return Killed(begun, max((s for kind, s in marks if kind == b"A"), default=step))


def verdict_of(place: Path, acknowledged: int) -> tuple[int, str]:
    """The step that a run would go on from, and what is wrong with it."""
    lines: list[str] = []
    try:
        last = Shelf(place / "checkpoints").load("last", say=lines.append)
        best = Shelf(place / "checkpoints").load("best", parts=("ema",), say=lines.append)
    except CheckpointError as error:
        return acknowledged, f"unreadable: {error}"
    step = int(last.checkpoint.state["step"])
    if step < acknowledged:
        return step, f"step {acknowledged} was acknowledged and {step} is there"
    if not same(last.checkpoint, step, NUMBERS):
        return step, f"step {step} holds other numbers"
    if not same(best.checkpoint, int(best.checkpoint.state["step"]), NUMBERS, parts=("ema",)):
        return step, "the best holds other numbers"
    return step, "; ".join(lines)


def duration(saver: Saver, place: Path) -> float:
    """Seconds a save takes here and now."""
    start = time.monotonic()
    killed = kill(saver, place, 1, 0.5)
    return (time.monotonic() - start) / max(1, killed.begun - 1)


@pytest.fixture(autouse=True)
def alone() -> None:
    """No helper threads of torch, which a fork would leave behind."""
    torch.set_num_threads(1)


@pytest.mark.parametrize("saver", [save_in_turn, save_beside])
def test_a_kill_while_saving_loses_nothing(tally: Tally, memory: Path, saver: Saver) -> None:
    how = "in the loop" if saver is save_in_turn else "by the keeper's thread"
    tally.begin(f"SIGKILL while saving, {how}", "0 unreadable, 0 steps lost: the acknowledged step loads, every bit")
    generator, place = random.Random(0), memory / "run"
    RunFolder(place).save(1, specimen(1, NUMBERS), best=True)
    typical, step, inside = duration(saver, place), verdict_of(place, 1)[0], 0
    for trial in range(tally.count(500, share=6)):
        killed = kill(saver, place, step, generator.uniform(0, 2.5 * typical))
        step, wrong = verdict_of(place, max(step, killed.acknowledged))
        inside += killed.inside
        tally.add(not wrong, f"kill {trial}: {wrong}")
    tally.note(f"{inside} kills fell into a save; a save takes about {1000 * typical:.0f} ms; {step} steps in all")
    control(tally, memory / "plain", generator)
    tally.verdict()


def control(tally: Tally, place: Path, generator: random.Random) -> None:
    place.mkdir()
    typical = duration(save_plainly, place)
    for _ in range(tally.count(100, share=100)):
        killed = kill(save_plainly, place, 1, generator.uniform(0, 2.5 * typical))
        tally.control(1, not plain_is_whole(place, killed.acknowledged), "one file written over its older self")
        if tally.control_failures and not tally.full:
            return


def plain_is_whole(place: Path, acknowledged: int) -> bool:
    try:
        weight = load((place / "last.safetensors").read_bytes())["weight"]
    except Exception:
        return False
    return bool((weight == weight.flatten()[0]).all()) and float(weight.flatten()[0]) >= acknowledged


def test_what_a_killed_process_left_is_swept_by_the_next_save(memory: Path) -> None:
    place = memory / "run"
    for trial in range(3):
        kill(save_in_turn, place, trial, 0.02 * trial)
    RunFolder(place).save(9999, specimen(9999), best=True, keep_last=1)
    assert sorted(p.name for p in (place / "checkpoints").iterdir()) == ["best", "last", "step-00009999"]
    assert set(PARTS) == set(RunFolder(place).load("last").tensors)
