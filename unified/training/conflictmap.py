# SPDX-License-Identifier: Apache-2.0
"""The map of a run's conflicts: which tasks pulled which stage in opposite directions, and when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unified.training.conflict import FILE, WHOLE, read_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, LINE = "#22252a", "#767b84", "#e4e6ea"
COLOURS = "RdBu"  # opposite directions are red; also told apart by those who cannot see red from green
SPAN = 0.5  # cosines beyond are shown as this: between tasks they are small
PRINTED = 12  # columns up to which every cell has its number
DPI = 130

Row = tuple[float | None, ...]


@dataclass(frozen=True)
class ConflictMap:
    """What ``conflict.jsonl`` says, as a table. S stages from stem to neck and the whole trunk last, L looks."""

    steps: tuple[int, ...]  # L
    stages: tuple[str, ...]  # S
    pairs: tuple[tuple[str, str], ...]
    shared: tuple[bool, ...]  # by pair: whether the same pictures served both tasks
    cosine: tuple[tuple[Row, ...], ...]  # by pair, (S, L)
    ratio: tuple[tuple[Row, ...], ...]  # by pair, (S, L): length of the first task's gradient over the second's
    conflicting: tuple[Row, ...]  # by pair, (S,): share of the looks at which the cosine was negative
    agreement: dict[str, tuple[Row, ...]]  # by task, (S, L): how far its own batches agree
    images: int  # of a look
    seconds: float  # of all looks together

    def conflicting_until(self, pair: int, stage: int) -> Row:
        """(L,): the share of conflicting looks up to each of them."""
        row, found, negative, known = self.cosine[pair][stage], [], 0, 0
        for value in row:
            known += value is not None
            negative += value is not None and value < 0
            found.append(negative / known if known else None)
        return tuple(found)


def conflict_figure(run: Path) -> ConflictMap | None:
    """The map of a run's folder; None where nothing was measured.

    A line that was written by looks at other stages or tasks than the last one's is left out.
    """
    lines = read_lines(run / FILE)
    if not lines:
        return None
    last = lines[-1]
    lines = [
        line for line in lines if line["stages"] == last["stages"] and line["cosine"].keys() == last["cosine"].keys()
    ]
    pairs = [tuple(name.split("~")) for name in last["cosine"]]
    cosine = tuple(_table(lines, lambda line, s, name=name: line["cosine"][name][s]) for name in last["cosine"])
    ratio = tuple(
        _table(lines, lambda line, s, a=a, b=b: _ratio(line["norm"][a][s], line["norm"][b][s])) for a, b in pairs
    )
    return ConflictMap(
        steps=tuple(line["step"] for line in lines),
        stages=tuple(last["stages"]),
        pairs=tuple((a, b) for a, b in pairs),
        shared=tuple(last["shared"].values()),
        cosine=cosine,
        ratio=ratio,
        conflicting=tuple(tuple(_share(row) for row in table) for table in cosine),
        agreement={t: _table(lines, lambda line, s, t=t: line["agreement"][t][s]) for t in last["agreement"]},
        images=last["images"],
        seconds=sum(line["seconds"] for line in lines),
    )


def conflict_plot(run: Path, path: Path | None = None) -> Path | None:
    """Draws the map as a picture, ``plots/conflict.png`` of the run by default; None where nothing was measured."""
    found = conflict_figure(run)
    if found is None or not found.pairs:
        return None
    path = path or run / "plots" / "conflict.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(found).savefig(path, dpi=DPI)
    return path


def draw(found: ConflictMap) -> Figure:
    """A panel for each pair of tasks: stages over steps, coloured by cosine; the share of conflicts at its side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, for a run reads maps without drawing them
    from matplotlib.figure import Figure

    many, rows = len(found.pairs), len(found.stages)
    across = min(many, 3)
    down = -(-many // across)
    height = 0.27 * rows + 0.9
    figure = Figure(figsize=(1.3 + 4.3 * across, 0.75 + height * down), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    image: Any = None
    for k, axes in enumerate(panels):
        if k < many:
            image = _panel(axes, found, k, named=k % across == 0)
        else:
            axes.set_visible(False)
    bar = figure.colorbar(image, ax=list(panels), shrink=0.8, aspect=18, pad=0.01, extend="both")
    bar.set_label("cosine of gradients", color=SOFT, fontsize=8)
    bar.ax.tick_params(labelsize=7, colors=SOFT, length=0)
    bar.outline.set_visible(False)  # type: ignore[operator]
    figure.suptitle(
        f"Do the tasks pull the trunk the same way?  blue: yes, red: no   ({found.images} fixed images)",
        x=0.01,
        ha="left",
        fontsize=10.5,
        fontweight="bold",
        color=INK,
    )
    figure.supxlabel(_control(found), x=0.01, ha="left", fontsize=8, color=SOFT)
    return figure


def _control(found: ConflictMap) -> str:
    """How far each task agrees with itself on other pictures: what a cosine between tasks is to be held against."""
    told = {task: [value for value in table[-1] if value is not None] for task, table in found.agreement.items()}
    means = [f"{task} {sum(values) / len(values):+.2f}" for task, values in told.items() if values]
    return f"each task with itself, between different pictures (whole trunk, mean): {', '.join(means) or 'one batch'}"


def _panel(axes: Axes, found: ConflictMap, k: int, named: bool) -> Any:
    rows, columns = len(found.stages), len(found.steps)
    values = [[math.nan if v is None else v for v in row] for row in found.cosine[k]]
    image = axes.imshow(values, cmap=COLOURS, vmin=-SPAN, vmax=SPAN, aspect="auto", interpolation="nearest")
    a, b = found.pairs[k]
    note = "" if found.shared[k] else "  (different pictures: says little)"
    axes.set_title(f"{a} and {b}{note}", loc="left", fontsize=9.5, fontweight="bold", color=INK)
    axes.text(columns - 0.35, -0.62, "conflict", fontsize=7, color=SOFT, va="bottom")
    for i, share in enumerate(found.conflicting[k]):
        axes.text(columns - 0.35, i, "" if share is None else f"{share:.0%}", fontsize=7.5, color=INK, va="center")
    if columns <= PRINTED:
        _numbers(axes, values)
    at = sorted({round(i * (columns - 1) / 5) for i in range(6)})
    axes.set_xticks(at, [str(found.steps[i]) for i in at])
    axes.set_yticks(range(rows), found.stages if named else [""] * rows)
    axes.set_xlabel("step", fontsize=8, color=SOFT)
    axes.tick_params(colors=SOFT, labelsize=8, length=0)
    if rows > 1 and found.stages[-1] == WHOLE:
        axes.axhline(rows - 1.5, color="white", linewidth=3)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


def _numbers(axes: Axes, values: Sequence[Sequence[float]]) -> None:
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if not math.isnan(value):
                strong = "white" if abs(value) > 0.7 * SPAN else INK
                axes.text(j, i, f"{value:+.2f}", ha="center", va="center", fontsize=6.5, color=strong)


def _table(lines: Sequence[dict[str, Any]], value: Any) -> tuple[Row, ...]:
    """(S, L) of what each line says of each stage."""
    return tuple(tuple(value(line, s) for line in lines) for s in range(len(lines[-1]["stages"])))


def _share(row: Row) -> float | None:
    known = [value for value in row if value is not None]
    return sum(value < 0 for value in known) / len(known) if known else None


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None
