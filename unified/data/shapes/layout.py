# SPDX-License-Identifier: Apache-2.0
"""Where objects go, and the record of who covers whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .canvas import overlap
from .level import Level

Point = tuple[float, float]
Proposer = Callable[[np.random.Generator], Point]
TRIES: Final = 14
"""Places tried for one object before it is left out."""


class Stage:
    """The objects placed so far in a picture of side `size`; `ids[y, x]` is the topmost object's number, -1 for none.

    A place is refused when it would leave any object, new or old, with less in sight than the level allows.
    """

    def __init__(self, size: int, level: Level) -> None:
        self.size, self.level = size, level
        self.ids: NDArray[np.int8] = np.full((size, size), -1, dtype=np.int8)
        self.centres: list[Point] = []
        self._areas: list[int] = []
        self._seen: list[int] = []

    def place(self, solid: NDArray[np.bool_], area: int, x: int, y: int) -> bool:
        """Put a patch's solid pixels with its middle at (x, y) if the level allows it; say whether it did."""
        half = solid.shape[0] // 2
        windows = overlap(self.size, solid.shape, x - half, y - half)
        if windows is None:
            return False
        there, here = windows
        part, below = solid[here], self.ids[there]
        inside = int(np.count_nonzero(part))
        if inside < max(self.level.inside, self.level.visible) * area:
            return False
        hidden = np.bincount(below[part] + 1, minlength=len(self._areas) + 1)[1:]
        left = np.array(self._seen, dtype=np.int64) - hidden
        if np.any(left < self.level.visible * np.array(self._areas, dtype=np.int64)):
            return False
        below[part] = len(self._areas)
        self._seen = [int(k) for k in left] + [inside]
        self._areas.append(area)
        self.centres.append((x / self.size, y / self.size))
        return True


def uniform(rng: np.random.Generator) -> Point:
    """Anywhere in the picture."""
    x, y = rng.uniform(0.02, 0.98, 2)
    return float(x), float(y)


def clusters(rng: np.random.Generator) -> Proposer:
    """Around one to three random centres."""
    middles = rng.uniform(0.2, 0.8, (int(rng.integers(1, 4)), 2))
    spread = rng.uniform(0.14, 0.26)

    def propose(rng: np.random.Generator) -> Point:
        x, y = np.clip(middles[int(rng.integers(len(middles)))] + rng.normal(0, spread, 2), 0, 1)
        return float(x), float(y)

    return propose


def jittered(rng: np.random.Generator) -> Proposer:
    """On the cells of a loose grid, slightly off their middles."""
    cells = int(rng.integers(2, 5))
    offset = rng.uniform(-0.06, 0.06, 2)

    def propose(rng: np.random.Generator) -> Point:
        x, y = (rng.integers(0, cells, 2) + 0.5 + rng.uniform(-0.28, 0.28, 2)) / cells + offset
        return float(np.clip(x, 0, 1)), float(np.clip(y, 0, 1))

    return propose


def proposer(rng: np.random.Generator, split: str) -> Proposer:
    """The split's way of choosing places: uniform for `train`, clusters or a jittered grid for `val`."""
    if split == "train":
        return uniform
    return clusters(rng) if rng.random() < 0.5 else jittered(rng)


def beside(rng: np.random.Generator, stage: Stage, radius: float) -> Point:
    """A place close enough to a random earlier object to touch or cover it; `radius` in pixels."""
    x, y = stage.centres[int(rng.integers(len(stage.centres)))]
    angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.7) * radius / stage.size
    return x + float(np.cos(angle)) * float(reach), y + float(np.sin(angle)) * float(reach)
