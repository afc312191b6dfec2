# SPDX-License-Identifier: Apache-2.0
"""Contact sheets: many small pictures on one page, for a person to judge a network by eye."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from unified.contracts.structures import Prediction
from unified.inference.drawing import INK, PAPER, draw

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Example = tuple[Picture, Sequence[tuple[Picture, bool]]]

CELL = 400  # pixels: width of a picture on a prediction sheet
CROP = 112  # pixels: side of a crop on a retrieval strip
GAP = 14
SAME, OTHER, QUERY = (0, 158, 115), (213, 94, 0), (0, 114, 178)
QUIET = (110, 115, 124)


def prediction_sheet(
    images: Sequence[Picture],
    predictions: Sequence[Prediction],
    truths: Sequence[Prediction],
    path: Path,
    columns: int = 4,
) -> Path:
    """Pictures with what the network says and, in white broken lines, the truth."""
    cells = [
        _fitted(draw(image, prediction, truth), CELL)
        for image, prediction, truth in zip(images, predictions, truths, strict=True)
    ]
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    width = GAP + min(columns, max(len(cells), 1)) * (CELL + GAP)
    legend = "coloured: predicted    white, broken: truth    tags green: right, red: wrong, red frame: missed"
    page, top = _page(width, sum(heights) + GAP * (len(rows) + 1), legend)
    for row, height in zip(rows, heights, strict=True):
        for i, cell in enumerate(row):
            page.paste(cell, (GAP + i * (CELL + GAP), top))
        top += height + GAP
    return _save(page, path)


def retrieval_strip(examples: Sequence[Example], path: Path) -> Path:
    """A row an example: the query, then its nearest neighbours, nearest first.

    Args:
        examples: (query crop, [(neighbour crop, whether it is the same thing)]), crops uint8 (H, W, 3).
        path: where the PNG goes.
    """
    most = max((len(found) for _, found in examples), default=0)
    step = CROP + GAP
    legend = "left, blue: query    then its nearest, nearest first    green: the same thing    red, crossed: another"
    page, top = _page(3 * GAP + step * (most + 1), GAP + step * len(examples), legend)
    ink = ImageDraw.Draw(page)
    for query, found in examples:
        _crop(page, ink, query, (GAP, top), QUERY)
        for i, (crop, same) in enumerate(found):
            spot = (3 * GAP + step * (i + 1), top)
            _crop(page, ink, crop, spot, SAME if same else OTHER)
            if not same:
                _cross(ink, spot)
        top += step
    return _save(page, path)


def _crop(page: Image.Image, ink: ImageDraw.ImageDraw, crop: Picture, spot: tuple[int, int], color: object) -> None:
    """A crop in a square, its sides kept in proportion, in a coloured frame."""
    x, y = spot
    ink.rectangle((x - 4, y - 4, x + CROP + 3, y + CROP + 3), fill=color)  # type: ignore[arg-type]
    ink.rectangle((x, y, x + CROP - 1, y + CROP - 1), fill=INK)
    picture = Image.fromarray(crop).convert("RGB")
    zoom = CROP / max(picture.size)
    size = (max(1, round(picture.width * zoom)), max(1, round(picture.height * zoom)))
    page.paste(picture.resize(size, Image.Resampling.BICUBIC), (x + (CROP - size[0]) // 2, y + (CROP - size[1]) // 2))


def _cross(ink: ImageDraw.ImageDraw, spot: tuple[int, int]) -> None:
    """A sign beside the colour, for eyes that see no difference between green and red."""
    x, y = spot[0] + CROP - 22, spot[1]
    ink.rectangle((x, y, x + 21, y + 21), fill=OTHER)
    ink.line((x + 6, y + 6, x + 15, y + 15), fill=PAPER, width=3)
    ink.line((x + 15, y + 6, x + 6, y + 15), fill=PAPER, width=3)


def _fitted(picture: Image.Image, width: int) -> Image.Image:
    height = max(1, round(picture.height * width / picture.width))
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _page(width: int, height: int, legend: str) -> tuple[Image.Image, int]:
    """A white page with a line of words at its head, folded where it is narrow; and where the pictures begin."""
    font = ImageFont.load_default(15)
    lines: list[str] = []
    line = ""
    for part in legend.split("    "):
        joined = f"{line}     {part}" if line else part
        if line and font.getlength(joined) > width - 2 * GAP:
            lines, joined = [*lines, line], part
        line = joined
    lines.append(line)
    top = GAP + 22 * len(lines) + 6
    page = Image.new("RGB", (width, top + height - GAP), PAPER)
    ink = ImageDraw.Draw(page)
    for i, text in enumerate(lines):
        ink.text((GAP, GAP + 22 * i), text, fill=QUIET, font=font)
    return page, top


def _save(page: Image.Image, path: Path) -> Path:
    """PNG, or JPEG by the path's ending: a quarter of the bytes for photographs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path, quality=90, optimize=True)
    return path
