# SPDX-License-Identifier: Apache-2.0
"""The batches of one step, kept until it is through."""

from __future__ import annotations

import time
from collections.abc import Iterator

from unified.contracts.structures import Batch


class Serving:
    """Takes batches from a stream as they are needed, and gives the same ones again when asked again.

    Args:
        batches: the stream.
        count: how many make the step.
    """

    def __init__(self, batches: Iterator[Batch], count: int) -> None:
        self.batches, self.count = batches, count
        self.kept: list[Batch] = []
        self.wait = 0.0  # seconds until they came

    def __iter__(self) -> Iterator[Batch]:
        for k in range(self.count):
            if k == len(self.kept):
                start = time.monotonic()
                self.kept.append(next(self.batches))
                self.wait += time.monotonic() - start
            yield self.kept[k]

    @property
    def tasks(self) -> set[str]:
        """The tasks that were served."""
        return {task for batch in self.kept for task in batch.tasks}

    @property
    def images(self) -> int:
        """Images of this rank."""
        return sum(map(len, self.kept))

    @property
    def largest(self) -> int:
        """Images of the largest batch."""
        return max(map(len, self.kept), default=0)
