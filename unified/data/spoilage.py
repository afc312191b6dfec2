# SPDX-License-Identifier: Apache-2.0
"""Pictures that cannot be read: what takes their place, and how many of them are too many."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from unified.contracts.errors import DataError

MOST: Final = 0.05
"""The share of a dataset's pictures that may be unreadable before a run stops."""

_TRIES: Final = 64  # stand-ins asked before a picture is given up
_NAMED: Final = 3  # pictures that a summary names


@dataclass(frozen=True)
class Spoiled:
    """A record whose picture cannot be used, and why, in one line."""

    dataset: str
    index: int
    reason: str


def stand_ins(dataset: str, index: int, count: int) -> Iterator[int]:
    """Which images of a dataset take an unreadable one's place, the next if the first is unreadable too.

    Spread over the dataset: unreadable pictures often come in rows, and no single image should stand for all of a row.
    """
    rng = np.random.default_rng([zlib.crc32(dataset.encode()), index])
    yield from rng.integers(count, size=min(_TRIES, 8 * count)).tolist()


class Spoilage:
    """The unreadable pictures met so far, each once.

    Args:
        sizes: images of every dataset.
        most: the share of a dataset that may be unreadable, rounded up to whole pictures; 0: none.
        tell: called with every picture when it is met first.
    """

    def __init__(
        self, sizes: Mapping[str, int], most: float = MOST, tell: Callable[[Spoiled], None] | None = None
    ) -> None:
        self.sizes, self.most, self.tell = dict(sizes), most, tell
        self.found: dict[tuple[str, int], Spoiled] = {}

    def __len__(self) -> int:
        return len(self.found)

    def add(self, met: Iterable[Spoiled]) -> None:
        """Counts what was met.

        Raises:
            DataError: it is too much of a dataset.
        """
        for each in met:
            if (each.dataset, each.index) not in self.found:
                self.found[each.dataset, each.index] = each
                if self.tell is not None:
                    self.tell(each)
                self._check(each.dataset)

    def _check(self, dataset: str) -> None:
        reasons = self._reasons(dataset)
        total = self.sizes[dataset]
        if len(reasons) > math.ceil(self.most * total):
            raise DataError(
                f"dataset '{dataset}': {len(reasons)} of its {total} pictures cannot be used, more than "
                f"{100 * self.most:g} %; the first: {reasons[0]}; run unified-lint on the data file"
            )

    def _reasons(self, dataset: str) -> list[str]:
        return [each.reason for each in self.found.values() if each.dataset == dataset]

    def lines(self) -> list[str]:
        """One line for every dataset with unreadable pictures: how many, and the first of them."""
        lines = []
        for dataset in dict.fromkeys(name for name, _ in self.found):
            reasons = self._reasons(dataset)
            more = f"; and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
            lines.append(
                f"dataset '{dataset}': {len(reasons)} of {self.sizes[dataset]} pictures could not be used: "
                + "; ".join(reasons[:_NAMED])
                + more
            )
        return lines
