# SPDX-License-Identifier: Apache-2.0
"""A fault at every call by which a save touches the disk, one after the other: the last good checkpoint loads."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load, save
from specimen import same, specimen
from tally import Tally

from unified.contracts.errors import CheckpointError
from unified.disk import NEW
from unified.training.folder import RunFolder

CALLS = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir", "ftruncate", "truncate")
CALLS += ("scandir", "listdir", "stat", "lstat", "fstat", "read", "link", "symlink")
KINDS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EDQUOT": errno.EDQUOT, "EROFS": errno.EROFS}
Save = Callable[[Path, int], object]


class Disk:
    """Counts calls of ``os`` and lets one of them end otherwise.

    Args:
        at: the call, from 0; None lets all pass.
        end: what happens instead of the call, which is given to it.
    """

    def __init__(self, at: int | None = None, end: Callable[[Callable[[], Any]], Any] | None = None) -> None:
        self.at, self.end, self.made = at, end, list[str]()

    def wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*given: Any, **named: Any) -> Any:
            number = len(self.made)
            self.made.append(name)
            if number == self.at and self.end is not None:
                return self.end(lambda: call(*given, **named))
            return call(*given, **named)

        return instead

    @contextmanager
    def between(self) -> Iterator[Disk]:
        """The calls made in this context go through here."""
        kept = {name: getattr(os, name) for name in CALLS}
        try:
            for name, call in kept.items():
                setattr(os, name, self.wrapped(name, call))
            yield self
        finally:
            for name, value in kept.items():
                setattr(os, name, value)


def fails(number: int) -> Callable[[Callable[[], Any]], Any]:
    def end(call: Callable[[], Any]) -> Any:
        raise OSError(number, os.strerror(number))

    return end


def fails_after(number: int) -> Callable[[Callable[[], Any]], Any]:
    """The call was carried out, and yet it is said to have failed: a cable that broke on the way back."""

    def end(call: Callable[[], Any]) -> Any:
        call()
        raise OSError(number, os.strerror(number))

    return end


def dies(_: Callable[[], Any]) -> Any:
    os._exit(7)


def dies_after(call: Callable[[], Any]) -> Any:
    call()
    os._exit(7)


def save_well(place: Path, step: int) -> None:
    RunFolder(place, say=lambda line: None).save(step, specimen(step), best=step % 2 == 0, keep_last=1)


def save_plainly(place: Path, step: int) -> None:
    """The control: the file itself is opened and written."""
    handle = os.open(place / "last.safetensors", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    data = save(dict(specimen(step).tensors["ema"]))
    for start in range(0, len(data), 1024):
        os.write(handle, data[start : start + 1024])
    os.close(handle)


def calls_of(save: Save, place: Path) -> list[str]:
    """The calls that an undisturbed save makes."""
    place.mkdir(parents=True)
    for step in (1, 2):
        save(place, step)
    with Disk().between() as disk:
        save(place, 3)
    return disk.made


def attempt(save: Save, place: Path, at: int, end: Callable[[Callable[[], Any]], Any], dying: bool) -> tuple[bool, str]:
    """Saves steps 1 and 2 well and 3 with a fault: whether 3 was acknowledged, and an error nobody should see."""
    place.mkdir(parents=True)
    for step in (1, 2):
        save(place, step)
    if dying:
        child = os.fork()
        if child == 0:
            with Disk(at, end).between():
                save(place, 3)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) == 0, ""
    try:
        with Disk(at, end).between():
            save(place, 3)
    except CheckpointError as error:
        text = str(error)
        told = len(text.splitlines()) == 1 and str(place) in text and "bytes free" in text
        return False, "" if told else f"said: {text}"
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"
    return True, ""


def found(place: Path, acknowledged: bool, tidy: bool) -> str:
    """What is wrong after a fault; empty where all is well."""
    try:
        return _found(place, acknowledged, tidy)
    except CheckpointError as error:
        return str(error)


def _found(place: Path, acknowledged: bool, tidy: bool) -> str:
    lines: list[str] = []
    folder = RunFolder(place, say=lines.append)
    last, best = folder.load("last"), folder.load("best")
    if not (same(last, 3) or (same(last, 2) and not acknowledged)):
        return f"last is step {last.state['step']}"
    if not same(best, 2):
        return f"best is step {best.state['step']}"
    left = [each.name for each in folder.checkpoints.iterdir() if each.name.startswith(NEW)]
    if tidy and left:
        return f"{left[0]} was left behind"
    folder.save(4, specimen(4), best=False, keep_last=1)  # and the next save finds nothing in its way
    left = [each.name for each in folder.checkpoints.iterdir() if each.name.startswith(NEW)]
    return "; ".join(lines) or ("" if same(folder.load("last"), 4) and not left else "the next save fails")


CASES = [(name, fails(number), False) for name, number in KINDS.items()]
CASES += [("EIO though it was done", fails_after(errno.EIO), False)]
CASES += [("dies before", dies, True), ("dies after", dies_after, True)]


def test_a_fault_at_every_call_of_a_save(tally: Tally, memory: Path) -> None:
    tally.begin("fault at every I/O call of a save", "errors of four kinds, and death, before and after the call")
    made = calls_of(save_well, memory / "count")
    cases = CASES if tally.full else CASES[:1] + CASES[-1:]
    for name, end, dying in cases:
        for at, call in enumerate(made):
            place = memory / f"{name}-{at}"
            acknowledged, wrong = attempt(save_well, place, at, end, dying)
            wrong = wrong or found(place, acknowledged, tidy=not dying and not acknowledged)
            tally.add(not wrong, f"{name} at call {at} ({call}): {wrong}")
    tally.note(f"{len(made)} calls a save: " + ", ".join(f"{made.count(c)} {c}" for c in sorted(set(made))))
    blind(tally, memory)
    tally.verdict()


def blind(tally: Tally, memory: Path) -> None:
    for at, _ in enumerate(calls_of(save_plainly, memory / "plain")):
        place = memory / f"plain-{at}"
        acknowledged, _ = attempt(save_plainly, place, at, fails(errno.ENOSPC), dying=False)
        good = False
        with suppress(Exception):
            value = load((place / "last.safetensors").read_bytes())["weight"].unique().tolist()
            good = value == [3.0] or (value == [2.0] and not acknowledged)
        tally.control(1, not good, "one file written over its older self")


def test_everything_is_on_the_disk_before_it_is_shown(memory: Path) -> None:
    """A kill does not show what a power cut would: that every file, and every list of names, is synced in order."""
    made = list[tuple[str, str]]()
    names = dict[int, str]()
    kept = {name: getattr(os, name) for name in ("open", "fsync", "rename", "replace")}

    def opened(path: Any, *given: Any, **named: Any) -> int:
        handle = kept["open"](path, *given, **named)
        names[handle] = Path(str(path)).name
        return handle

    def synced(handle: int) -> None:
        made.append(("sync", names[handle]))
        kept["fsync"](handle)

    def moved(kind: str) -> Callable[..., None]:
        def move(a: Any, b: Any, **named: Any) -> None:
            made.append(("show", Path(b).name))
            kept[kind](a, b, **named)

        return move

    place = memory / "run"
    save_well(place, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", opened)
        patch.setattr(os, "fsync", synced)
        patch.setattr(os, "rename", moved("rename"))
        patch.setattr(os, "replace", moved("replace"))
        save_well(place, 4)
    shown = [(kind, name) for kind, name in made if not name.startswith(NEW + "gone")]
    files = [f"{part}.safetensors" for part in ("ema", "model", "optimizer")] + ["state.json", "manifest.json"]
    expected = [("sync", name) for name in [*files, "whole"]]
    expected += [("show", "step-00000004"), ("sync", "checkpoints")]
    for pointer in ("best", "last"):
        expected += [("sync", NEW + pointer), ("show", pointer), ("sync", "checkpoints")]
    assert [(kind, name.rsplit("-", 1)[0] if name.startswith(NEW) else name) for kind, name in shown] == expected
    assert not (place / "checkpoints" / "step-00000002").exists()
