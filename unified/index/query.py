# SPDX-License-Identifier: Apache-2.0
"""Questions put as pictures: embedded as the index's own pictures were, then searched.

Legend: N boxes of a picture, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from unified.contracts.errors import DataError
from unified.index.protocol import Hit, Layout, VectorIndex
from unified.index.row import BoxXyxy, Filter
from unified.inference.model import UnifiedModel
from unified.inference.results import Result
from unified.inference.source import Picture, as_pixels

Parts: TypeAlias = Sequence[tuple[BoxXyxy | None, str | None]]  # of a picture: where, and what stands there


@dataclass(frozen=True)
class Answer:
    """What was asked, and the nearest rows."""

    picture: str  # what the query is called
    box: BoxXyxy | None  # the part of it that was asked about, pixels
    name: str | None  # what stands in that part, where the model said so
    hits: list[Hit]

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON knows it."""
        box = None if self.box is None else [round(value, 2) for value in self.box]
        said = {"query": self.picture, "box_xyxy": box, "name": self.name}
        return {**{k: v for k, v in said.items() if v is not None}, "hits": [hit.to_dict() for hit in self.hits]}


def check_model(layout: Layout, model: UnifiedModel) -> None:
    """Refuses a model whose vectors are not those of the index.

    Raises:
        DataError: it is another one.
    """
    layout.check_space(model.space_at(layout.side), "the model's vectors")


def ask(
    index: VectorIndex,
    model: UnifiedModel,
    picture: Picture,
    box: BoxXyxy | None = None,
    k: int = 10,
    where: Filter | None = None,
    confidence: float = 0.25,
    itself: bool = True,
) -> list[Answer]:
    """The rows nearest to a picture.

    Args:
        index: what is searched.
        model: that made its vectors.
        picture: a file, bytes, a PIL image, an array or a tensor.
        box: ask about this part of it only, xyxy in its pixels.
        k: neighbours.
        where: only rows that fit.
        confidence: least score of the boxes that are found, in an index of boxes.
        itself: whether rows of the query's own file may answer.

    Returns:
        One answer; in an index of boxes, without ``box``, one for every box that is found in the picture.

    Raises:
        DataError: another model's index, a picture that cannot be read, or a box outside of it.
    """
    check_model(index.layout, model)
    pixels = as_pixels(picture)
    parts, vectors = _asked(index.layout, model, pixels, box, confidence)
    return _answers(index, picture, parts, vectors, k, where, itself)


def ask_of(
    index: VectorIndex,
    model: UnifiedModel,
    said: Result,
    picture: Picture,
    k: int = 10,
    where: Filter | None = None,
    itself: bool = True,
) -> list[Answer]:
    """As :func:`ask`, of what the model has said of the picture already: without another pass.

    Args:
        said: by ``predict`` at the input side that the index was made with.

    Raises:
        DataError: another model's index.
    """
    check_model(index.layout, model)
    return _answers(index, picture, *_said(index.layout, said), k, where, itself)


def _answers(
    index: VectorIndex, picture: Picture, parts: Parts, vectors: Tensor, k: int, where: Filter | None, itself: bool
) -> list[Answer]:
    name = str(picture) if isinstance(picture, str | Path) else "picture"
    own = str(Path(picture).absolute()) if isinstance(picture, str | Path) else None
    if not len(vectors):
        return []
    extra = 0 if itself or own is None else _rows_of(index, own)
    found = index.search(vectors, k + extra, where)
    return [
        Answer(name, part, word, [hit for hit in hits if itself or hit.path != own][:k])
        for (part, word), hits in zip(parts, found, strict=True)
    ]


def crop(pixels: Tensor, box: BoxXyxy) -> Tensor:
    """A part of a picture, (3, h, w).

    Raises:
        DataError: nothing of the box lies in the picture.
    """
    height, width = pixels.shape[1:]
    x0, y0 = max(0, round(box[0])), max(0, round(box[1]))
    x1, y1 = min(width, round(box[2])), min(height, round(box[3]))
    if x1 - x0 < 1 or y1 - y0 < 1:
        corners = ", ".join(f"{value:g}" for value in box)
        raise DataError(f"box {corners} (x0, y0, x1, y1 in pixels) shows nothing of a picture of {width} x {height}")
    return pixels[:, y0:y1, x0:x1].contiguous()


def _asked(
    layout: Layout, model: UnifiedModel, pixels: Tensor, box: BoxXyxy | None, confidence: float
) -> tuple[Parts, Tensor]:
    """The parts of a picture that are asked about, and their vectors (N, D)."""
    words: dict[str, Any] = {"size": layout.side, "truncate_dim": layout.dim if layout.truncate else None}
    if box is not None:
        piece = crop(pixels, box)  # also says that the box fits
    if layout.level != "box":
        vector = model.encode(pixels if box is None else piece, **words)
        assert isinstance(vector, Tensor)
        return [(box, None)], vector[None]
    if box is not None:
        given = model.encode(pixels, "box", boxes=torch.tensor([box]), **words)
        assert isinstance(given, Tensor)
        return [(box, None)], given
    return _said(layout, model.predict(pixels, model.tasks_for("box"), confidence=confidence, size=layout.side))


def _said(layout: Layout, said: Result) -> tuple[Parts, Tensor]:
    """As :func:`_asked`, by what was said of the picture."""
    from unified.inference.encoder import shorten

    width = layout.dim if layout.truncate else None
    if layout.level != "box":
        assert said.embedding is not None
        return [(None, None)], shorten(said.embedding[None], width, True)
    if said.boxes is None or said.boxes.embeddings is None or not len(said.boxes):
        return [], torch.zeros(0, layout.dim)
    return [(each.xyxy, each.name) for each in said.boxes], shorten(said.boxes.embeddings, width, True)


def _rows_of(index: VectorIndex, path: str) -> int:
    """How many rows of a file the index has, at least as far as is needed to pass over them."""
    if index.layout.level == "image":
        return 1
    count = 0
    while index.get([f"{path}#{count}"])[0] is not None:
        count += 1
    return count
