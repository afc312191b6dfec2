# SPDX-License-Identifier: Apache-2.0
"""The fixed table of identities: who an object is, beyond what class it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from .outline import CLASSES
from .surface import COVERAGE, PATTERNS

Rgb = tuple[int, int, int]

COLOURS: Final[dict[str, Rgb]] = {
    "red": (216, 36, 40),
    "orange": (246, 128, 24),
    "yellow": (250, 214, 44),
    "green": (48, 158, 62),
    "teal": (24, 176, 172),
    "blue": (38, 88, 214),
    "purple": (128, 56, 178),
    "pink": (246, 124, 186),
    "white": (246, 246, 242),
    "black": (30, 30, 36),
    "brown": (122, 72, 36),
}
"""Paint colours by name, RGB 0..255."""

PER_CLASS: Final = 8
_TABLE_SEED: Final = 20240611
_CONTRAST: Final = 130.0  # the least RGB distance between an identity's two colours


@dataclass(frozen=True)
class Identity:
    """One recurring object: a class, a surface pattern and two colours.

    `index` is its number in `IDENTITIES`, `label` its class number; `first` and `second` name entries of `COLOURS`.
    """

    index: int
    label: int
    pattern: str
    first: str
    second: str

    @property
    def shape(self) -> str:
        """The class name."""
        return CLASSES[self.label]

    @property
    def name(self) -> str:
        """A unique, stable name such as `star-striped-red-white`."""
        return f"{self.shape}-{self.pattern}-{self.first}-{self.second}"

    @property
    def phrase(self) -> str:
        """Adjectives for a caption: `red-and-white striped` (a plain surface has only its first colour)."""
        if self.pattern == "plain":
            return f"plain {self.first}"
        return f"{self.first}-and-{self.second} {self.pattern}"

    @property
    def colours(self) -> tuple[Rgb, Rgb]:
        """Both colours as RGB 0..255."""
        return COLOURS[self.first], COLOURS[self.second]


Paint = tuple[str, str, str]


def _rgb(name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array(COLOURS[name], dtype=np.float64)


def _gap(a: Paint, b: Paint) -> float:
    """How far apart two paints look: the smaller of their mean colours' gap and their first colours' gap counts."""
    mean_a = _rgb(a[1]) + COVERAGE[a[0]] * (_rgb(a[2]) - _rgb(a[1]))
    mean_b = _rgb(b[1]) + COVERAGE[b[0]] * (_rgb(b[2]) - _rgb(b[1]))
    mean = float(np.linalg.norm(mean_a - mean_b))
    return mean + 0.3 * min(mean, float(np.linalg.norm(_rgb(a[1]) - _rgb(b[1]))))


def _pick(rng: np.random.Generator) -> list[Paint]:
    """Greedily choose paints far from each other; no two share a pattern or a first colour."""
    every = [
        (pattern, first, second)
        for pattern in PATTERNS
        for first in COLOURS
        for second in COLOURS
        if np.linalg.norm(_rgb(first) - _rgb(second)) >= _CONTRAST
    ]
    chosen = [every[int(rng.integers(len(every)))]]
    while len(chosen) < PER_CLASS:
        patterns, firsts = {p[0] for p in chosen}, {p[1] for p in chosen}
        seconds = [p[2] for p in chosen]
        free = [p for p in every if p[0] not in patterns and p[1] not in firsts and seconds.count(p[2]) < 2]
        sample = [free[int(k)] for k in rng.permutation(len(free))[:80]]
        chosen.append(max(sample, key=lambda paint: min(_gap(paint, other) for other in chosen)))
    return chosen


def _table() -> tuple[Identity, ...]:
    rng = np.random.default_rng(_TABLE_SEED)
    rows = [(label, paint) for label in range(len(CLASSES)) for paint in _pick(rng)]
    return tuple(Identity(index, label, *paint) for index, (label, paint) in enumerate(rows))


IDENTITIES: Final[tuple[Identity, ...]] = _table()
"""All identities; the same for every seed, split, level and size."""
