# SPDX-License-Identifier: Apache-2.0
"""Difficulty: everything that makes a scene easier or harder to read, as one named value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Span = tuple[float, float]
REFERENCE: Final = 160
"""The picture side, in pixels, that a level's pixel figures refer to; other sizes scale in proportion."""


@dataclass(frozen=True)
class Level:
    """A named difficulty.  Spans are (low, high); lengths are pixels in a picture of side `REFERENCE`."""

    name: str
    diameter: Span
    """An object's full diameter, drawn log-uniformly."""
    few: tuple[int, int]
    """Object count of a scene that is not crowded."""
    many: tuple[int, int]
    """Object count aimed at in a crowded scene."""
    crowding: float
    """Share of scenes that are crowded."""
    turn: float
    """Most that an object is turned from upright, either way, in degrees; 180 is any way round."""
    overlap: float
    """Chance that an object is put on purpose beside or over an earlier one."""
    visible: float
    """Least share of an object's whole area that stays in sight, after occlusion and truncation."""
    inside: float
    """Least share of an object's whole area that lies inside the picture."""
    clutter: tuple[int, int]
    """Number of unlabelled distractors."""
    fade: float
    """Most that an object's colours may fade towards the ground's grey, 0..1."""
    exposure: Span
    """Brightness gain in ordinary light."""
    dark: Span
    """Brightness gain in a `dark` scene; well below `exposure`."""
    tint: Span
    """Strength of the colour cast in a `warm` or `cool` scene; other scenes have at most a sixth of its low end."""
    gradient: float
    """Most that a directional gradient changes brightness from the middle to an edge."""
    fog: Span
    """Share of fog in a `foggy` scene; other scenes have none."""
    spot: Span
    """Brightness left outside the cone of a `spotlight`."""
    clean: Span
    """Noise (standard deviation, 0..255) of an ordinary scene."""
    noisy: Span
    """Noise of a `noisy` scene; well above `clean`."""
    blur: float
    """Most weight that a pixel's neighbours take in the lens blur, 0..0.3."""


LEVELS: Final[dict[str, Level]] = {
    "easy": Level(
        name="easy", diameter=(34, 88), few=(1, 4), many=(6, 7), crowding=0.25, turn=15.0, overlap=0.0, visible=0.85,
        inside=0.92, clutter=(0, 3), fade=0.0, exposure=(0.95, 1.08), dark=(0.50, 0.58), tint=(0.7, 0.9), gradient=0.08,
        fog=(0.38, 0.46), spot=(0.45, 0.52), clean=(0.5, 2.0), noisy=(12.0, 15.0), blur=0.04,
    ),
    "medium": Level(
        name="medium", diameter=(24, 100), few=(1, 5), many=(6, 8), crowding=0.40, turn=30.0, overlap=0.12,
        visible=0.65, inside=0.68, clutter=(2, 7), fade=0.0, exposure=(0.86, 1.10), dark=(0.44, 0.56), tint=(0.6, 1.0),
        gradient=0.16, fog=(0.38, 0.52), spot=(0.40, 0.50), clean=(1.0, 4.0), noisy=(12.0, 17.0), blur=0.12,
    ),
    "hard": Level(
        name="hard", diameter=(12, 56), few=(1, 4), many=(6, 8), crowding=0.40, turn=180.0, overlap=0.45,
        visible=0.40, inside=0.50, clutter=(10, 22), fade=0.35, exposure=(0.72, 1.12), dark=(0.32, 0.44),
        tint=(0.8, 1.6), gradient=0.32, fog=(0.48, 0.68), spot=(0.26, 0.40), clean=(3.0, 9.0), noisy=(20.0, 29.0),
        blur=0.24,
    ),
}  # fmt: skip
"""The named levels: `easy`, `medium` (the default everywhere) and `hard`."""


def level_named(name: str) -> Level:
    """Look a level up; ValueError names the choices."""
    if name not in LEVELS:
        raise ValueError(f"unknown level {name!r}: choose one of {', '.join(LEVELS)}")
    return LEVELS[name]
