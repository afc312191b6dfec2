# SPDX-License-Identifier: Apache-2.0
"""Sample pictures with their labels drawn, small enough to stand inside a page."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from unified.contracts.errors import DataError
from unified.contracts.structures import LabelState
from unified.data.lint.finding import Findings
from unified.data.lint.part import Part
from unified.data.picture import read_picture

SAMPLES: Final = 12  # of a split
_SIDE: Final = 320  # pixels of the longer side
_BOXES: Final = 60  # drawn in one picture
_CALM: Final = 9  # boxes, from which a picture is hard to read
_NAMED: Final = 0.1  # of the picture's width, from which a box has its name written


def gallery(part: Part, findings: Findings) -> str:
    """Pictures spread over the split, of their neighbours the ones that tell most; faulty ones at the front."""
    faulty = _faulty(part, findings)
    figures: list[str] = []
    for k in _chosen(part, faulty):
        if len(figures) < SAMPLES and (drawn := _figure(part, k, k in faulty)):
            figures.append(drawn)
    return f'<div class="gallery">{"".join(figures)}</div>' if figures else '<p class="soft">no picture to show</p>'


def _faulty(part: Part, findings: Findings) -> set[int]:
    """Rows of images of which an error or warning is told, or one of their annotations."""
    images, notes = part.examined.sheet.images, part.examined.sheet.annotations
    named = {finding.record for finding in findings if finding.file == part.file and finding.severity != "note"}
    if not named:
        return set()
    rows = {k for k in range(len(images)) if images.at(k) in named}
    of_boxes = part.examined.boxes.image
    return rows | {int(of_boxes[k]) for k in range(len(notes)) if of_boxes[k] >= 0 and notes.at(k) in named}


def _chosen(part: Part, faulty: set[int]) -> list[int]:
    """Rows in the order they are tried."""
    boxes, total = part.examined.boxes, len(part.examined.images.names)
    if not total:
        return []
    usable = boxes.usable
    pairs = np.unique(np.stack([boxes.image[usable], boxes.label[usable]], axis=1), axis=0)
    crowded = np.bincount(boxes.image[usable], minlength=total)
    variety = np.minimum(np.bincount(pairs[:, 0], minlength=total), 4) - np.maximum(crowded - _CALM, 0) / 4
    groups = np.array_split(np.arange(total), min(SAMPLES, total))
    best = [int(group[variety[group].argmax()]) for group in groups if len(group)]
    return list(dict.fromkeys([*sorted(faulty)[: SAMPLES // 3], *best, *range(0, total, max(1, total // 40))]))


def _figure(part: Part, k: int, faulty: bool) -> str:
    path = part.paths[k]
    picture = inline(path, _SIDE) if path else None
    if picture is None or path is None:
        return ""
    href, width, height = picture
    told = part.examined.images.sizes[k]
    x, y = (1.0, 1.0) if np.isnan(told).any() else (width / told[0], height / told[1])
    shapes = _boxes(part, k, x, y, max(width, round(1.35 * height)))
    words = _tags(part, k)
    mark = ' class="faulty"' if faulty else ""
    return (
        f'<figure{mark}><svg viewBox="0 0 {width} {height}" role="img">'
        f'<image href="{href}" width="{width}" height="{height}"/>{shapes}</svg>'
        f"<figcaption><b>{escape(path.name)}</b> {escape(', '.join(words))}</figcaption></figure>"
    )


def inline(path: Path, side: int) -> tuple[str, int, int] | None:
    """A picture as a data URL, scaled down, and its size when it is not; None where it cannot be read."""
    try:
        tensor = read_picture(path)
    except DataError:
        return None
    picture = Image.fromarray(tensor.permute(1, 2, 0).numpy())
    width, height = picture.size
    picture.thumbnail((side, side), Image.Resampling.BOX)
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=72)
    return f"data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode()}", width, height


def _boxes(part: Part, k: int, x: float, y: float, width: int) -> str:
    """The boxes of an image, scaled by ``x`` and ``y``, in a frame that shows ``width`` of its pixels."""
    boxes, names = part.examined.boxes, part.names
    rows = np.flatnonzero((boxes.image == k) & (boxes.label >= 0) & np.isfinite(boxes.xywh).all(axis=1))[:_BOXES]
    size = max(9.0, width * 0.042)
    drawn = []
    for row in rows[np.argsort(-boxes.xywh[rows, 2:].prod(axis=1), kind="stable")].tolist():
        left, top, w, h = boxes.xywh[row] * (x, y, x, y)
        if boxes.corners:
            w, h = w - left, h - top
        left, top, w, h = min(left, left + w), min(top, top + h), abs(w), abs(h)
        label = int(boxes.label[row])
        crowd = "" if boxes.sure[row] else ' stroke-dasharray="5 4"'
        paint = f'style="--hue:{colour(label)}"'
        name = escape(names[label])
        text = f'<text x="{max(left, 0) + 2:.1f}" y="{max(top, 0) + size:.1f}" font-size="{size:.1f}">{name}</text>'
        drawn.append(
            f'<g class="box" {paint}><title>{name}</title>'
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{w:.1f}" height="{h:.1f}"{crowd}/>'
            f"{text if max(w, h) >= _NAMED * width else ''}</g>"
        )
    return "".join(drawn)


def colour(label: int) -> int:
    """A hue in degrees, far from those of the neighbouring classes."""
    return int(label * 137.508 + 12) % 360


def _tags(part: Part, k: int) -> list[str]:
    """The tags of an image that are no presence of a class."""
    source, tell = part.source, getattr(part.source, "annotations", None)
    if source is None or tell is None or not part.config.tags.fields or k >= len(source):
        return []
    size = source.size(k) or (1 << 24, 1 << 24)
    said = tell(k, size).states.get("tags")
    own = source.tag_classes or (-1,) * len(source.vocabulary.tags)
    if said is None:
        return []
    return [
        word
        for word, state, of in zip(source.vocabulary.tags, said.tolist(), own, strict=True)
        if of < 0 and state == LabelState.POSITIVE
    ]
