# SPDX-License-Identifier: Apache-2.0
"""Hostile files in the place of every file that is read, by every way that reads it: none runs anything."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import Watch, payloads, run_blindly
from house import Slot, a_run, house
from tally import Tally

from unified.contracts.errors import UnifiedError

LONGEST = 60  # seconds for one load, after which it counts as hanging


class HangsError(Exception):
    """A load did not end."""


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    def end(*_: object) -> None:
        raise HangsError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(slot: Slot, name: str, watch: Watch, ends: Counter[str]) -> str:
    """Loads once: what was run, or that it hung; empty where neither."""
    with watch.listening() as seen:
        try:
            with limited(LONGEST):
                slot.loads[name]()
            ends["taken or ignored"] += 1
        except UnifiedError:
            ends["refused in one line"] += 1
        except HangsError:
            seen.append(f"no end after {LONGEST} s")
        except Exception as error:
            ends["refused otherwise"] += 1
            ends[f"({slot.file.name} by {name}: {type(error).__name__}: {str(error).strip()[:90]})"] += 1
    return "; ".join(seen[:3])


def test_no_hostile_file_runs_anything(tally: Tally, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"
    hostile, watch, ends = payloads(canary), Watch.over(canary), Counter[str]()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path / "cache"))
    slots, dice = house(tmp_path), random.Random(2)
    everything = [(slot, name, load) for slot in slots for name in hostile for load in slot.loads]
    ways = len({(slot.file, load) for slot, _, load in everything})
    tally.begin("hostile files", f"{len(hostile)} files in {len(slots)} places, read by {ways} ways: executions")
    some = everything if tally.scale >= 1 else dice.sample(everything, tally.count(len(everything), share=150))
    for slot, name, load in sorted(some, key=lambda each: str(each[0].file)):
        kept = {path: path.read_bytes() for path in slot.file.parent.iterdir() if path.is_file()}
        pointers = {path: path.read_bytes() for path in slot.file.parent.parent.glob("*st") if path.is_file()}
        slot.file.write_bytes(hostile[name])
        slot.seal()
        ran = attempt(slot, load, watch, ends)
        tally.add(not ran, f"{name} as {slot.file.name}, by {load}: {ran}")
        for path, data in (kept | pointers).items():
            path.write_bytes(data)
    said = ("refused in one line", "refused otherwise", "taken or ignored")
    tally.note(", ".join(f"{ends[word]} {word}" for word in said))
    (tmp_path / "ends.txt").write_text("\n".join(f"{n} {text}" for text, n in ends.most_common()))
    blind(tally, hostile, canary)
    tally.verdict()


def blind(tally: Tally, hostile: dict[str, bytes], canary: Path) -> None:
    """The control: the same files opened as one must not, each in a process of its own."""
    for name, data in hostile.items():
        if not name.startswith(("pickle", "torch", "np", "yaml", "marshal", "python", "zip of")):
            continue
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                run_blindly(name, data)
            os._exit(0)
        os.waitpid(child, 0)
        tally.control(1, canary.exists(), "unpickled, unsafe_load, exec: the canary was made")
        canary.unlink(missing_ok=True)


def put_link(file: Path, to: str) -> None:
    file.unlink()
    file.symlink_to(to)


SPECIAL = {
    "a link to a device": lambda file: put_link(file, "/dev/zero"),
    "a link to a file of the system": lambda file: put_link(file, "/etc/passwd"),
    "a link to nowhere": lambda file: put_link(file, "nowhere"),
    "a link to itself": lambda file: put_link(file, file.name),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_plain_file_is_refused_at_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe would be waited for and a device read for ever."""
    monkeypatch.chdir(tmp_path)
    for slot in a_run(tmp_path)[:6]:
        kept = slot.file.read_bytes()
        SPECIAL[kind](slot.file)
        for name in ("load_checkpoint", "RunFolder.load", "Shelf.load, best"):
            with limited(LONGEST), contextlib.suppress(UnifiedError):
                slot.loads[name]()
                assert slot.file.name in ("last", "best", "model.safetensors"), f"{slot.file.name} was read by {name}"
                assert slot.file.name != "model.safetensors" or "best" in name
        slot.file.rmdir() if slot.file.is_dir() else slot.file.unlink()
        slot.file.write_bytes(kept)
