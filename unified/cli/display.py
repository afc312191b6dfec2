# SPDX-License-Identifier: Apache-2.0
"""The screen of a training run: a live line at the foot, a lasting line for every evaluation, a table at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from unified.training.folder import RunFolder
from unified.training.monitor import EvaluationRecord, Monitor, Plan, RunSummary, StepRecord

PLAIN_EVERY = 10.0  # seconds between lines where there is no terminal to draw on
SMOOTHING = 0.9
SHOWN_SCORES = 2  # of a task, in one line

_STRONG, _SOFT = "bold cyan", "dim"


class Display(Monitor):
    """Shows a run on a terminal; writes plain lines now and then where output goes to a file or pipe."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.plan: Plan | None = None
        self.live: Live | None = None
        self.losses: dict[str, float] = {}
        self.rate = 0.0
        self.begun = time.monotonic()
        self.first: StepRecord | None = None
        self.last: StepRecord | None = None
        self.told = 0.0

    def start(self, plan: Plan) -> None:
        self.plan, self.begun = plan, time.monotonic()
        self.console.print(plan_table(plan))
        for note in plan.notes:
            self.message(note)
        if self.console.is_terminal:
            self.live = Live(console=self.console, refresh_per_second=4, transient=True)
            self.live.start()

    def step(self, record: StepRecord) -> None:
        self.first = self.first or record
        self.last = record
        for name, value in record.losses.items():
            if "/" not in name:
                before = self.losses.get(name, value)
                self.losses[name] = SMOOTHING * before + (1 - SMOOTHING) * value
        self.rate = record.images_per_second if not self.rate else 0.9 * self.rate + 0.1 * record.images_per_second
        if self.live:
            self.live.update(self._screen(record))
        elif time.monotonic() - self.told >= PLAIN_EVERY or record.step == record.steps:
            self.told = time.monotonic()
            self.console.print(self._plain(record), soft_wrap=True, highlight=False)

    def evaluation(self, record: EvaluationRecord) -> None:
        line = Text(f"step {record.step:>6}  ", style=_SOFT)
        line.append(_scores(record.metrics), style="default")
        line.append(f"  ({record.images} images, {record.seconds:.0f} s)", style=_SOFT)
        line.append("  best" if record.best else "", style="bold green")
        self.console.print(line, soft_wrap=True, highlight=False)

    def message(self, text: str) -> None:
        self.console.print(Text(f"note: {text}", style="yellow"), soft_wrap=True)

    def end(self, summary: RunSummary) -> None:
        self.close()
        self.console.print(closing(summary), soft_wrap=True)

    def close(self) -> None:
        if self.live:
            self.live.stop()
            self.live = None

    def left(self, record: StepRecord) -> float | None:
        """Seconds to go: by the pace of the steps so far, or by the time budget where that is shorter."""
        first = self.first or record
        done = record.step - first.step
        by_steps = (record.seconds - first.seconds) / done * (record.steps - record.step) if done else None
        budget = self.plan.max_seconds if self.plan else None
        by_time = max(budget - record.seconds, 0.0) if budget else None
        known = [seconds for seconds in (by_steps, by_time) if seconds is not None]
        return min(known) if known else None

    def share(self, record: StepRecord) -> float:
        """How much of the run is done, 0..1."""
        budget = self.plan.max_seconds if self.plan else None
        return min(1.0, max(record.step / record.steps, record.seconds / budget if budget else 0.0))

    def _screen(self, record: StepRecord) -> RenderableType:
        share = self.share(record)
        line = Table.grid(padding=(0, 1), expand=False)
        line.add_row(
            Text(f"{share:4.0%}", style="bold"),
            ProgressBar(total=1.0, completed=share, width=32),
            Text(f"step {record.step}/{record.steps}  epoch {record.epoch:.1f}"),
            Text(f"{_clock(self.left(record))} left", style=_STRONG),
        )
        losses = Text("     ")
        for name, value in self.losses.items():
            losses.append(f"{name} ", style=_SOFT).append(f"{value:.3f}   ", style="bold")
        losses.append(self._pace(record), style=_SOFT)
        return Group(line, losses)

    def _pace(self, record: StepRecord) -> str:
        rate = f"{self.rate:.0f}" if self.rate >= 10 else f"{self.rate:.1f}"
        memory = f"  {record.memory_mb / 1024:.1f} GiB" if record.memory_mb else ""
        skipped = f"  {record.skipped} skipped" if record.skipped else ""
        return f"{rate} img/s, waiting for data {record.wait:.0%}  lr {record.lr:.2g}{memory}{skipped}"

    def _plain(self, record: StepRecord) -> str:
        losses = "  ".join(f"{name} {value:.3f}" for name, value in self.losses.items())
        left = _clock(self.left(record))
        return f"step {record.step:>6}/{record.steps}  {losses}  {self._pace(record)}  {left} left"


def plan_table(plan: Plan) -> RenderableType:
    """What is about to happen, in a few lines."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style=_SOFT)
    table.add_column()
    table.add_row("run", Text(str(plan.run), style=_STRONG))
    table.add_row("tasks", ", ".join(plan.tasks))
    for name, part in plan.datasets.items():
        table.add_row("data", f"{name}: {part.images:,} images for {', '.join(part.tasks) or 'no task'}")
    table.add_row("network", f"{plan.parameters:,} parameters, {plan.size} px")
    end = f", or {_clock(plan.max_seconds)} if that comes first" if plan.max_seconds else ""
    table.add_row("plan", f"{plan.steps:,} steps of {plan.batch} images{end}")
    table.add_row("device", f"{plan.device}, {plan.precision}")
    return Padding(table, (1, 0))


def metric_table(metrics: Mapping[str, float], title: str | None = None) -> Table:
    """All scores, a section a task."""
    table = Table("task", "score", "value", title=title, title_justify="left")
    table.columns[2].justify = "right"
    before = None
    for name, value in metrics.items():
        task, _, score = name.rpartition("/")
        if before not in (None, task):
            table.add_section()
        table.add_row(task if task != before else "", score, f"{value:.4f}")
        before = task
    return table


def closing(summary: RunSummary) -> RenderableType:
    """The last screen: numbers, where everything lies, what to try next."""
    how = "interrupted" if summary.interrupted else "finished"
    head = Text(f"\n{how} after {summary.steps:,} steps, {_clock(summary.seconds)}\n", style="bold")
    parts: list[RenderableType] = [head]
    if summary.metrics:
        parts.append(metric_table(summary.metrics))
    parts.append(Padding(_where(summary.folder), (1, 0, 0, 0)))
    parts += [Text(), _next(summary)]
    return Group(*parts)


def _where(folder: Path) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style=_SOFT)
    places = {
        "run": folder,
        "report": folder / "report.html",
        "best checkpoint": RunFolder(folder).pointed("best"),
        "plots": folder / "plots",
        "log": folder / "log.jsonl",
    }
    for name, path in places.items():
        if path and path.exists():
            table.add_row(name, Text(str(path), overflow="fold"))
    return table


def _next(summary: RunSummary) -> Text:
    folder = summary.folder
    commands = {
        f"unified-predict {folder} your/photos": "what it says of your pictures",
        f"unified-eval {folder}": "the scores again",
        "unified-train --data your.yaml": "learn from your own data",
    }
    if summary.interrupted:
        commands = {f"unified-train --resume {folder}": "go on where it stopped", **commands}
    text = Text(style="default")
    for command, what in commands.items():  # unbroken lines, so that they can be copied
        text.append(f"  {command}", style=_STRONG).append(f"   {what}\n", style=_SOFT)
    return text


def _scores(metrics: Mapping[str, float]) -> str:
    """The first scores of every task in one line."""
    shown: dict[str, list[str]] = {}
    for name, value in metrics.items():
        shown.setdefault(name.rpartition("/")[0], []).append(f"{name} {value:.3f}")
    return "  ".join(text for texts in shown.values() for text in texts[:SHOWN_SCORES])


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
