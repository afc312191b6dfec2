# SPDX-License-Identifier: Apache-2.0
"""What the network says of a picture, as rows of a table beside their vectors.

Legend: R rows, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unified.contracts.errors import ConfigError
from unified.inference.model import Level
from unified.inference.results import Result

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "image": ("id", "width", "height"),
    "box": ("id", "box", "name", "score", "x0", "y0", "x1", "y1"),
}
"""Columns of a shard beside its vectors; boxes in pixels of their picture."""


def rows_of(name: str, result: Result, level: Level, least: float | None = None) -> tuple[dict[str, list[Any]], Tensor]:
    """One picture's rows and its vectors (R, D); ``least``: score from which tags are told, too."""
    rows, vectors = _plain_rows(name, result, level)
    if least is not None:
        boxes = [] if result.boxes is None else result.boxes.names
        held = {tag for tag, score in result.tags.items() if score >= least} | set(boxes)
        rows["tags"] = [sorted(held)] * len(vectors)
    return rows, vectors


def _plain_rows(name: str, result: Result, level: Level) -> tuple[dict[str, list[Any]], Tensor]:
    if level == "image":
        assert result.embedding is not None
        height, width = result.size
        return {"id": [name], "width": [width], "height": [height]}, result.embedding[None]
    boxes = result.boxes
    if boxes is None or boxes.embeddings is None:
        raise ConfigError("this model gives no box embeddings")
    corners = dict(zip(("x0", "y0", "x1", "y1"), boxes.xyxy.T.tolist(), strict=True))
    numbers = list(range(len(boxes)))
    said = {"id": [name] * len(boxes), "box": numbers, "name": boxes.names, "score": boxes.scores.tolist()}
    return {**said, **corners}, boxes.embeddings
