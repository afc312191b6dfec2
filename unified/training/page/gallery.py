# SPDX-License-Identifier: Apache-2.0
"""Pictures with boxes drawn over them as SVG, so that they stay sharp and can be pointed at."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Sequence
from html import escape

from unified.contracts.section import Gallery, Mark, Picture, View

NAMED = 26  # names at most in one picture
_ORDER = ("truth", "said", "wrong", "missed")  # the later, the further on top


def gallery(part: Gallery) -> str:
    """A figure: rows of small crops, or a grid of pictures."""
    rows = [[drawn for view in row if (drawn := figure(view, part.strip))] for row in part.rows]
    rows = [row for row in rows if row]
    if not rows:
        return ""
    note = f'<p class="soft">{escape(part.note)}</p>' if part.note else ""
    kind = "strips" if part.strip else "grid"
    title = f"<figcaption>{escape(part.title)}</figcaption>" if part.title else ""
    inside = "".join(f'<div class="{"strip" if part.strip else "cells"}">{"".join(row)}</div>' for row in rows)
    return f'<figure class="pictures {kind}">{title}{note}{inside}</figure>'


def figure(view: View, small: bool = False) -> str:
    """One picture; empty where its pixels are missing."""
    picture = view.picture
    if picture is None or not _sound(picture):
        return ""
    marks = sorted(view.marks, key=lambda mark: _ORDER.index(mark.kind))
    named = [] if small else [mark for mark in reversed(marks) if mark.kind != "truth" and mark.text]
    names = _names(named[:NAMED], picture)
    frames = "".join(_frame(mark, picture) for mark in marks)
    words = f"<span>{escape(view.caption)}</span>" if view.caption else ""
    sign = {"right": "✓ ", "wrong": "✗ "}.get(view.verdict, "") if small else ""
    label = f"{view.verdict} {view.caption or view.image_id}".strip()
    return (
        f'<div class="view {view.verdict}"><svg viewBox="0 0 {picture.width} {picture.height}" role="img" '
        f'aria-label="{escape(label)}"><title>{escape(view.image_id)}</title>'
        f'<image href="data:image/jpeg;base64,{picture.jpeg}" width="{picture.width}" height="{picture.height}"/>'
        f"{frames}{names}</svg>"
        f'<p class="words">{sign}{words}</p></div>'
    )


def _sound(picture: Picture) -> bool:
    """Whether the pixels are base64 and nothing else: they come from a file that anybody may have changed."""
    try:
        b64decode(picture.jpeg, validate=True)
    except (binascii.Error, ValueError):
        return False
    return picture.width > 0 and picture.height > 0


def _place(mark: Mark, picture: Picture) -> tuple[float, float, float, float]:
    (x, y), (a, b) = picture.scale, picture.offset
    x0, y0, x1, y1 = mark.box
    return x0 * x + a, y0 * y + b, x1 * x + a, y1 * y + b


def _frame(mark: Mark, picture: Picture) -> str:
    x0, y0, x1, y1 = _place(mark, picture)
    score = f' data-score="{mark.score:.3f}"' if mark.score is not None else ""
    size = f'x="{x0:.1f}" y="{y0:.1f}" width="{max(x1 - x0, 1):.1f}" height="{max(y1 - y0, 1):.1f}"'
    return f'<g class="box {mark.kind}"{score}><title>{escape(mark.text)}</title><rect {size}/></g>'


def _names(marks: Sequence[Mark], picture: Picture) -> str:
    """What the boxes are called, the most important first; a name that would hide another is left to the pointer."""
    size = max(picture.width, picture.height) / 24
    taken: list[tuple[float, float, float]] = []  # left, right, baseline
    drawn = []
    for mark in marks:
        x0, y0, _, y1 = _place(mark, picture)
        wide = 0.56 * size * len(mark.text)
        x = min(max(x0, 0.0) + 2, max(picture.width - wide, 2))
        for y in (y0 - 0.3 * size, max(y0, 0.0) + 1.05 * size, y1 + 1.05 * size):
            inside = size <= y <= picture.height - 3
            free = all(x > right or x + wide < left or abs(y - base) > size for left, right, base in taken)
            if inside and free:
                taken.append((x, x + wide, y))
                drawn.append(_name(mark, x, y, size))
                break
    return "".join(drawn)


def _name(mark: Mark, x: float, y: float, size: float) -> str:
    score = f' data-score="{mark.score:.3f}"' if mark.score is not None else ""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size:.1f}"'
    return f'<text class="{mark.kind}"{score} {place}>{escape(mark.text)}</text>'
