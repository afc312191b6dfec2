# SPDX-License-Identifier: Apache-2.0
"""Dynamic batching: requests that come together go through the network together.

One thread makes the passes. The first picture of a pass waits a few milliseconds for others that ask for the same;
while a pass runs, those that come gather for the next one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
X = TypeVar("X")
Y = TypeVar("Y")

log = logging.getLogger("unified.serve")


@dataclass(frozen=True)
class Outcome(Generic[Y]):
    """One item's answer and what became of it on the way."""

    answer: Y
    batch: int  # items of its pass
    waited: float  # seconds until the pass began
    took: float  # seconds of the pass


@dataclass(eq=False)
class _Job(Generic[K, X, Y]):
    item: X
    key: K  # only jobs of one key share a pass
    future: Future[Outcome[Y]] = field(default_factory=Future)
    came: float = field(default_factory=time.monotonic)


class Batcher(Generic[K, X, Y]):
    """Runs items in batches on a thread of its own.

    Args:
        work: answers for a batch of items of one key, in their order.
        most: items of a batch.
        wait: seconds the first item of a batch waits for others.
        done: hears the size and the seconds of every pass.
    """

    def __init__(
        self,
        work: Callable[[K, Sequence[X]], Sequence[Y]],
        most: int,
        wait: float,
        done: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self.work, self.most, self.wait, self.done = work, most, wait, done
        self.seconds = 0.0  # of a pass, of late
        self._jobs: list[_Job[K, X, Y]] = []
        self._change = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="unified-batch", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def alive(self) -> bool:
        """Whether items are still taken and answered."""
        return self._thread.is_alive() and not self._closing

    def submit(self, key: K, item: X) -> Future[Outcome[Y]]:
        """Queues an item; a future that is cancelled before its pass is left out of it.

        Raises:
            RuntimeError: the batcher is closed.
        """
        job: _Job[K, X, Y] = _Job(item, key)
        with self._change:
            if self._closing:
                raise RuntimeError("closed")
            self._jobs.append(job)
            self._change.notify()
        return job.future

    def close(self) -> None:
        """Takes nothing more, answers what was taken, and ends its thread."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join()

    def _serve(self) -> None:
        while jobs := self._gather():
            running = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if running:
                self._run(running)

    def _gather(self) -> list[_Job[K, X, Y]]:
        """The next batch; empty once the batcher is closed and nothing is left."""
        with self._change:
            while not self._jobs and not self._closing:
                self._change.wait()
            if not self._jobs:
                return []
            first = self._jobs[0]
            while (left := first.came + self.wait - time.monotonic()) > 0 and not self._closing:
                if len(self._alike(first)) >= self.most:
                    break
                self._change.wait(left)
            batch = self._alike(first)[: self.most]
            self._jobs = [job for job in self._jobs if job not in batch]
            return batch

    def _alike(self, first: _Job[K, X, Y]) -> list[_Job[K, X, Y]]:
        return [job for job in self._jobs if job.key == first.key]

    def _run(self, jobs: list[_Job[K, X, Y]]) -> None:
        start = time.monotonic()
        try:
            answers = self.work(jobs[0].key, [job.item for job in jobs])
        except Exception as error:
            self._part(jobs, error)
            return
        took = time.monotonic() - start
        self.seconds = took if not self.seconds else 0.8 * self.seconds + 0.2 * took
        self.done(len(jobs), took)
        for job, answer in zip(jobs, answers, strict=True):
            job.future.set_result(Outcome(answer, len(jobs), start - job.came, took))

    def _part(self, jobs: list[_Job[K, X, Y]], error: Exception) -> None:
        """A batch failed: one bad item, or too little memory, must not cost its neighbours their answers."""
        if len(jobs) == 1:
            jobs[0].future.set_exception(error)
            return
        log.warning("a pass of %d pictures failed (%s); they are tried one by one", len(jobs), type(error).__name__)
        for job in jobs:
            self._run([job])
