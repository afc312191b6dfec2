# SPDX-License-Identifier: Apache-2.0
"""Dots in a plane: colour and form say the group, so that no colour is needed to tell them apart."""

from __future__ import annotations

from html import escape

from unified.contracts.section import Point, Scatter
from unified.training.page.scale import Scale

SIDE = 460
EDGE = 14
COLOURS = 8
FORMS = ("dot", "square", "triangle")


def scatter(part: Scatter) -> str:
    """A figure: key and dots; a dot says its text when pointed at."""
    if not part.points:
        return ""
    groups = list(dict.fromkeys(point.group for point in part.points if point.group))
    places = {name: k for k, name in enumerate(groups)}
    xs, ys = ([getattr(point, axis) for point in part.points] for axis in ("x", "y"))
    x, y = Scale(min(xs), max(xs), EDGE, SIDE - EDGE), Scale(min(ys), max(ys), SIDE - EDGE, EDGE)
    ordered = sorted(part.points, key=lambda point: point.group != "")  # coloured ones on top
    dots = "".join(_dot(point, places.get(point.group, -1), x, y) for point in ordered)
    key = "".join(
        f'<button type="button" class="chip c{k % COLOURS} {FORMS[k // COLOURS % 3]}" aria-pressed="true"><i></i>'
        f"{escape(name)}</button>"
        for name, k in places.items()
    )
    note = f'<p class="soft">{escape(part.note)}</p>' if part.note else ""
    return (
        f'<figure class="chart map"><figcaption>{escape(part.title)}</figcaption>{note}<p class="legend">{key}</p>'
        f'<div class="stage"><svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{escape(part.title)}">'
        f"{dots}</svg></div></figure>"
    )


def _dot(point: Point, group: int, x: Scale, y: Scale) -> str:
    a, b = x.at(point.x), y.at(point.y)
    form = FORMS[group // COLOURS % 3] if group >= 0 else "dot"
    if form == "dot":
        shape = f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{4 if group >= 0 else 2.6}"/>'
    elif form == "square":
        shape = f'<rect x="{a - 3.6:.1f}" y="{b - 3.6:.1f}" width="7.2" height="7.2"/>'
    else:
        shape = f'<path d="M{a:.1f} {b - 4.6:.1f}l4.4 8h-8.8z"/>'
    colour = f"c{group % COLOURS}" if group >= 0 else "none"
    name = f' data-name="{escape(point.group)}"' if point.group else ""
    return f'<g class="point {colour}"{name}>{shape}<title>{escape(point.text)}</title></g>'
