# SPDX-License-Identifier: Apache-2.0
"""The twelve outlines, as signed distance functions in object units.

An outline takes two float32 arrays `u` (right) and `v` (down) of one shape, in units of the object's radius, and
returns the signed distance to its edge (negative inside).  Every outline fits the unit circle and has its head on
the negative `v` axis, `HEADS[name]` away from the centre.  No two outlines are rotations of one another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Outline = Callable[[Field, Field], Field]


def disc(u: Field, v: Field) -> Field:
    """A full circle of radius 0.9."""
    return np.hypot(u, v) - np.float32(0.9)


def ring(u: Field, v: Field) -> Field:
    """An annulus from radius 0.38 to 0.96."""
    return np.abs(np.hypot(u, v) - np.float32(0.67)) - np.float32(0.29)


def square(u: Field, v: Field) -> Field:
    """A square of side 1.44."""
    return np.maximum(np.abs(u), np.abs(v)) - np.float32(0.72)


def triangle(u: Field, v: Field) -> Field:
    """An equilateral triangle with one corner at the head."""
    return np.maximum(v, np.float32(0.8660254) * np.abs(u) - np.float32(0.5) * v) - np.float32(0.5)


def hexagon(u: Field, v: Field) -> Field:
    """A regular hexagon with one corner at the head."""
    x = np.abs(u)
    return np.maximum(x, np.float32(0.5) * x + np.float32(0.8660254) * np.abs(v)) - np.float32(0.84)


def star(u: Field, v: Field) -> Field:
    """A five-pointed star, folded into one tenth of the turn so that a single edge describes it."""
    fifth = np.float32(2 * np.pi / 5)
    turn = np.arctan2(u, -v) + fifth / 2
    angle = np.abs(turn - fifth * np.floor(turn / fifth) - fifth / 2)
    radius = np.hypot(u, v)
    along, across = np.cos(np.pi / 5) * 0.46 - 1.0, np.sin(np.pi / 5) * 0.46
    length = float(np.hypot(along, across))
    normal_x, normal_y = np.float32(across / length), np.float32(-along / length)
    result: Field = normal_x * (radius * np.cos(angle) - np.float32(1.0)) + normal_y * radius * np.sin(angle)
    return result


def cross(u: Field, v: Field) -> Field:
    """A plus sign with arms 0.6 wide."""
    x, y = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(x, y) - np.float32(0.94), np.minimum(x, y) - np.float32(0.3))


def heart(u: Field, v: Field) -> Field:
    """A heart whose tip is the head (Inigo Quilez's exact distance)."""
    scale = np.float32(1.62)
    x, y = np.abs(u) / scale, (v + np.float32(0.9)) / scale
    lobe = np.hypot(x - np.float32(0.25), y - np.float32(0.75)) - np.float32(0.35355339)
    foot = np.float32(0.5) * np.maximum(x + y, 0)
    side = np.minimum(np.hypot(x, y - 1), np.hypot(x - foot, y - foot)) * np.sign(x - y)
    result: Field = np.where(x + y > 1, lobe, side) * scale
    return result


def crescent(u: Field, v: Field) -> Field:
    """A moon: a circle with a bite taken out opposite the head."""
    bite = np.float32(0.8) - np.hypot(u, v - np.float32(0.52))
    result: Field = np.maximum(np.hypot(u, v) - np.float32(0.95), bite)
    return result


def arrow(u: Field, v: Field) -> Field:
    """A block arrow that points at the head."""
    x = np.abs(u)
    blade = (np.float32(0.9) * x - np.float32(0.8) * (v + np.float32(0.95))) / np.float32(1.2042)
    shaft = np.maximum(x - np.float32(0.28), np.abs(v - np.float32(0.42)) - np.float32(0.52))
    result: Field = np.minimum(np.maximum(blade, v + np.float32(0.05)), shaft)
    return result


def capsule(u: Field, v: Field) -> Field:
    """A pill, 0.76 wide and 1.9 long."""
    limit = np.float32(0.57)
    return np.hypot(u, v - np.clip(v, -limit, limit)) - np.float32(0.38)


def flower(u: Field, v: Field) -> Field:
    """Six round petals; the factor keeps the slope near one on the petals' flanks."""
    petal = np.float32(0.73) + np.float32(0.21) * np.cos(np.float32(6) * np.arctan2(u, -v))
    result: Field = (np.hypot(u, v) - petal) * np.float32(0.72)
    return result


OUTLINES: Final[dict[str, Outline]] = {
    "disc": disc,
    "ring": ring,
    "square": square,
    "triangle": triangle,
    "hexagon": hexagon,
    "star": star,
    "cross": cross,
    "heart": heart,
    "crescent": crescent,
    "arrow": arrow,
    "capsule": capsule,
    "flower": flower,
}
"""Every class's outline, by class name."""

HEADS: Final[dict[str, float]] = {
    "disc": 0.58,
    "ring": 0.67,
    "square": 0.45,
    "triangle": 0.42,
    "hexagon": 0.55,
    "star": 0.46,
    "cross": 0.64,
    "heart": 0.40,
    "crescent": 0.60,
    "arrow": 0.40,
    "capsule": 0.56,
    "flower": 0.62,
}
"""Distance from the centre to the head, in radii, by class name."""

CLASSES: Final[tuple[str, ...]] = tuple(OUTLINES)
"""Class names in label order (label `k` is `CLASSES[k]`)."""
