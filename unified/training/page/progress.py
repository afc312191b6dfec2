# SPDX-License-Identifier: Apache-2.0
"""How a run went, from its log: losses, scores, learning rate, pace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from unified.contracts.section import Chart, Line
from unified.training.page.log import Points, RunLog
from unified.training.page.smoothing import smoothed

POINTS = 280  # of a line
SCORES = 8  # of a task in one chart


def loss_charts(log: RunLog) -> list[Chart]:
    """A chart a task: its whole loss, raw and smoothed, and its terms."""
    series = log.series("losses")
    charts = []
    for task in (name for name in series if "/" not in name):
        terms = [name for name in series if name.startswith(f"{task}/")]
        lines = [_smooth(series[task], task, chief=True)]
        lines += [_smooth(series[name], name.partition("/")[2]) for name in terms if len(terms) > 1]
        raw = _line(series[task], task).model_copy(update={"faint": True})
        charts.append(Chart(title=f"{task}: loss", x_name="step", y_name="loss", lines=(*lines, raw)))
    return charts


def score_charts(log: RunLog) -> list[Chart]:
    """A chart a task: its scores at every evaluation; of a single one there is nothing to draw."""
    series = {name: points for name, points in log.series("metrics").items() if len(points[0]) > 1}
    charts = []
    for task in dict.fromkeys(name.rpartition("/")[0] for name in series):
        names = [name for name in series if name.rpartition("/")[0] == task][:SCORES]
        lines = tuple(_line(series[name], name.rpartition("/")[2]) for name in names)
        charts.append(Chart(title=f"{task or 'run'}: scores", x_name="step", y_name="score", lines=lines))
    return charts


def pace_charts(log: RunLog) -> list[Chart]:
    """Learning rate, images a second, and the share of the time spent waiting for data."""
    rate, images, wait, memory = (
        log.series("", name).get(name) for name in ("lr", "images_per_second", "wait", "memory_mb")
    )
    charts = []
    if rate:
        charts.append(_chart("Learning rate", "rate", [_line(rate, "lr")]))
    if images:
        raw = _line(images, "images/s").model_copy(update={"faint": True})
        charts.append(_chart("Images a second", "images/s", [_smooth(images, "images/s", chief=True), raw]))
    if wait:
        charts.append(
            _chart("Share of the time spent waiting for data", "share", [_smooth(wait, "waiting", chief=True)])
        )
    if memory and max(memory[1]) > 0:
        charts.append(_chart("Memory at its highest, MiB", "MiB", [_line(memory, "memory")]))
    return charts


def median(values: Iterable[float]) -> float | None:
    """The middle value, None of nothing."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else None


def _chart(title: str, y_name: str, lines: Sequence[Line]) -> Chart:
    return Chart(title=title, x_name="step", y_name=y_name, lines=tuple(lines))


def _smooth(points: Points, label: str, chief: bool = False) -> Line:
    return _line((points[0], smoothed(points[1])), label, chief)


def _line(points: Points, label: str, chief: bool = False) -> Line:
    """Thinned to what can be seen; the last point always stays."""
    step = max(1, len(points[0]) // POINTS)
    x, y = ((*values[:-1:step], values[-1]) for values in points)
    return Line(label=label, x=x, y=y, chief=chief)
