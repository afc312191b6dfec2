# SPDX-License-Identifier: Apache-2.0
"""Pictures of a run: what the log says, drawn with matplotlib in one plain style."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unified.contracts.protocols import Curve, Task
from unified.training.exhibit import confident, pixels, retrieval_examples, truth
from unified.training.page.smoothing import smoothed as smoothed
from unified.training.sheet import prediction_sheet, retrieval_strip

if TYPE_CHECKING:
    from unified.training.evaluator import Evaluation
    from unified.training.folder import RunFolder

# Okabe and Ito 2008, without the yellow that nobody sees on white
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7E2954", "#666666")
INK, SOFT, GRID = "#22252a", "#767b84", "#e4e6ea"
LINES = 5  # metrics of a task in one panel
NAMED = 8  # curves that get a colour and a name each
DPI = 110

SHEET = 12  # pictures on the sheet of predictions

Points = tuple[list[float], list[float]]


def report(folder: RunFolder, evaluation: Evaluation, tasks: Mapping[str, Task] | None = None) -> list[Path]:
    """Draws everything there is something for into the run's ``plots/``; returns the files.

    Args:
        folder: the run.
        evaluation: its last evaluation, with curves and shown images.
        tasks: the run's tasks; they say which annotations are tags.
    """
    plots, drawn = folder.plots, write_plots(folder.path)
    for name, curves in evaluation.curves.items():
        if curves:
            drawn.append(
                curve_plot(curves, plots / f"{name.replace('/', '-')}.png", name.replace("/", ": ").replace("_", " "))
            )
    shown = evaluation.shown
    if shown:
        count = min(SHEET, len(shown))
        first = [shown[i * len(shown) // count] for i in range(count)]
        said, true = [confident(one.prediction) for one in first], [truth(one, tasks or {}) for one in first]
        drawn.append(prediction_sheet([pixels(one) for one in first], said, true, plots / "predictions.jpg"))
    examples = retrieval_examples(shown)
    if examples:
        drawn.append(retrieval_strip(examples, plots / "retrieval.jpg"))
    return drawn


def write_plots(run: Path) -> list[Path]:
    """Draws ``plots/losses.png`` and ``plots/metrics.png`` of a run's log; returns those there was something for."""
    steps, evaluations = read_log(run / "log.jsonl")
    drawn = []
    if steps:
        drawn.append(loss_plot(steps, run / "plots" / "losses.png"))
    if evaluations:
        drawn.append(metric_plot(evaluations, run / "plots" / "metrics.png"))
    return drawn


def read_log(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The step lines and the evaluation lines of a log; a line that a crash cut off is left out."""
    steps: list[dict[str, Any]] = []
    evaluations: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "metrics" in entry:
            evaluations.append(entry)
        elif "losses" in entry:
            steps.append(entry)
    return steps, evaluations


def loss_plot(steps: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """A panel a task: its whole loss, raw and smoothed, and its terms."""
    series = _series((entry["step"], entry["losses"]) for entry in steps)
    tasks = [name for name in series if "/" not in name]
    figure, panels = _panels(len(tasks))
    for task, axes in zip(tasks, panels, strict=False):
        terms = [name for name in series if name.startswith(f"{task}/")]
        _raw_and_smooth(axes, series[task], COLORS[0], task)
        for term, color in zip(terms if len(terms) > 1 else [], COLORS[1:], strict=False):
            axes.plot(series[term][0], smoothed(series[term][1]), color=color, linewidth=1.3, label=_short(term))
        _dress(axes, f"{task} loss", "step", "loss")
        _limit_to_bulk(axes, [series[name][1] for name in (task, *terms)])
        _legend(axes)
    return _save(figure, path)


def metric_plot(evaluations: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """A panel a task: its first scores over the steps, the last value written at the line's end."""
    series = _series((entry["step"], entry["metrics"]) for entry in evaluations)
    tasks = list(dict.fromkeys(name.rpartition("/")[0] for name in series))
    figure, panels = _panels(len(tasks))
    for task, axes in zip(tasks, panels, strict=False):
        names = [name for name in series if name.rpartition("/")[0] == task][:LINES]
        for name, color in zip(names, COLORS, strict=False):
            x, y = series[name]
            label = f"{_short(name)}  {y[-1]:.3f}"
            axes.plot(x, y, color=color, linewidth=1.8, marker="o", markersize=3.5, label=label)
        _dress(axes, task or "scores", "step", "score")
        _unit_interval(axes, [series[name][1] for name in names])
        _legend(axes)
    return _save(figure, path)


def curve_plot(curves: Sequence[Curve], path: Path, title: str) -> Path:
    """Curves of one metric. Many are drawn in grey, with those called ``all`` or ``mean`` standing out."""
    figure, (axes,) = _panels(1)
    many = len(curves) > NAMED
    for i, curve in enumerate(curves):
        chief = curve.label.split()[0] in ("all", "mean") if curve.label else False
        plain = many and not chief
        color = "#b9bec7" if plain else COLORS[0] if chief else COLORS[i % len(COLORS)]
        axes.plot(
            curve.x,
            curve.y,
            color=color,
            linewidth=0.8 if plain else 2.4 if chief else 1.8,
            label=None if plain else curve.label,
            zorder=2 if plain else 3,
        )
    if many:
        axes.plot([], [], color="#b9bec7", linewidth=0.8, label=f"{len(curves)} curves in all")
    _dress(axes, title, curves[0].x_name if curves else "", curves[0].y_name if curves else "")
    _unit_interval(axes, [curve.y for curve in curves])
    _legend(axes)
    return _save(figure, path)


def _series(entries: Iterable[tuple[float, Mapping[str, float]]]) -> dict[str, Points]:
    """(steps, values) by name, in order of first appearance; what is no finite number is left out."""
    series: dict[str, Points] = {}
    for step, values in entries:
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                x, y = series.setdefault(name, ([], []))
                x.append(step)
                y.append(value)
    return series


def _short(name: str) -> str:
    return name.rpartition("/")[2]


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, three in a row."""
    columns = min(max(count, 1), 3)
    rows = -(-max(count, 1) // columns)
    figure = Figure(figsize=(1.2 + 4.1 * columns, 0.4 + 3.1 * rows), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    panels = [axes for row in grid for axes in row]
    for axes in panels[max(count, 1) :]:
        axes.set_visible(False)
    return figure, panels


def _raw_and_smooth(axes: Axes, points: Points, color: str, label: str) -> None:
    x, y = points
    axes.plot(x, y, color=color, linewidth=0.7, alpha=0.28)
    axes.plot(x, smoothed(y), color=color, linewidth=2.0, label=label)


def _dress(axes: Axes, title: str, x_name: str, y_name: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(x_name, fontsize=9, color=SOFT)
    axes.set_ylabel(y_name, fontsize=9, color=SOFT)
    axes.tick_params(colors=SOFT, labelsize=8, length=0)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)


def _limit_to_bulk(axes: Axes, all_values: Sequence[Sequence[float]]) -> None:
    """A few wild first steps must not flatten the rest."""
    values = sorted(value for values in all_values for value in values)
    if len(values) < 2:
        return
    top, largest = values[min(int(0.995 * len(values)), len(values) - 1)], values[-1]
    axes.set_ylim(min(0.0, values[0]), 1.08 * (top if largest > 2 * top > 0 else largest) or 1.0)


def _unit_interval(axes: Axes, all_values: Sequence[Sequence[float]]) -> None:
    """Scores between 0 and 1 are shown on that scale, so that pictures compare."""
    if all(0 <= value <= 1 for values in all_values for value in values):
        axes.set_ylim(0, 1.02)


def _legend(axes: Axes) -> None:
    handles, _ = axes.get_legend_handles_labels()
    if len(handles) > 1 or any(" " in str(handle.get_label()) for handle in handles):
        axes.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor="none", labelcolor=INK)


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    return path
