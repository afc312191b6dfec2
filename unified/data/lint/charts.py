# SPDX-License-Identifier: Apache-2.0
"""Small pictures of numbers as inline SVG and HTML tables, drawn without any library."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unified.contracts.structures import LabelState

WIDTH, HEIGHT = 420, 170
_LEFT, _BOTTOM, _TOP = 6, 24, 14
_STATE_ORDER: Final = (
    LabelState.POSITIVE,
    LabelState.NEGATIVE,
    LabelState.EMPTY,
    LabelState.IGNORE,
    LabelState.UNLABELLED,
)

Values = NDArray[np.float64]


def histogram(values: Values, edges: Sequence[float], title: str, unit: str, every: int = 4) -> str:
    """Bars over ``edges``, of which each ``every``-th is written; what lies outside is in the first or last bar."""
    inside = np.clip(values[np.isfinite(values)], edges[0], np.nextafter(edges[-1], 0))
    counts, _ = np.histogram(inside, bins=np.asarray(edges))
    most = max(int(counts.max(initial=0)), 1)
    step = (WIDTH - 2 * _LEFT) / len(counts)
    bars, room = [], HEIGHT - _BOTTOM - _TOP
    for k, count in enumerate(counts.tolist()):
        tall = room * count / most
        x, y = _LEFT + k * step, HEIGHT - _BOTTOM - tall
        low, high = f"{edges[k]:g}", f"{edges[k + 1]:g}"
        bars.append(
            f'<rect class="bar" x="{x + 1:.1f}" y="{y:.1f}" width="{step - 2:.1f}" height="{tall:.1f}" rx="2">'
            f"<title>{low} – {high} {escape(unit)}: {count}</title></rect>"
        )
        if count == most:
            bars.append(
                f'<text class="tick" x="{x + step / 2:.1f}" y="{y - 4:.1f}" text-anchor="middle">{count}</text>'
            )
    marks = _marks(edges, step, every, open_ended=bool((values >= edges[-1]).any()))
    median = f"median {np.median(values):.3g}" if len(values) else "none"
    return (
        f'<figure><figcaption>{escape(title)} <span class="soft">{escape(median)} {escape(unit)}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(bars)}{marks}</svg></figure>'
    )


def _marks(edges: Sequence[float], step: float, every: int, *, open_ended: bool) -> str:
    """The axis, with some of its edges written."""
    y = HEIGHT - _BOTTOM
    axis = f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _LEFT}" y1="{y}" y2="{y}"/>'
    marks = []
    for k in range(0, len(edges), every):
        more = "+" if open_ended and k == len(edges) - 1 else ""
        place = f'x="{_LEFT + k * step:.1f}" y="{y + 15}" text-anchor="{_anchor(k, len(edges))}"'
        marks.append(f'<text class="tick" {place}>{edges[k]:g}{more}</text>')
    return axis + "".join(marks)


def _anchor(k: int, count: int) -> str:
    return "start" if k == 0 else "end" if k == count - 1 else "middle"


def balance(names: Sequence[str], sides: Sequence[tuple[str, Sequence[int]]]) -> str:
    """Boxes of every class, a bar for each split, the most frequent class first."""
    totals = np.array([counts for _, counts in sides], dtype=np.int64).sum(axis=0)
    most = max(int(np.max([counts for _, counts in sides], initial=0)), 1)
    rows = []
    for k in np.argsort(-totals, kind="stable").tolist():
        bars = "".join(
            f'<i class="side-{escape(split)}" style="width:{100 * counts[k] / most:.2f}%"></i>'
            for split, counts in sides
        )
        told = " · ".join(f"{counts[k]}" for _, counts in sides)
        rows.append(f'<tr><th>{escape(names[k])}</th><td class="bars">{bars}</td><td class="num">{told}</td></tr>')
    key = " · ".join(f'<span class="key side-{escape(split)}"></span>{escape(split)}' for split, _ in sides)
    return f'<p class="soft">{key}</p><div class="scroll"><table class="balance">{"".join(rows)}</table></div>'


def heat(names: Sequence[str], together: NDArray[np.int64]) -> str:
    """Co-occurrence as a table: images that show both, the darker the larger the share of the row's images."""
    head = "".join(f"<th><span>{escape(name)}</span></th>" for name in names)
    rows = []
    for k, name in enumerate(names):
        cells = "".join(_cell(int(n), int(together[k, k]), k == j) for j, n in enumerate(together[k]))
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return f'<div class="scroll"><table class="heat"><tr><td></td>{head}</tr>{"".join(rows)}</table></div>'


def _cell(count: int, own: int, diagonal: bool) -> str:
    share = count / own if own else 0.0
    kind = "own" if diagonal else ""
    return f'<td class="{kind}" style="--share:{0.0 if diagonal else share:.3f}">{count or ""}</td>'


def states(counts: Sequence[int]) -> str:
    """One bar of label states."""
    total = max(sum(counts), 1)
    parts = [
        f'<i class="state-{state.name.lower()}" style="width:{100 * counts[state] / total:.2f}%" '
        f'title="{state.name.lower()}: {counts[state]}"></i>'
        for state in _STATE_ORDER
        if counts[state]
    ]
    return f'<div class="stack">{"".join(parts)}</div>'


def state_key() -> str:
    """The colours of the states."""
    return " ".join(
        f'<span class="key state-{state.name.lower()}"></span>{state.name.lower()}' for state in _STATE_ORDER
    )
