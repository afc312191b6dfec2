# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import unified  # noqa: F401
from unified.checkpoint import Checkpoint
from unified.contracts.errors import CheckpointError
from unified.shelf import Shelf
from unified.trained import trained_checkpoint


def some(step: int) -> Checkpoint:
    return Checkpoint({"ema": {"w": torch.full((8,), float(step))}, "model": {"w": torch.ones(8)}}, {"step": step})


def names(shelf: Shelf) -> list[str]:
    return sorted(path.name for path in shelf.path.iterdir())


def save(shelf: Shelf, *steps: int, best: int = 0, keep_last: int = 2) -> None:
    for step in steps:
        shelf.save(step, some(step), best=step == best, keep_last=keep_last)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "run" / "checkpoints")


def test_the_newest_and_the_best_are_kept(shelf: Shelf) -> None:
    save(shelf, 1, 2, 3, 4, 5, best=2)
    assert names(shelf) == ["best", "last", "step-00000002", "step-00000004", "step-00000005"]
    save(shelf, 6, keep_last=1)
    assert names(shelf) == ["best", "last", "step-00000002", "step-00000006"]
    assert [shelf.load(p).checkpoint.state["step"] for p in ("last", "best")] == [6, 2]  # type: ignore[arg-type]


def test_steps_are_ordered_as_numbers(shelf: Shelf) -> None:
    save(shelf, 99_999_999, 100_000_000, keep_last=1)
    assert [path.name for path in shelf.steps()] == ["step-100000000", "step-99999999"]  # the first one is the best


def test_the_first_is_the_best_until_there_is_another(shelf: Shelf) -> None:
    save(shelf, 7)
    assert shelf.pointed("best") == shelf.pointed("last") == shelf.path / "step-00000007"


def test_a_step_saved_twice_replaces_nothing_until_it_is_whole(shelf: Shelf) -> None:
    save(shelf, 5, best=5)
    save(shelf, 5, best=5)
    assert names(shelf) == ["best", "last", "step-00000005.2"]
    save(shelf, 5, 6)
    assert names(shelf) == ["best", "last", "step-00000005.2", "step-00000005.3", "step-00000006"]


def test_a_course_that_was_left_is_cleared_away(shelf: Shelf) -> None:
    save(shelf, 10, 20, 30, best=10, keep_last=3)
    save(shelf, 15, keep_last=3)
    assert names(shelf) == ["best", "last", "step-00000010", "step-00000015"]


def test_a_best_that_cannot_be_read_at_the_moment_is_not_removed(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    save(shelf, 1, 2, 3, best=1, keep_last=1)
    open_ = os.open

    def opened(path: Any, *given: Any, **named: Any) -> int:
        if Path(str(path)).name == "best":
            raise OSError(errno.EIO, "Input/output error")
        return open_(path, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opened)
        with pytest.raises(CheckpointError, match=r"step-00000004 could not be saved: .*Input/output error"):
            save(shelf, 4, keep_last=1)
    assert shelf.load("best").checkpoint.state["step"] == 1
    save(shelf, 5, keep_last=1)
    assert names(shelf) == ["best", "last", "step-00000001", "step-00000005"]


NOWHERE = [None, "", "step-00000002", "step-00000009", '{"last": "step-00000002"}', "\xff" * 9000]


@pytest.mark.parametrize("pointer", ["last", "best"])
@pytest.mark.parametrize(
    "text", [None, "", "step-00000002", "step-00000009", '{"last": "step-00000002"}', "\xff" * 9000]
)
def test_a_pointer_that_leads_nowhere_is_done_without(shelf: Shelf, pointer: Any, text: str | None) -> None:
    save(shelf, 2, 3, best=2)
    (shelf.path / pointer).unlink() if text is None else (shelf.path / pointer).write_text(text)
    lines: list[str] = []
    found = shelf.load(pointer, say=lines.append).checkpoint.state["step"]
    if text == "step-00000002":  # as the first format wrote it
        assert (found, lines) == (2, [])
    else:
        assert found == 3 and len(lines) == 1 and lines[0].endswith("going on from step-00000003")
        assert pointer in lines[0] or "step-00000009" in lines[0]


def test_a_folder_under_another_name_is_not_taken_for_it(shelf: Shelf) -> None:
    save(shelf, 2, 3)
    (shelf.path / "step-00000003").rename(shelf.path / "step-00000004")
    lines: list[str] = []
    assert shelf.load("last", say=lines.append).checkpoint.state["step"] == 2
    assert len(lines) == 1


def test_who_predicts_gets_the_last_where_the_best_is_damaged(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    save(shelf, 2, 3, best=2)
    (shelf.path / "step-00000002" / "ema.safetensors").write_bytes(b"")
    found = trained_checkpoint(shelf.path.parent, ("ema",))
    assert found.folder.name == "step-00000003" and (found.checkpoint.tensors["ema"]["w"] == 3).all()
    err = capsys.readouterr().err
    assert (
        err.startswith("note: checkpoint ") and err.endswith("going on from step-00000003\n") and err.count("\n") == 1
    )
    with pytest.raises(CheckpointError, match="is damaged: ema"):
        trained_checkpoint(shelf.path / "step-00000002", ("ema",))  # asked for by name: no other will do


def test_what_is_not_wanted_is_not_verified(shelf: Shelf) -> None:
    save(shelf, 2)
    (shelf.path / "step-00000002" / "model.safetensors").write_bytes(b"")
    assert set(shelf.load("best", ("ema",)).checkpoint.tensors) == {"ema"}
    with pytest.raises(CheckpointError, match="no checkpoint that is whole"):
        shelf.load("best")


def test_a_pointer_names_the_sum_of_the_manifest(shelf: Shelf) -> None:
    import hashlib

    save(shelf, 2)
    manifest = (shelf.path / "step-00000002" / "manifest.json").read_bytes()
    content = json.loads((shelf.path / "last").read_text())
    assert content == {"last": "step-00000002", "manifest": hashlib.sha256(manifest).hexdigest()}
