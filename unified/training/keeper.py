# SPDX-License-Identifier: Apache-2.0
"""Saves a run's checkpoints beside the training: copied in the step, written by a thread.

At most one save is being written. One that is due by steps or minutes meanwhile is put off until the writer is free,
so it never holds up a step; one that was asked for by name (at an evaluation, at the end) waits for its turn.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

import torch
from torch import Tensor

from unified.checkpoint import Checkpoint
from unified.contracts.errors import CheckpointError
from unified.shelf import Say, tell
from unified.training.folder import RunFolder

SHARE: Final = 0.05  # of the time that saving by the clock may cost

Tensors = Mapping[str, Mapping[str, Tensor]]


@dataclass
class Cost:
    """What saving has taken so far, in seconds."""

    saves: int = 0
    held_up: float = 0.0  # the training, by copying and waiting
    last_held_up: float = 0.0  # of it, by the last save
    writing: float = 0.0  # the thread, from copy to disk
    last_processor: float = 0.0  # of the thread's time, what it took from other threads at the last save


@dataclass
class Snapshot:
    """A copy of a checkpoint in host memory, whose tensors are used again for the next copy."""

    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def take(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint as it is now; neither tensors nor state follow what happens to the original."""
        kept = self.tensors
        self.tensors = {
            part: {name: _like(tensor, kept.get(part, {}).get(name)) for name, tensor in tensors.items()}
            for part, tensors in checkpoint.tensors.items()
        }
        on_device = False
        for part, tensors in checkpoint.tensors.items():
            for name, tensor in tensors.items():
                self.tensors[part][name].copy_(tensor.detach(), non_blocking=tensor.is_cuda)
                on_device |= tensor.is_cuda
        state = json.loads(json.dumps(checkpoint.state, allow_nan=False))
        if on_device:
            torch.cuda.synchronize()
        return Checkpoint(self.tensors, state)


def _like(tensor: Tensor, kept: Tensor | None) -> Tensor:
    """Host memory for a copy, locked in its place where a GPU writes into it."""
    if kept is not None and kept.shape == tensor.shape and kept.dtype == tensor.dtype:
        return kept
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)


class Keeper:
    """Keeps the checkpoints of a run. To be used by one thread, and closed however the run ends.

    Args:
        folder: the run's.
        every: steps between saves; None for none by steps. Obeyed as it is.
        minutes: between saves; 0 for none by the clock. Where a save costs more than 5 % of that time, the time is
            stretched until it does not.
        keep_last: how many of the newest checkpoints stay, beside the best.
        say: takes a line for a person, such as that of a disk that is full.
        clock: seconds.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        every: int | None = None,
        minutes: float = 5.0,
        keep_last: int = 2,
        say: Say = tell,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.every, self.minutes, self.keep_last, self.say = folder, every, minutes, keep_last, say
        self.acknowledged: int | None = None  # newest step that is surely on the disk
        self.cost = Cost()
        self._clock, self._since, self._step = clock, clock(), 0
        self._copy = Snapshot()
        self._thread: threading.Thread | None = None
        self._fault: BaseException | None = None  # of the newest save, if it failed
        self._told = True

    @property
    def busy(self) -> bool:
        """Whether a save is being written."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def interval(self) -> float:
        """Seconds between saves by the clock."""
        return max(60 * self.minutes, (self.cost.last_held_up + self.cost.last_processor) / SHARE)

    def due(self, step: int) -> bool:
        """Whether a save by steps or by the clock should be made now; not while one is being written."""
        by_steps = self.every is not None and step // self.every > self._step // self.every
        by_clock = self.minutes > 0 and self._clock() - self._since >= self.interval
        return (by_steps or by_clock) and not self.busy

    def offer(self, step: int, checkpoint: Checkpoint) -> bool:
        """A save at an interval: copied now, written meanwhile. Returns False, and does nothing, if one is written."""
        if self.busy:
            return False
        self.save(step, checkpoint)
        return True

    def save(self, step: int, checkpoint: Checkpoint, best: bool = False, wait: bool = False) -> None:
        """A save that must be made: waits for the one being written, copies, and writes meanwhile.

        Args:
            step: optimizer steps done.
            checkpoint: everything; it may change as soon as this returns.
            best: whether it is the best so far.
            wait: return when it is on the disk.

        Raises:
            CheckpointError: with ``wait``, it could not be saved.
            ValueError: the state is no JSON.
        """
        start = self._clock()
        self._join()
        self.check()
        copy = self._copy.take(checkpoint)
        self._fault, self._told = None, True
        self._thread = threading.Thread(target=self._write, args=(step, copy, best), name="unified-save", daemon=True)
        self._thread.start()
        if wait:
            self._join()
        self._step, self._since = step, self._clock()
        self.cost.saves += 1
        self.cost.last_held_up = self._since - start
        self.cost.held_up += self.cost.last_held_up
        if wait:
            self._raise()

    def _write(self, step: int, checkpoint: Checkpoint, best: bool) -> None:
        start, processor = self._clock(), time.thread_time()
        try:
            self.folder.save(step, checkpoint, best, self.keep_last)
            self.acknowledged = step
        except BaseException as error:  # whatever it is belongs to the one who trains
            self._fault, self._told = error, False
        self.cost.writing += self._clock() - start
        self.cost.last_processor = time.thread_time() - processor

    def check(self) -> None:
        """Tells of a save that failed meanwhile. The training goes on; the next save is tried as planned.

        Raises:
            BaseException: what no full or broken disk explains.
        """
        if self._told or self.busy or self._fault is None:
            return
        self._told = True
        if not isinstance(self._fault, CheckpointError):
            raise self._fault
        self.say(f"{self._fault}; the training goes on")

    def wait(self) -> None:
        """Returns when nothing is being written.

        Raises:
            CheckpointError: the newest save failed.
        """
        self._join()
        self._raise()

    def close(self) -> None:
        """Waits for the writer. May be called more than once.

        Raises:
            CheckpointError: the newest save failed, so the last steps are not on the disk.
        """
        self.wait()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _raise(self) -> None:
        fault, self._told = self._fault, True
        if fault is not None:
            self._fault = None
            raise fault

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except CheckpointError as fault:
            if error is None:
                raise
            self.say(str(fault))
