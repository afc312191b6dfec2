# SPDX-License-Identifier: Apache-2.0
"""How values are spread: steps drawn over each other."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from unified.contracts.section import Histogram, Series
from unified.training.page.scale import Scale, number, ticks

WIDTH, HEIGHT = 460, 200
LEFT, RIGHT, TOP, BOTTOM = 12, 12, 10, 30


def histogram(part: Histogram) -> str:
    """A figure: each group as shares of its own."""
    shares = {series.label: _shares(series) for series in part.series if sum(series.counts)}
    if not shares or len(part.edges) < 2:
        return ""
    x = Scale(part.edges[0], part.edges[-1], LEFT, WIDTH - RIGHT)
    y = Scale(0.0, max(max(row) for row in shares.values()), HEIGHT - BOTTOM, TOP)
    steps = "".join(
        f'<path class="spread c{k}" d="{outline(part.edges, row, x, y)}"><title>{escape(name)}</title></path>'
        for k, (name, row) in enumerate(shares.items())
    )
    marks = "".join(
        f'<text class="tick" x="{x.at(t):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{number(t)}</text>'
        for t in ticks(x.low, x.high, 6)
        if LEFT + 8 < x.at(t) < WIDTH - 70
    )
    key = "".join(f'<span class="chip c{k}"><i></i>{escape(name)}</span>' for k, name in enumerate(shares))
    note = f'<p class="soft">{escape(part.note)}</p>' if part.note else ""
    end = f'x="{WIDTH - RIGHT}" y="{HEIGHT - BOTTOM + 15}" text-anchor="end"'
    return (
        f'<figure class="chart"><figcaption>{escape(part.title)}</figcaption>{note}<p class="legend">{key}</p>'
        f'<div class="stage"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(part.title)}">'
        f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>{steps}'
        f'{marks}<text class="tick name" {end}>{escape(part.x_name)}</text></svg></div>{_table(part)}</figure>'
    )


def outline(edges: Sequence[float], row: Sequence[float], x: Scale, y: Scale) -> str:
    """The path of a histogram's steps, closed at the bottom."""
    points = [f"M{x.at(edges[0]):.1f} {y.start:.1f}"]
    for k, value in enumerate(row):
        points.append(f"V{y.at(value):.1f}H{x.at(edges[k + 1]):.1f}")
    return "".join(points) + f"V{y.start:.1f}Z"


def _shares(series: Series) -> list[float]:
    total = sum(series.counts)
    return [count / total for count in series.counts]


def _table(part: Histogram) -> str:
    head = "".join(f"<th>{escape(series.label)}</th>" for series in part.series)
    rows = "".join(
        f"<tr><td>{number(part.edges[k])} – {number(part.edges[k + 1])}</td>"
        + "".join(f"<td>{series.counts[k]:,}</td>" for series in part.series)
        + "</tr>"
        for k in range(min(len(part.edges) - 1, *(len(series.counts) for series in part.series)))
    )
    return (
        '<details class="numbers"><summary>Numbers</summary><div class="scroll"><table class="plain"><thead><tr>'
        f"<th>{escape(part.x_name)}</th>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )
