# SPDX-License-Identifier: Apache-2.0
"""Watches data workers: which image each of them has in hand, and what became of one that died or hangs."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from types import FrameType
from typing import Any, Final

from torch.utils.data import get_worker_info

from unified.contracts.errors import DataError
from unified.data.source import Source

OURS: Final = (signal.SIGINT, signal.SIGTERM)  # signals that are for the process that trains
_WIDE: Final = 3  # numbers a worker: its process, the dataset's place among all, the image; counted from 1
_PIDS: Final = re.compile(r"pid(?:\(s\))? ([\d, ]+)")
_ADVICE: Final = "memory may be short, or a script has no __main__ guard: try fewer workers, or workers: 0"


class Watch:
    """A few numbers that workers write and the process that waits for them reads.

    Args:
        workers: how many there will be.
        context: that will start them.
    """

    def __init__(self, workers: int, context: BaseContext) -> None:
        self.workers = workers
        self._posts: Any = context.RawArray("q", _WIDE * workers)
        self.rang = False  # whether workers were killed because they let somebody wait for too long

    def hold(self, dataset: int, index: int) -> None:
        """This worker takes an image in hand: of the ``dataset``-th dataset, counted from 0."""
        if (worker := get_worker_info()) is not None:
            first = _WIDE * worker.id
            self._posts[first : first + _WIDE] = [os.getpid(), dataset + 1, index + 1]

    def rest(self) -> None:
        """This worker has nothing in hand."""
        if (worker := get_worker_info()) is not None:
            self._posts[_WIDE * worker.id + 1] = 0

    def died(self, error: Exception, sources: Mapping[str, Source]) -> DataError:
        """The error of workers that ended without a word."""
        found = _PIDS.search(str(error))
        told = [int(pid) for pid in found[1].split(",") if pid.strip()] if found else []
        pids = told or self._fallen()
        reason = (str(error).splitlines() or ["one ended while it sent a batch"])[0]
        held = "; ".join(self._held(sources, pids)) or reason
        return DataError(f"a data worker died: {held}; {_ADVICE}")

    def _fallen(self, patience: float = 2.0) -> list[int]:
        """Workers that are no more. One that broke a connection may take a moment to be gone."""
        end = time.monotonic() + patience
        while not (gone := [pid for pid in self._pids() if _gone(pid)]) and time.monotonic() < end:
            time.sleep(0.02)
        return gone

    def hangs(self, seconds: float, sources: Mapping[str, Source]) -> DataError:
        """The error of workers that say nothing for so long; they are killed, or nobody could wait for their end."""
        held = "; ".join(self._held(sources)) or "none of them has an image in hand"
        self.kill()
        return DataError(
            f"the data workers gave no batch for {seconds:g} s: {held}; is the storage slow? raise worker_timeout, "
            "or try workers: 0"
        )

    def kill(self) -> None:
        """Ends all workers, those too that are stopped."""
        for pid in self._pids():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    @contextlib.contextmanager
    def alarm(self, seconds: Callable[[], float]) -> Iterator[Callable[[float | None], None]]:
        """Kills workers that let somebody wait for longer, who is then told by an error of the connection.

        A queue's own time limit does not cover the memory that it shares: that is fetched from the worker that made it,
        and one that stands still never answers.

        Yields:
            What is to be told when waiting begins, by ``time.monotonic()``, and with None when it ends.
        """
        since: list[float | None] = [None]
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.5):
                if since[0] is not None and time.monotonic() - since[0] > seconds():
                    self.rang = True
                    self.kill()

        threading.Thread(target=look, name="unified-watch", daemon=True).start()
        try:
            yield lambda moment: since.__setitem__(0, moment)
        finally:
            over.set()

    def _pids(self) -> list[int]:
        return [pid for k in range(self.workers) if (pid := self._posts[_WIDE * k])]

    def _held(self, sources: Mapping[str, Source], pids: Sequence[int] = ()) -> list[str]:
        """What workers have in hand; of those with ``pids`` only, where some are given."""
        names, told = list(sources), []
        for k in range(self.workers):
            pid, dataset, index = self._posts[_WIDE * k : _WIDE * (k + 1)]
            if pids and pid not in pids:
                continue
            if dataset:
                name = names[dataset - 1]
                told.append(f"worker {k} (process {pid}) at image '{sources[name].image_id(index - 1)}' of '{name}'")
            elif pids:
                told.append(f"worker {k} (process {pid}) between two batches")
        return told


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return True
    return False


@contextlib.contextmanager
def sheltered() -> Iterator[None]:
    """Processes that are started within are born deaf to Ctrl-C and SIGTERM, until :func:`stand_by` has them listen.

    A signal that meets one in between waits for it. Python's tracker of shared memory is started first: it would undo
    this for the thread that starts it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OURS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stand_by(worker: int) -> None:
    """Signals to all processes of a run are for the one that trains: it finishes its step, and needs its data for that.

    A second SIGTERM ends the worker, or nobody could.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _once)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OURS)


def _once(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
