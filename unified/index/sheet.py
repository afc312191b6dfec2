# SPDX-License-Identifier: Apache-2.0
"""A contact sheet: sections of tiles drawn into one picture."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from unified.contracts.errors import DataError, suggestion
from unified.index.tile import Section, Tile
from unified.inference.drawing import INK, PALETTE, PAPER, SOFT

SIDE: Final = 180  # pixels of a tile
_GAP: Final = 14
_CAPTION: Final = 38
_HEAD: Final = 44
_ACROSS: Final = 6
_MOST: Final = 20  # sections in one sheet
_GREY: Final = (112, 118, 128)
_FORMS: Final = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def draw_sheet(sections: Sequence[Section], across: int = _ACROSS) -> Image.Image:
    """Sections one below the other, ``across`` tiles a line; RGB. At most 20 sections are drawn."""
    sections = sections[:_MOST]
    widest = max([min(across, len(section.tiles)) for section in sections] + [3])
    width = _GAP + widest * (SIDE + _GAP)
    heights = [_height(section, widest) for section in sections]
    sheet = Image.new("RGB", (width, sum(heights) + _GAP), PAPER)
    top = 0
    for section, height in zip(sections, heights, strict=True):
        _draw_section(sheet, section, top, widest)
        top += height
    return sheet


def save_sheet(sections: Sequence[Section], path: Path) -> None:
    """Draws a sheet into a file.

    Raises:
        DataError: an unknown suffix, or the file cannot be written.
    """
    form = _FORMS.get(path.suffix.lower())
    if form is None:
        raise DataError(f"--sheet {path}: unknown suffix{suggestion(path.suffix, _FORMS)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_sheet(sections).save(path, form, quality=92)
    except OSError as error:
        raise DataError(f"--sheet {path}: cannot be written: {error.strerror or error}") from error


def _height(section: Section, across: int) -> int:
    lines = max(1, -(-len(section.tiles) // across))
    return _HEAD + lines * (SIDE + _CAPTION + _GAP)


def _draw_section(sheet: Image.Image, section: Section, top: int, across: int) -> None:
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, top + 14), _fitted(section.title, sheet.width * 0.6, 17), fill=INK, font=_font(17))
    pen.text((sheet.width - _GAP, top + 17), section.note, fill=_GREY, font=_font(14), anchor="ra")
    for k, tile in enumerate(section.tiles):
        left = _GAP + (k % across) * (SIDE + _GAP)
        _draw_tile(sheet, pen, tile, left, top + _HEAD + (k // across) * (SIDE + _CAPTION + _GAP))


def _draw_tile(sheet: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, left: int, top: int) -> None:
    pen.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), fill=(233, 236, 240))
    picture = tile.image(SIDE)
    if picture is None:
        pen.text((left + SIDE / 2, top + SIDE / 2), "not readable", fill=_GREY, font=_font(13), anchor="mm")
    else:
        sheet.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
    edge, width = (PALETTE[4], 4) if tile.asked else (SOFT, 1)
    pen.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), outline=edge, width=width)
    pen.text((left, top + SIDE + 4), _fitted(tile.title, SIDE, 13), fill=INK, font=_font(13))
    pen.text((left, top + SIDE + 20), _fitted(tile.note, SIDE, 13), fill=_GREY, font=_font(13))


def _fitted(text: str, width: float, size: int) -> str:
    """A text that is at most so wide, its middle left out where it is wider."""
    font, kept = _font(size), len(text)
    shortened = text
    while kept > 3 and font.getlength(shortened) > width:
        kept -= 1
        shortened = f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"
    return shortened


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
