# SPDX-License-Identifier: Apache-2.0
"""A whole scene as a pure function of (seed, split, index, level, size)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from .background import SCENES, crop
from .caption import captions
from .clutter import scatter
from .identity import IDENTITIES
from .layout import TRIES, Stage, beside, proposer
from .level import REFERENCE, Level, level_named
from .light import Light, expose, sample_light
from .sprite import Sprite, draw

VERSION: Final = 6
"""Raised whenever the same arguments render another picture or record; part of every cache's key."""

SPLITS: Final[tuple[str, ...]] = ("train", "val")
CROWD: Final = 6
"""A scene with at least this many objects is `crowded`."""

TEXTURE_TAGS: Final[dict[str, str]] = {
    "planks": "wooden",
    "parquet": "wooden",
    "brick": "tiled",
    "tiles": "tiled",
    "grass": "greenery",
    "leaves": "greenery",
    "plaid": "fabric",
    "stripes": "fabric",
}
"""The attribute that a ground's texture family earns; the other families earn none."""

ATTRIBUTES: Final[tuple[str, ...]] = (
    "wooden",
    "tiled",
    "greenery",
    "fabric",
    "dark",
    "foggy",
    "spotlight",
    "warm",
    "cool",
    "noisy",
    "crowded",
)
"""Scene tags, in the order of every attribute array."""


class Rle(TypedDict):
    """A COCO run-length mask: `size` is [height, width], `counts` compressed bytes."""

    size: list[int]
    counts: bytes


@dataclass(frozen=True)
class Scene:
    """One picture and all that is known about it.  S is the picture's side, N its number of objects (1..8).

    `image` (S, S, 3) uint8 RGB.  `boxes_xyxy` (N, 4) float32, tight to the visible pixels, in pixels with the far
    edges exclusive.  `labels` (N,) int64 into `CLASSES`.  `identities` (N,) int64 into `IDENTITIES`.  `masks`: one
    RLE of the visible pixels per object.  `keypoints_xyv` (N, 2, 3) float32: centre and head, x and y in pixels, v 2
    in sight, 1 covered, 0 outside the picture (then x = y = 0).  `attributes` (A,) bool in the order of
    `ATTRIBUTES`.  `scene` indexes `SCENES`.  Objects are ordered back to front.
    """

    image: NDArray[np.uint8]
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    identities: NDArray[np.int64]
    masks: tuple[Rle, ...]
    keypoints_xyv: NDArray[np.float32]
    attributes: NDArray[np.bool_]
    scene: int
    captions: tuple[str, ...]

    @property
    def tags(self) -> tuple[str, ...]:
        """The names of the attributes that hold."""
        return tuple(name for name, holds in zip(ATTRIBUTES, self.attributes, strict=True) if holds)

    def mask_array(self) -> NDArray[np.bool_]:
        """The visible masks as (N, S, S) bool."""
        side = self.image.shape[0]
        if not self.masks:
            return np.zeros((0, side, side), dtype=np.bool_)
        return np.ascontiguousarray(coco_mask.decode(list(self.masks)).transpose(2, 0, 1)).astype(np.bool_)


def _generator(seed: int, split: str, index: int, level: Level) -> np.random.Generator:
    """The scene's own stream; the picture's size is left out so that sizes show nearly the same scene."""
    key = (SPLITS.index(split), index, zlib.crc32(level.name.encode()))
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _choose(rng: np.random.Generator, count: int) -> list[int]:
    """Identities for `count` objects: uniform, with a fair chance of repeating one already chosen."""
    chosen: list[int] = []
    for _ in range(count):
        again = chosen and rng.random() < 0.12
        chosen.append(int(rng.choice(chosen)) if again else int(rng.integers(len(IDENTITIES))))
    return chosen


Placed = tuple[Sprite, int, int]


def _populate(rng: np.random.Generator, stage: Stage, split: str, light: Light) -> list[Placed]:
    """Draw and place the objects; the first is tried until it fits, so that no scene is empty."""
    level, scale = stage.level, stage.size / REFERENCE
    crowded = rng.random() < level.crowding
    low, high = level.many if crowded else level.few
    propose = proposer(rng, split)
    placed: list[Placed] = []
    span = np.log(level.diameter) - ((0, 0.25) if crowded else (0, 0))
    for chosen in _choose(rng, int(rng.integers(low, high + 1))):
        radius = float(np.exp(rng.uniform(*span))) / 2 * scale
        turn = np.radians(level.turn)
        angle, fade = float(rng.uniform(-turn, turn)), float(rng.uniform(0, level.fade)) if level.fade else 0.0
        shift_x, shift_y = rng.uniform(-0.5, 0.5, 2)
        sprite = draw(IDENTITIES[chosen], radius, angle, (float(shift_x), float(shift_y)), light, fade)
        for attempt in range(TRIES):
            near = placed and attempt < TRIES // 2 and rng.random() < level.overlap
            x, y = beside(rng, stage, radius) if near else propose(rng)
            column, row = int(np.floor(x * stage.size)), int(np.floor(y * stage.size))
            if not placed and attempt == TRIES - 1:
                column = row = stage.size // 2
            if stage.place(sprite.solid, sprite.area, column, row):
                placed.append((sprite, column, row))
                break
    return placed


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The tight (x0, y0, x1, y1) of a mask, far edges exclusive."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _keypoint(ids: NDArray[np.int8], number: int, x: float, y: float) -> tuple[float, float, int]:
    """One COCO key point of object `number`; a point is covered where a later object is on top."""
    size = ids.shape[0]
    if not (0 <= x < size and 0 <= y < size):
        return 0.0, 0.0, 0
    return x, y, 2 if ids[int(y), int(x)] <= number else 1


def _keypoints(ids: NDArray[np.int8], placed: Sequence[Placed]) -> NDArray[np.float32]:
    rows = [
        [_keypoint(ids, k, x - s.half + px, y - s.half + py) for px, py in (s.centre, s.head)]
        for k, (s, x, y) in enumerate(placed)
    ]
    return np.array(rows, dtype=np.float32)


def render(index: int, *, split: str = "train", seed: int = 0, level: str = "medium", size: int = REFERENCE) -> Scene:
    """Render scene `index` of a split: a pure function of its arguments.

    Raises ValueError for an unknown split or level, a negative index or seed, or a side under 48 pixels.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    if index < 0 or seed < 0:
        raise ValueError(f"index and seed must not be negative, got {index} and {seed}")
    if size < 48:
        raise ValueError(f"size must be at least 48 pixels, got {size}")
    chosen = level_named(level)
    rng = _generator(seed, split, index, chosen)
    ground = SCENES[int(rng.integers(len(SCENES)))]
    light = sample_light(rng, chosen)
    stage = Stage(size, chosen)
    placed = _populate(rng, stage, split, light)
    picture = crop(rng, ground.index, size)
    scatter(rng, picture, int(rng.integers(chosen.clutter[0], chosen.clutter[1] + 1)), size / REFERENCE)
    for sprite, x, y in placed:
        sprite.paint(picture, x, y, light)
    image = expose(rng, picture, light)
    return _record(image, stage.ids, placed, light.tags, ground.index)


def _record(
    image: NDArray[np.uint8], ids: NDArray[np.int8], placed: Sequence[Placed], tags: Sequence[str], scene: int
) -> Scene:
    """Read the annotations off the finished stage."""
    masks = ids[None] == np.arange(len(placed), dtype=np.int8)[:, None, None]
    ground = SCENES[scene]
    earned = {*tags, TEXTURE_TAGS.get(ground.family, "")} | ({"crowded"} if len(placed) >= CROWD else set())
    identities = [sprite.identity.index for sprite, _, _ in placed]
    areas = [int(area) for area in np.count_nonzero(masks, axis=(1, 2))]
    return Scene(
        image=image,
        boxes_xyxy=np.array([_box(mask) for mask in masks], dtype=np.float32),
        labels=np.array([IDENTITIES[k].label for k in identities], dtype=np.int64),
        identities=np.array(identities, dtype=np.int64),
        masks=tuple(coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))),
        keypoints_xyv=_keypoints(ids, placed),
        attributes=np.array([name in earned for name in ATTRIBUTES], dtype=np.bool_),
        scene=scene,
        captions=captions(identities, areas, ground, tags),
    )
