# SPDX-License-Identifier: Apache-2.0
"""The picture of a comparison: every arm's change with its interval, seed by seed."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from unified.study.comparison import Comparison, Row
from unified.study.statistics import Interval

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#9aa0aa"  # Okabe and Ito 2008
INK, SOFT, GRID, BAND = "#22252a", "#767b84", "#e4e6ea", "#f6f7f9"
DPI = 140


def draw_forest(found: Comparison, path: Path, title: str = "") -> Path:
    """A row an arm, a panel for delta m and one for each task; dots are seeds, the line is the t-interval."""
    rows = [row for row in found.rows if row.arm != found.baseline]
    panels = 1 + len(found.tasks)
    label = max((len(row.arm) for row in rows), default=8)
    size = (0.085 * label + 1.0 + 2.35 * panels, 1.25 + 0.36 * max(len(rows), 2))
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    _panel(axes[0], rows, "Δm", "mean over tasks", [row.delta for row in rows], strong=True)
    for k, task in enumerate(found.tasks, start=1):
        base = found.row(found.baseline).scores[task].mean
        below = f"{found.baseline}: {found.primary[task]} {100 * base:.1f}"
        _panel(axes[k], rows, task, below, [row.relative.get(task) for row in rows], strong=False)
    axes[0].set_yticks(range(len(rows)), [row.arm for row in rows], fontsize=9, color=INK)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    many = len(found.seeds)
    what = f"{many} seeds, 95 % t-interval" if many > 1 else "one seed, no interval"
    figure.suptitle(
        title or f"Change against '{found.baseline}'", x=0.01, ha="left", fontsize=11.5, fontweight="bold", color=INK
    )
    figure.supxlabel(f"relative change against '{found.baseline}' in %   ({what})", fontsize=8.5, color=SOFT)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path


def _panel(axes: Axes, rows: list[Row], name: str, below: str, changes: list[Interval | None], strong: bool) -> None:
    for k in range(0, len(rows), 2):
        axes.axhspan(k - 0.5, k + 0.5, color=BAND, zorder=0)
    axes.axvline(0, color=INK, linewidth=0.9, zorder=1)
    for k, change in enumerate(changes):
        if change is not None:
            _mark(axes, k, change, strong)
    if not any(changes):
        axes.text(
            0.5,
            0.5,
            "not known:\nthe baseline is 0",
            transform=axes.transAxes,
            fontsize=8,
            color=SOFT,
            ha="center",
            va="center",
            backgroundcolor="white",
        )
        axes.set_xticks([0])
    axes.set_title(name, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=16)
    axes.text(0, 1.02, below, transform=axes.transAxes, fontsize=7.5, color=SOFT, va="bottom")
    axes.tick_params(colors=SOFT, labelsize=8, length=0)
    axes.tick_params(axis="y", colors=INK)
    if any(changes):
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(True, axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.12)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _mark(axes: Axes, k: int, change: Interval, strong: bool) -> None:
    sure = change.half is not None and (change.low > 0 or change.high < 0)
    color = (BLUE if change.mean > 0 else ORANGE) if sure else GREY
    if change.half is not None:
        axes.plot(
            [change.low, change.high], [k, k], color=color, linewidth=2.6 if strong else 1.8, alpha=0.75, zorder=2
        )
    spread = [k + 0.2] * len(change.values)
    axes.scatter(change.values, spread, s=9, facecolor="white", edgecolor=color, linewidth=0.9, zorder=3)
    axes.scatter([change.mean], [k], s=38 if strong else 26, color=color, zorder=4)
    axes.annotate(
        f"{round(change.mean, 1) + 0.0:+.1f}",  # no -0.0
        (change.mean, k),
        (0, 5),
        textcoords="offset points",
        ha="center",
        fontsize=7.5,
        color=INK,
        path_effects=[withStroke(linewidth=2.2, foreground="white")],  # the line at 0 does not cross a number
        zorder=5,
    )
