# SPDX-License-Identifier: Apache-2.0
"""The recurring grounds: forty scenes, each a texture family in one palette, and the crops taken from them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .level import REFERENCE
from .texture import FAMILIES, TILE, Palette

_ROWS: Final[tuple[tuple[str, str, str], ...]] = (
    ("planks", "oak planks", "6b4526 a97c4c c9a06c"),
    ("planks", "dark walnut planks", "2c1b12 4f3423 6d4a32"),
    ("planks", "grey driftwood", "5d5952 8d8980 b4afa4"),
    ("planks", "pale pine boards", "b08a5a d6b785 ecd7ad"),
    ("parquet", "honey parquet", "87592c b78445 d8aa69"),
    ("parquet", "cherry parquet", "552818 864a30 a86a49"),
    ("parquet", "smoked parquet", "2e2a26 4a443d 686056"),
    ("parquet", "ash parquet", "8e806b b9ab93 d9cdb6"),
    ("brick", "red brick", "6e2e22 93483a ac6350 b5aa9d"),
    ("brick", "yellow brick", "8d7548 b39a67 cdb785 8d867c"),
    ("brick", "grey brick", "4c4f52 6c6f72 8c8e90 b8b8b4"),
    ("brick", "whitewashed brick", "b3aea4 cdc9c0 e2dfd8 918b82"),
    ("tiles", "black and white tiles", "d8d8d4 3e4044 8c8c88"),
    ("tiles", "terracotta tiles", "a9684a 975a3e d0bfa9"),
    ("tiles", "pool tiles", "7fa9b4 a5c4c8 dfe5e2"),
    ("tiles", "mint kitchen tiles", "a9c2ae d9dfd2 7f857e"),
    ("grass", "a green lawn", "26381a 47662b 6f8c42 96a961"),
    ("grass", "dry grass", "4f4526 83743f b09c5c cdbd83"),
    ("grass", "dark meadow grass", "131f14 263c22 3d5a33 5b774c"),
    ("grass", "spring grass", "3a5224 6b8c3a 98b257 bccb7f"),
    ("leaves", "autumn leaves", "5a3418 8f5a26 a87a35 7c3f22 b99248"),
    ("leaves", "ivy leaves", "1f3320 35532f 4d6d3c 2b4a34"),
    ("leaves", "olive leaves", "4a5038 69704e 878d66 5a6148"),
    ("plaid", "a red tartan blanket", "7c3432 2f3c3a b9a882"),
    ("plaid", "a green tartan blanket", "3a5244 27324a a8a47c"),
    ("plaid", "a grey plaid blanket", "8a8886 55565c c6c2bc"),
    ("plaid", "a cream picnic cloth", "d5c9ae 8c6f5a a9b0ac"),
    ("stripes", "navy deckchair cloth", "3b4a66 c9c3b4 8d94a0"),
    ("stripes", "rose striped cloth", "a8797c d8c8bf c0a49d"),
    ("stripes", "moss striped cloth", "5f6a4c b3ad8d 868a6a"),
    ("sand", "golden sand", "a88a58 cbb07c e4d0a4"),
    ("sand", "white sand", "b8b0a2 d6d0c4 ece8df"),
    ("sand", "volcanic sand", "2d2b2a 47433f 655f59"),
    ("water", "a turquoise pool", "2f6a76 5a9aa2 b4d6d4"),
    ("water", "a deep blue pool", "1f3550 3d5f82 9db8cc"),
    ("water", "a murky pond", "2e3622 515a38 9aa074"),
    ("marble", "white marble", "77787c c4c4c4 e8e6e2"),
    ("marble", "green marble", "8fa394 3a5a4a 22392f"),
    ("paper", "brown wrapping paper", "84643f a9875c c8a87c"),
    ("paper", "crumpled white paper", "a9aaae d2d2d2 f1f0ec"),
)


@dataclass(frozen=True)
class Ground:
    """One recurring background: its number, texture family, the words a caption uses, and palette (RGB 0..255)."""

    index: int
    family: str
    phrase: str
    palette: Palette


def _palette(text: str) -> Palette:
    return tuple((int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)) for code in text.split())


SCENES: Final[tuple[Ground, ...]] = tuple(
    Ground(index, family, phrase, _palette(colours)) for index, (family, phrase, colours) in enumerate(_ROWS)
)
"""The grounds, in the order that `Scene.scene` counts them."""


@cache
def tile(index: int, shrink: int = 1) -> Image.Image:
    """The ground's tile, painted once a process; `shrink` halves (or more) it, so that small pictures do not alias."""
    if shrink > 1:
        return tile(index).reduce(shrink)
    ground = SCENES[index]
    rng = np.random.default_rng(zlib.crc32(ground.phrase.encode()))
    field = FAMILIES[ground.family](rng, ground.palette)
    return Image.fromarray(np.clip(np.rint(field), 0, 255).astype(np.uint8))


def crop(rng: np.random.Generator, index: int, size: int) -> NDArray[np.float32]:
    """A randomly placed, turned and scaled view of a ground: (3, size, size) float32, 0..255."""
    zoom, angle = rng.uniform(0.72, 1.28), rng.uniform(0, 2 * np.pi)
    reach = REFERENCE / 2 * zoom * np.sqrt(2) + 2
    x, y = rng.uniform(reach, TILE - reach, 2)
    shrink = max(1, int(REFERENCE * zoom / size))
    step = REFERENCE * zoom / size / shrink
    cos, sin = step * np.cos(angle), step * np.sin(angle)
    half = size / 2
    matrix = (cos, -sin, x / shrink - half * (cos - sin), sin, cos, y / shrink - half * (sin + cos))
    view = tile(index, shrink).transform(
        (size, size), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR
    )
    return np.ascontiguousarray(np.asarray(view).transpose(2, 0, 1)).astype(np.float32)
