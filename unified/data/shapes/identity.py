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


class _Paints:
    """Every paint of enough contrast, and how far apart any two of them look."""

    def __init__(self) -> None:
        rgb = {name: np.array(colour, dtype=np.float64) for name, colour in COLOURS.items()}
        pairs = [(a, b) for a in COLOURS for b in COLOURS if np.linalg.norm(rgb[a] - rgb[b]) >= _CONTRAST]
        self.every: list[Paint] = [(pattern, a, b) for pattern in PATTERNS for a, b in pairs]
        self.first = np.stack([rgb[a] for _, a, _ in self.every])
        mean = [rgb[a] + COVERAGE[pattern] * (rgb[b] - rgb[a]) for pattern, a, b in self.every]
        self.mean = np.stack(mean)

    def gaps(self, some: list[int], others: list[int]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """(S, O): the smaller of the gaps of mean and of first colours counts."""
        mean, first = (np.linalg.norm(x[some][:, None] - x[others], axis=-1) for x in (self.mean, self.first))
        found: np.ndarray[tuple[int, int], np.dtype[np.float64]] = mean + 0.3 * np.minimum(mean, first)
        return found


def _pick(rng: np.random.Generator, paints: _Paints) -> list[Paint]:
    """Greedily choose paints far from each other; no two share a pattern or a first colour."""
    every = paints.every
    chosen = [int(rng.integers(len(every)))]
    while len(chosen) < PER_CLASS:
        patterns, firsts, seconds = ([every[k][part] for k in chosen] for part in range(3))
        free = [
            k
            for k, (pattern, first, second) in enumerate(every)
            if pattern not in patterns and first not in firsts and seconds.count(second) < 2
        ]
        sample = [free[int(k)] for k in rng.permutation(len(free))[:80]]
        chosen.append(sample[int(paints.gaps(sample, chosen).min(axis=1).argmax())])
    return [every[k] for k in chosen]


def _table() -> tuple[Identity, ...]:
    rng, paints = np.random.default_rng(_TABLE_SEED), _Paints()
    rows = [(label, paint) for label in range(len(CLASSES)) for paint in _pick(rng, paints)]
    return tuple(Identity(index, label, *paint) for index, (label, paint) in enumerate(rows))


IDENTITIES: Final[tuple[Identity, ...]] = _table()
"""All identities; the same for every seed, split, level and size."""
