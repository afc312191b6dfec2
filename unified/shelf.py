# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run, one folder a step, and what ``last`` and ``best`` point to.

A pointer names a checkpoint and the SHA-256 of its manifest, which holds those of all its files: nothing that is
reached through a pointer can have changed unnoticed. Where something has, the newest checkpoint that is whole is taken.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from unified.checkpoint import Checkpoint, load_checkpoint, place_checkpoint
from unified.contracts.errors import CheckpointError
from unified.disk import NEW, clear, make_folder, read_regular, reason, remove, replace_file
from unified.manifest import digest_of

Pointer = Literal["last", "best"]
Say = Callable[[str], object]  # takes one line for a person

POINTERS: Final[tuple[Pointer, ...]] = ("best", "last")  # in this order: a kill between leaves the older run as it was
_STEP: Final = re.compile(r"step-(\d{8,})(?:\.(\d+))?")
_MOST: Final = 4096  # bytes of a pointer; ours have about 130


def tell(line: str) -> None:
    """A line for whoever started the process."""
    print(f"note: {line}", file=sys.stderr)


@dataclass(frozen=True)
class Shelved:
    """A checkpoint and the folder it was read from."""

    folder: Path
    checkpoint: Checkpoint


class Shelf:
    """A folder of checkpoints ``step-N``, of which the newest and the best are kept.

    Args:
        path: the folder; made by the first save.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, step: int, checkpoint: Checkpoint, best: bool, keep_last: int) -> Path:
        """Writes a checkpoint, moves the pointers once it is on the disk, then removes what is no longer needed.

        Raises:
            CheckpointError: there is no room, or the disk cannot be written; what was good before still is.
        """
        name = f"step-{step:08d}"
        try:
            make_folder(self.path)
            self._tidy()
            folder = self._unused(step)
            digest = place_checkpoint(folder, checkpoint)
            for pointer in POINTERS:
                if pointer == "last" or best or self._lacks(pointer):
                    replace_file(self.path / pointer, _written(pointer, folder.name, digest))
        except OSError as error:
            raise self._unsaved(name, error) from error
        self._sweep(folder, keep_last)
        return folder

    def _unsaved(self, name: str, error: OSError) -> CheckpointError:
        last = self.pointed("last")
        left = f"{last.name} is still there" if last else "there is none before it"
        return CheckpointError(f"checkpoint {name} could not be saved: {reason(self.path, error)}; {left}")

    def _unused(self, step: int) -> Path:
        """A step saved twice gets a second folder: what the pointers name is never touched."""
        taken = [_place(each)[1] for each in self.path.iterdir() if _place(each)[0] == step]
        name = f"step-{step:08d}"
        return self.path / (f"{name}.{max(taken) + 1}" if taken else name)

    def _tidy(self) -> None:
        """Removes what a killed process left unfinished."""
        for stale in [each for each in self.path.iterdir() if each.name.startswith(NEW)]:
            if stale.is_dir() and not stale.is_symlink():
                clear(stale)
            else:
                stale.unlink(missing_ok=True)

    def _sweep(self, saved: Path, keep_last: int) -> None:
        """Keeps the newest up to the one just saved, and the best.

        What is of a later step, or is an older copy of the same one, is of a course that was left: a damaged checkpoint
        from before which this run went on.
        """
        order = self.steps()
        behind = [each for each in order if _place(each)[0] < _place(saved)[0]]
        try:
            best = self.path / (_read("best", read_regular(self.path / "best", _MOST))[0] or saved)
        except OSError:  # until it can be read again, any might be the best
            return
        for folder in order:
            if folder not in (saved, best, *behind[: max(keep_last, 1) - 1]):
                remove(folder)

    def steps(self) -> list[Path]:
        """Every checkpoint's folder, the newest first, whole or not."""
        try:
            found = [each for each in self.path.iterdir() if _STEP.fullmatch(each.name)]
        except OSError:
            return []
        return sorted(found, key=_place, reverse=True)

    def pointed(self, pointer: Pointer) -> Path | None:
        """The checkpoint that a pointer names; None where there is none or either is damaged."""
        try:
            return self._target(pointer)
        except (CheckpointError, OSError):
            return None

    def _lacks(self, pointer: Pointer) -> bool:
        """Whether a pointer must be written anew; one that only cannot be read at the moment is an OSError."""
        try:
            self._target(pointer)
        except (CheckpointError, FileNotFoundError):
            return True
        return False

    def _target(self, pointer: Pointer) -> Path:
        """The folder that a pointer names, if its manifest is the one that was meant.

        Raises:
            CheckpointError: the pointer or the manifest is damaged.
            OSError: one of them cannot be read.
        """
        name, digest = _read(pointer, read_regular(self.path / pointer, _MOST))
        if name is None:
            raise CheckpointError(f"pointer '{self.path / pointer}' is damaged")
        folder = self.path / name
        if digest not in (None, digest_of(folder)):
            raise CheckpointError(f"pointer '{self.path / pointer}' and {name} do not belong together: one is damaged")
        return folder

    def load(self, pointer: Pointer, parts: tuple[str, ...] | None = None, say: Say = tell) -> Shelved:
        """The last or best checkpoint, verified; where it is damaged, the best of what is whole, which is said.

        Args:
            pointer: ``last``, after which the newest that is whole is tried; or ``best``, after which ``last`` is.
            parts: the tensors that are wanted; by default all. Only these and the state are verified.
            say: takes the line that tells of a damaged one.

        Raises:
            CheckpointError: there is none yet, or none is whole.
        """
        faults: list[str] = []
        for folder in self._candidates(pointer, faults):
            try:
                found = Shelved(folder, load_checkpoint(folder, parts, name=folder.name))
            except CheckpointError as error:
                faults.append(str(error))
                continue
            if faults:
                say(f"{_first(faults)}; going on from {folder.name}")
            return found
        if not self.steps():
            raise CheckpointError(f"run '{self.path.parent}' has no checkpoint yet")
        raise CheckpointError(f"run '{self.path.parent}' has no checkpoint that is whole: {_first(faults)}")

    def _candidates(self, pointer: Pointer, faults: list[str]) -> Iterator[Path]:
        """Folders to try, each once; why one of the pointers cannot be followed is added to ``faults``."""
        met = set[Path]()
        for name in dict.fromkeys((pointer, "last")):
            try:
                folder = self._target(name)
            except CheckpointError as error:
                faults.append(str(error))
                continue
            except OSError as error:
                faults.append(f"'{error.filename or self.path / name}' cannot be read ({error.strerror})")
                continue
            if folder not in met:
                met.add(folder)
                yield folder
        yield from (folder for folder in self.steps() if folder not in met)


def _place(folder: Path) -> tuple[int, int]:
    """Step and number of a checkpoint's folder, by which they are ordered."""
    found = _STEP.fullmatch(folder.name)
    return (int(found[1]), int(found[2] or 1)) if found else (-1, 0)


def _written(pointer: Pointer, name: str, digest: str) -> bytes:
    return (json.dumps({pointer: name, "manifest": digest}) + "\n").encode()


def _read(pointer: Pointer, data: bytes) -> tuple[str | None, str | None]:
    """Name and manifest's sum of what a pointer points to; a name alone is how format 1 wrote it."""
    text = data.decode("ascii", errors="replace")
    if _STEP.fullmatch(text.strip()):
        return text.strip(), None
    try:
        content = json.loads(text)
        name, digest = str(content[pointer]), str(content["manifest"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, None
    whole = _STEP.fullmatch(name) and _written(pointer, name, digest) == data
    return (name, digest) if whole else (None, None)


def _first(faults: list[str]) -> str:
    return faults[0] + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")
