# SPDX-License-Identifier: Apache-2.0
"""A chart as inline SVG that can be read with the eye, the pointer, or as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from unified.contracts.section import Chart, Line
from unified.training.page.scale import Scale, number, ticks

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 30
COLOURS = 8  # then they begin again, with broken lines
ROWS = 21  # of the table below a chart
COLUMNS = 8
WILD = 2.0  # times the bulk of the values, from which a few of them are cut off


def chart(part: Chart) -> str:
    """A figure: title, key, drawing, and its numbers."""
    lines = [line for line in part.lines if _points(line)]
    if not lines:
        return ""
    x, y = _scales(lines)
    number_of = {line.label: k for k, line in reversed([*enumerate(lines)])}  # raw values share their mean's colour
    behind = sorted(lines, key=lambda line: (not line.faint, line.chief))
    drawn = "".join(_line(line, number_of[line.label], part.pick, x, y) for line in behind)
    note = f'<p class="soft">{escape(part.note)}</p>' if part.note else ""
    place = f'data-x="{x.told}" data-y="{y.told}" data-xn="{escape(part.x_name)}"'
    many = " pick" if part.pick and len(lines) > 1 else ""
    return (
        f'<figure class="chart{many}"><figcaption>{escape(part.title)}</figcaption>{note}{_key(lines, part.pick)}'
        f'<div class="stage"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(part.title)}" {place}>'
        f"{_grid(x, y, part)}{drawn}</svg></div>{_table(part, lines)}</figure>"
    )


def _points(line: Line) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(line.x, line.y, strict=False) if x is not None and y is not None]


def _scales(lines: Sequence[Line]) -> tuple[Scale, Scale]:
    """What lies between 0 and 1 is shown on that scale, so that charts compare; a few wild values are cut off."""
    points = [point for line in lines for point in _points(line)]
    xs, ys = sorted(x for x, _ in points), sorted(y for _, y in points)
    low, high = min(0.0, ys[0]), ys[-1]
    if low == 0 and 0.25 < high <= 1:
        high = 1.0
    elif len(ys) > 20:
        bulk = ys[int(0.995 * (len(ys) - 1))]
        high = bulk if high > WILD * bulk > 0 else high
    ends = (0.0, 1.0) if xs[0] >= 0 and xs[-1] <= 1 else (xs[0], xs[-1])
    return (
        Scale(*ends, LEFT, WIDTH - RIGHT),
        Scale(low, (high if high == 1.0 else high * 1.05) or 1.0, HEIGHT - BOTTOM, TOP),
    )


def _line(line: Line, k: int, pick: bool, x: Scale, y: Scale) -> str:
    points = _points(line)
    path = " ".join(f"{x.at(a):.2f},{y.at(min(max(b, y.low), y.high)):.2f}" for a, b in points)
    words = ["line", f"c{k % COLOURS}"]
    words += ["many"] if pick and not line.chief else ["chief"] if line.chief else []
    words += ["faint"] if line.faint else []
    words += ["broken"] if k >= COLOURS and not pick else []
    name = "" if line.faint else f' data-name="{escape(line.label)}"'
    shape = f'<polyline points="{path}"/>'
    if len(points) == 1:
        shape = f'<circle class="dot" cx="{x.at(points[0][0]):.2f}" cy="{y.at(points[0][1]):.2f}" r="3"/>'
    return f'<g class="{" ".join(words)}"{name}>{shape}{_mark(line, x, y)}</g>'


def _mark(line: Line, x: Scale, y: Scale) -> str:
    if line.mark is None:
        return ""
    a, b, words = line.mark
    left, top = x.at(a), y.at(min(max(b, y.low), y.high))
    side, gap = ("end", -7) if left > WIDTH / 2 else ("start", 7)
    base = top - 8 if top > TOP + 20 else top + 18
    return (
        f'<g class="mark"><circle cx="{left:.2f}" cy="{top:.2f}" r="4"/>'
        f'<text x="{left + gap:.2f}" y="{base:.2f}" text-anchor="{side}">{escape(words)}</text></g>'
    )


def _grid(x: Scale, y: Scale, part: Chart) -> str:
    rows = "".join(
        f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y.at(t):.1f}" y2="{y.at(t):.1f}"/>'
        f'<text class="tick" x="{LEFT - 7}" y="{y.at(t) + 3.5:.1f}" text-anchor="end">{number(t)}</text>'
        for t in ticks(y.low, y.high, 4)
    )
    columns = "".join(
        f'<text class="tick" x="{x.at(t):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{number(t)}</text>'
        for t in ticks(x.low, x.high, 5)
        if x.at(t) < WIDTH - RIGHT - 34
    )
    end = f'x="{WIDTH - RIGHT}" y="{HEIGHT - BOTTOM + 15}" text-anchor="end"'
    return f'<g class="grid">{rows}{columns}<text class="tick name" {end}>{escape(part.x_name)}</text></g>'


def _key(lines: Sequence[Line], pick: bool) -> str:
    """Names and last values of the lines; of many, where one is picked."""
    named = [(k, line) for k, line in enumerate(lines) if not line.faint]
    if pick and len(named) > 1:
        options = "".join(f"<option>{escape(line.label)}</option>" for _, line in named if not line.chief)
        chief = next((line.label for _, line in named if line.chief), "")
        return (
            f'<p class="legend"><span class="chip chief"><i></i>{escape(chief)}</span>'
            f'<label class="chip picked"><i></i><select><option value="">pick one of {len(named) - bool(chief)}'
            f"</option>{options}</select></label></p>"
        )
    if len(named) < 2:
        return ""
    chips = []
    for k, line in named:
        broken = " broken" if k >= COLOURS else ""
        chips.append(
            f'<button type="button" class="chip c{k % COLOURS}{broken}" aria-pressed="true"><i></i>'
            f"{escape(line.label)}</button>"
        )
    return f'<p class="legend">{"".join(chips)}</p>'


def _table(part: Chart, lines: Sequence[Line]) -> str:
    """The numbers, thinned."""
    shown = [line for line in lines if not line.faint][:COLUMNS]
    longest = max(shown or lines, key=lambda line: len(line.x))
    xs = [x for x, _ in _points(longest)]
    step = max(1, math.ceil(len(xs) / (ROWS - 1)))
    chosen = sorted({*xs[::step], xs[-1]})
    head = "".join(f"<th>{escape(line.label)}</th>" for line in shown)
    rows = "".join(
        f"<tr><td>{number(x)}</td>{''.join(f'<td>{_value(line, x)}</td>' for line in shown)}</tr>" for x in chosen
    )
    more = f'<p class="soft">the first {COLUMNS} of {len(lines)} lines</p>' if len(lines) > COLUMNS else ""
    return (
        f'<details class="numbers"><summary>Numbers</summary><div class="scroll"><table class="plain">'
        f"<thead><tr><th>{escape(part.x_name)}</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>{more}</details>"
    )


def _value(line: Line, x: float) -> str:
    """The value at the nearest point."""
    points = _points(line)
    near = min(points, key=lambda point: abs(point[0] - x))
    return number(near[1])
