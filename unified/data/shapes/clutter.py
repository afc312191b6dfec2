# SPDX-License-Identifier: Apache-2.0
"""Distractors: unlabelled twigs, stains, pebbles and scraps that are none of the classes."""

from __future__ import annotations

import numpy as np

from .canvas import Patch, Picture, darken, paste
from .outline import Field

_EARTH = np.array(
    [(92, 70, 48), (60, 58, 54), (150, 140, 120), (110, 118, 88), (196, 188, 170), (84, 92, 104), (140, 96, 72)],
    dtype=np.float32,
)


def _colour(rng: np.random.Generator) -> Patch:
    """A muted colour, (3, 1, 1)."""
    colour = _EARTH[int(rng.integers(len(_EARTH)))] + rng.uniform(-18, 18, 3).astype(np.float32)
    result: Patch = colour.reshape(3, 1, 1)
    return result


def _grid(half: int) -> tuple[Field, Field]:
    line = np.arange(-half, half + 1, dtype=np.float32)
    return line[None, :], line[:, None]


def twig(rng: np.random.Generator, picture: Picture, scale: float) -> None:
    """A thin bent line, far longer than wide, with a thin shadow."""
    size = picture.shape[1]
    length, angle = rng.uniform(9, 34) * scale, rng.uniform(0, 2 * np.pi)
    width, bend = rng.uniform(0.5, 1.1) * scale, rng.uniform(-0.3, 0.3)
    x, y = _grid(int(length) + 3)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    over = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
    over = np.abs(over + np.float32(bend / length) * along * along)
    alpha = np.clip(np.float32(0.5 + width) - over, 0, 1) * np.clip(np.float32(length) - np.abs(along), 0, 1)
    left, top = (int(k) - alpha.shape[0] // 2 for k in rng.integers(0, size, 2))
    drop = max(1, round(scale))
    darken(picture, alpha * np.float32(0.3), left + drop, top + drop)
    paste(picture, _colour(rng), alpha, left, top)


def _lump(rng: np.random.Generator, radius: float, rough: float) -> Field:
    """Signed distance, roughly, to an irregular oval, in pixels.

    Only even lobes, so that no lump is ever mistaken for a heart; multiples of the angle come from products, which
    are cheaper than an arctangent.
    """
    x, y = _grid(int(radius * (1 + 1.2 * rough)) + 3)
    square = x * x + y * y + np.float32(1e-3)
    cos, sin = (x * x - y * y) / square, 2 * x * y / square
    two, four = rng.uniform(0, 2 * np.pi, 2)
    oval = np.float32(np.cos(two)) * cos + np.float32(np.sin(two)) * sin
    lobes = np.float32(np.cos(four)) * (cos * cos - sin * sin) + np.float32(2 * np.sin(four)) * cos * sin
    edge = np.float32(radius) * (1 + np.float32(rough) * (oval + np.float32(0.4) * lobes))
    return np.asarray(np.sqrt(square) - edge, dtype=np.float32)


def stain(rng: np.random.Generator, picture: Picture, scale: float) -> None:
    """A soft-edged, half transparent spill."""
    distance = _lump(rng, rng.uniform(7, 20) * scale, 0.45)
    alpha = np.clip(np.float32(0.5) - distance / np.float32(4 * scale), 0, 1) * np.float32(rng.uniform(0.25, 0.5))
    left, top = (int(k) - alpha.shape[0] // 2 for k in rng.integers(0, picture.shape[1], 2))
    paste(picture, _colour(rng), alpha, left, top)


def pebble(rng: np.random.Generator, picture: Picture, scale: float) -> None:
    """A small rough lump with a lit top and a shadow."""
    radius = rng.uniform(1.6, 4.2) * scale
    distance = _lump(rng, radius, 0.25)
    alpha = np.clip(np.float32(0.5) - distance, 0, 1)
    dome = np.clip(np.float32(0.85) - distance / np.float32(3 * radius), 0.7, 1.3)
    left, top = (int(k) - alpha.shape[0] // 2 for k in rng.integers(0, picture.shape[1], 2))
    drop = max(1, round(scale))
    darken(picture, alpha * np.float32(0.4), left + drop, top + drop)
    paste(picture, _colour(rng) * dome, alpha, left, top)


def scatter(rng: np.random.Generator, picture: Picture, count: int, scale: float) -> None:
    """Put `count` distractors on the picture, in place; `scale` is picture pixels per reference pixel."""
    makers = (twig, stain, pebble, pebble)
    for choice in rng.integers(0, len(makers), count):
        makers[int(choice)](rng, picture, scale)
