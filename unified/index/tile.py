# SPDX-License-Identifier: Apache-2.0
"""Pictures of an index in small, in sections: what sheets and pages are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw

from unified.contracts.errors import DataError
from unified.data.picture import read_within
from unified.index.clusters import Clusters
from unified.index.duplicates import Group
from unified.index.query import Answer
from unified.index.row import BoxXyxy, Row
from unified.inference.drawing import INK, PALETTE

_ROUND: Final = 0.35  # of a box's sides, shown round it
_REACH: Final = 1600  # pixels: larger pictures are shrunk while they are read


@dataclass(frozen=True)
class Tile:
    """One picture, or a box in it."""

    path: str | None
    title: str
    note: str = ""
    box: BoxXyxy | None = None
    asked: bool = False  # the query itself

    def image(self, side: int) -> Image.Image | None:
        """The picture, or its box with some of what is round it, in a square of ``side``; None: it cannot be read."""
        if self.path is None:
            return None
        try:
            pixels, (height, width) = read_within(Path(self.path), _REACH)
        except DataError:
            return None
        shown = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        if self.box is not None:
            shown = _cut(shown, self.box, shown.width / width, shown.height / height, side)
        scale = side / max(shown.size)
        size = (max(1, round(shown.width * scale)), max(1, round(shown.height * scale)))
        return shown.resize(size, Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class Section:
    """Tiles that belong together."""

    title: str
    note: str
    tiles: Sequence[Tile]


def _cut(picture: Image.Image, box: BoxXyxy, x: float, y: float, side: int) -> Image.Image:
    """The box with a frame, and some of what is round it. x, y: how the picture was shrunk."""
    left, top, right, bottom = box[0] * x, box[1] * y, box[2] * x, box[3] * y
    wide, high = _ROUND * (right - left), _ROUND * (bottom - top)
    around = (
        max(0, round(left - wide)),
        max(0, round(top - high)),
        min(picture.width, max(round(right + wide), round(left) + 1)),
        min(picture.height, max(round(bottom + high), round(top) + 1)),
    )
    part = picture.crop(around)
    scale = side / max(part.size)
    part = part.resize((max(1, round(part.width * scale)), max(1, round(part.height * scale))))
    frame = ((left - around[0]) * scale, (top - around[1]) * scale, (right - around[0]) * scale)
    corners = (*frame, (bottom - around[1]) * scale)
    inside = tuple(min(max(v, 0.0), s - 1.0) for v, s in zip(corners, part.size * 2, strict=True))
    pen = ImageDraw.Draw(part)
    pen.rectangle(inside, outline=INK, width=4)  # type: ignore[arg-type]
    pen.rectangle(inside, outline=PALETTE[0], width=2)  # type: ignore[arg-type]
    return part


def shown(path: str | None) -> str:
    """A path in few words: from the current folder where it lies below it."""
    if path is None:
        return "(no file)"
    try:
        return Path(path).relative_to(Path.cwd()).as_posix()
    except ValueError:
        return path


def tile_of(row: Row, note: str = "") -> Tile:
    """A row as a tile."""
    name = Path(row.path).name if row.path else row.id
    word = f"{row.name} " if row.name else ""
    return Tile(row.path, f"{word}{name}", note or ", ".join(row.tags[:4]), row.box)


def answers(found: Sequence[Answer]) -> list[Section]:
    """A section a question: the query first, then its neighbours with their scores."""
    sections = []
    for answer in found:
        query = Tile(answer.picture, Path(answer.picture).name, "query", answer.box, asked=True)
        tiles = [query, *(tile_of(hit.row, f"{hit.score:.3f}") for hit in answer.hits)]
        what = f"{answer.name} in {shown(answer.picture)}" if answer.name else shown(answer.picture)
        sections.append(Section(what, f"{len(answer.hits)} nearest", tiles))
    return sections


def groups(found: Sequence[Group], most: int = 12) -> list[Section]:
    """A section a group of duplicates."""
    return [
        Section(f"group {k + 1}", f"{len(each.rows)} alike, cosine {each.least:.3f} or more", _tiles(each.rows, most))
        for k, each in enumerate(found)
    ]


def clustered(found: Clusters, most: int = 12) -> list[Section]:
    """A section a cluster, and one of loose rows."""
    sections = [
        Section(f"cluster {k + 1}", f"{len(c.rows)} rows, closeness {c.closeness:.3f}", _tiles(c.rows, most))
        for k, c in enumerate(found.clusters)
    ]
    if found.loose:
        sections.append(Section("loose", f"{len(found.loose)} rows in no cluster", _tiles(found.loose, most)))
    return sections


def _tiles(rows: Sequence[Row], most: int) -> list[Tile]:
    return [tile_of(row) for row in rows[:most]]
