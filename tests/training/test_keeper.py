# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import unified  # noqa: F401
from unified.checkpoint import Checkpoint
from unified.contracts.errors import CheckpointError
from unified.training.folder import RunFolder
from unified.training.keeper import Keeper, Snapshot


def some(value: float = 1.0) -> Checkpoint:
    tensors = {"model": {"w": torch.full((64, 64), value), "n": torch.tensor(int(value))}, "ema": {"w": torch.ones(3)}}
    return Checkpoint(tensors, {"value": value, "groups": [{"params": [0, 1]}]})


class Gate:
    """Holds up the writer until it is opened."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.open, self.fsync = threading.Event(), os.fsync
        patch.setattr(os, "fsync", self._wait)

    def _wait(self, handle: int) -> None:
        assert self.open.wait(20)
        self.fsync(handle)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.open.set()


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_copy_does_not_follow_what_it_was_taken_of() -> None:
    given = some(2)
    copy = Snapshot().take(given)
    given.tensors["model"]["w"].zero_()
    given.state["groups"][0]["params"].append(7)
    assert (copy.tensors["model"]["w"] == 2).all() and copy.tensors["model"]["n"] == 2
    assert copy.state == {"value": 2, "groups": [{"params": [0, 1]}]}


def test_memory_is_used_again_where_shapes_allow() -> None:
    snapshot = Snapshot()
    first = snapshot.take(some(1)).tensors["model"]["w"].data_ptr()
    assert snapshot.take(some(2)).tensors["model"]["w"].data_ptr() == first
    other = Checkpoint({"model": {"w": torch.full((3, 3), 5.0, dtype=torch.float64)}}, {})
    copy = snapshot.take(other)
    assert set(copy.tensors) == {"model"} and torch.equal(copy.tensors["model"]["w"], other.tensors["model"]["w"])


def test_what_is_saved_is_what_stood_there_when_it_was_asked_for(tmp_path: Path, gate: Gate) -> None:
    keeper, given = Keeper(RunFolder(tmp_path)), some(3)
    keeper.save(5, given, best=True)
    given.tensors["model"]["w"].zero_()  # the next step of the training
    assert keeper.busy and keeper.acknowledged is None
    assert RunFolder(tmp_path).pointed("last") is None  # nothing is shown before it is on the disk
    gate.open.set()
    keeper.close()
    assert keeper.acknowledged == 5
    for pointer in ("last", "best"):
        saved = RunFolder(tmp_path).load(pointer)  # type: ignore[arg-type]
        assert (saved.tensors["model"]["w"] == 3).all() and saved.state["value"] == 3


def test_a_save_by_interval_is_put_off_while_one_is_written(tmp_path: Path, gate: Gate) -> None:
    keeper = Keeper(RunFolder(tmp_path), every=10, minutes=0)
    assert [keeper.due(step) for step in (1, 9, 10, 11)] == [False, False, True, True]
    assert keeper.offer(10, some(10))
    assert not keeper.due(20) and not keeper.offer(20, some(20))
    gate.open.set()
    keeper.wait()
    assert not keeper.due(19) and keeper.due(21)
    assert keeper.offer(21, some(21))
    assert not keeper.due(29) and keeper.acknowledged in (10, 21)
    keeper.close()
    assert keeper.acknowledged == 21
    assert [path.name for path in RunFolder(tmp_path).shelf.steps()] == ["step-00000021", "step-00000010"]


def test_a_save_by_name_waits_for_its_turn(tmp_path: Path, gate: Gate) -> None:
    keeper = Keeper(RunFolder(tmp_path))
    keeper.save(1, some(1))
    threading.Timer(0.2, gate.open.set).start()
    keeper.save(2, some(2), best=True, wait=True)
    assert keeper.acknowledged == 2
    assert keeper.cost.saves == 2 and keeper.cost.held_up >= 0.15
    assert RunFolder(tmp_path).pointed("best") == RunFolder(tmp_path).pointed("last")


def test_the_clock_asks_for_saves_and_gives_way_where_they_are_dear(tmp_path: Path) -> None:
    now = [0.0]
    keeper = Keeper(RunFolder(tmp_path), minutes=1, clock=lambda: now[0])
    assert not keeper.due(3)
    now[0] = 60
    assert keeper.due(3)
    keeper.save(3, some(), wait=True)
    keeper.cost.last_held_up, keeper.cost.last_processor = 6.0, 0.0  # a slow one: 5 % of 120 s
    assert keeper.interval == pytest.approx(120)
    now[0] = 60 + 119
    assert not keeper.due(9)
    now[0] = 60 + 121
    assert keeper.due(9)
    assert not Keeper(RunFolder(tmp_path), minutes=0, clock=lambda: 1e9).due(5)


def test_a_full_disk_does_not_stop_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    keeper = Keeper(RunFolder(tmp_path), say=lines.append)
    keeper.save(1, some(1), wait=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        keeper.save(2, some(2))
        while keeper.busy:
            time.sleep(0.01)
        keeper.check()
        keeper.check()
    assert len(lines) == 1 and len(lines[0].splitlines()) == 1
    for text in ("step-00000002 could not be saved", str(tmp_path), "No space left on device (", "bytes free)"):
        assert text in lines[0]
    assert "step-00000001 is still there" in lines[0] and lines[0].endswith("the training goes on")
    keeper.save(3, some(3))
    keeper.close()
    assert keeper.acknowledged == 3 and len(lines) == 1


def test_the_last_save_must_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    keeper = Keeper(RunFolder(tmp_path), say=lines.append)
    keeper.save(1, some(1), wait=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"could not be saved.*bytes free"):
            keeper.save(2, some(2), wait=True)
        keeper.close()  # told once
        keeper.save(3, some(3))
        with pytest.raises(CheckpointError, match="step-00000003 could not be saved"):
            keeper.close()
    assert lines == [] and RunFolder(tmp_path).load("last").state["value"] == 1


def test_an_error_on_its_way_is_not_hidden_by_a_failed_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ZeroDivisionError), Keeper(RunFolder(tmp_path), say=lines.append) as keeper:
        keeper.save(2, some(2))
        raise ZeroDivisionError
    assert len(lines) == 1 and "step-00000002 could not be saved" in lines[0]
    with pytest.raises(CheckpointError), Keeper(RunFolder(tmp_path)) as keeper:
        keeper.save(2, some(2))


def test_what_is_no_json_is_said_at_once(tmp_path: Path) -> None:
    keeper = Keeper(RunFolder(tmp_path))
    with pytest.raises(ValueError, match="JSON"):
        keeper.save(1, Checkpoint({}, {"loss": float("nan")}))
    keeper.close()


def test_saving_draws_no_random_numbers(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    with Keeper(RunFolder(tmp_path)) as keeper:
        keeper.save(1, some(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_log_leaves_lines_out_where_there_is_no_room(tmp_path: Path) -> None:
    lines: list[str] = []
    folder = RunFolder(tmp_path, say=lines.append)
    folder.log({"step": 1})
    (tmp_path / "kept").write_bytes((tmp_path / "log.jsonl").read_bytes())
    (tmp_path / "log.jsonl").unlink()
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("no /dev/full here")
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    for step in range(2, 6):
        folder.log({"step": step})
    assert len(lines) == 1 and "No space left on device (" in lines[0] and "bytes free)" in lines[0]
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "kept").rename(tmp_path / "log.jsonl")
    folder.log({"step": 6})
    assert "4 log lines or metrics were left out" in lines[1]
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1}\n{"step": 6}\n'


def test_a_line_that_was_cut_short_is_dropped_on_resume(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"unreadable": "x"}\n{"step": 9}\n[3]\n{"step": 2, "lo')
    RunFolder(tmp_path).trim_log(2)
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1}\n{"unreadable": "x"}\n'


@pytest.mark.parametrize("text", ["", "[1]", '{"det/AP50": 0.', "\xff", "[" * 99_999])
def test_damaged_metrics_are_as_good_as_none(tmp_path: Path, text: str) -> None:
    RunFolder(tmp_path).write_metrics({"det/AP50": 0.5})
    assert RunFolder(tmp_path).read_metrics() == {"det/AP50": 0.5}
    (tmp_path / "metrics.json").write_bytes(text.encode("latin-1"))
    assert RunFolder(tmp_path).read_metrics() == {}
