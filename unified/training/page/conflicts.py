# SPDX-License-Identifier: Apache-2.0
"""Which tasks pulled which stage of the trunk apart, and when: a heat map for each pair of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from unified.training.conflictmap import SPAN, ConflictMap, Row, conflict_figure

LABELS, SHARE, WIDTH, ROW, FOOT = 92, 52, 460, 20, 20  # in units of the drawing: columns, whole width, heights

_SAID = (
    "The cosine between two tasks' gradients on the same fixed pictures, stage by stage: blue where they pull the same "
    "way, orange where they pull apart, stronger the further from zero. At the right, the share of looks at which they "
    "pulled apart."
)


def conflicts(run: Path) -> str:
    """Figures of what ``conflict.jsonl`` tells; nothing where nothing was measured."""
    found = conflict_figure(run)
    if found is None or not found.pairs:
        return ""
    figures = "".join(_figure(found, k) for k in range(len(found.pairs)))
    return f'<p class="soft">{_SAID} {escape(_control(found))}</p><div class="parts">{figures}</div>'


def _figure(found: ConflictMap, pair: int) -> str:
    first, second = map(escape, found.pairs[pair])
    note = "" if found.shared[pair] else '<p class="soft">on different pictures, which says little</p>'
    rows = "".join(_row(found, pair, stage) for stage in range(len(found.stages)))
    height = ROW * len(found.stages) + FOOT
    ends = (
        f'<text class="tick" x="{LABELS}" y="{height - 5}">step {found.steps[0]:,}</text>'
        f'<text class="tick" x="{WIDTH - SHARE}" y="{height - 5}" text-anchor="end">{found.steps[-1]:,}</text>'
    )
    return (
        f'<figure class="chart"><figcaption>{first} and {second}</figcaption>{note}<svg viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-label="cosines of the gradients of {first} and {second}">{rows}{ends}</svg></figure>'
    )


def _row(found: ConflictMap, pair: int, stage: int) -> str:
    y, share = stage * ROW, found.conflicting[pair][stage]
    told = "" if share is None else f"{share:.0%}"
    return (
        f'<text class="tick" x="{LABELS - 8}" y="{y + 14}" text-anchor="end">{escape(found.stages[stage])}</text>'
        f"{_cells(found.cosine[pair][stage], found.steps, y)}"
        f'<text class="tick" x="{WIDTH}" y="{y + 14}" text-anchor="end">{told}</text>'
    )


def _cells(values: Row, steps: Sequence[int], y: int) -> str:
    wide = (WIDTH - SHARE - LABELS) / len(steps)
    return "".join(
        f'<rect class="{"apart" if value < 0 else "along"}" x="{LABELS + j * wide:.2f}" y="{y + 1}" '
        f'width="{wide:.2f}" height="{ROW - 2}" fill-opacity="{min(abs(value) / SPAN, 1):.2f}">'
        f"<title>step {step:,}: {value:+.3f}</title></rect>"
        for j, (step, value) in enumerate(zip(steps, values, strict=True))
        if value is not None
    )


def _control(found: ConflictMap) -> str:
    """What a cosine between tasks is to be held against: how far each task agrees with itself on other pictures."""
    told = {task: [value for value in table[-1] if value is not None] for task, table in found.agreement.items()}
    means = [f"{task} {sum(values) / len(values):+.2f}" for task, values in told.items() if values]
    return f"Between different pictures, each task agrees with itself by {', '.join(means)}." if means else ""
