# SPDX-License-Identifier: Apache-2.0
"""Keeps what the page of a run needs while the run goes on, and writes the page at every evaluation and at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from unified.contracts.config import RunConfig
from unified.contracts.protocols import Task
from unified.contracts.section import Explains, Section
from unified.data.mixing import Mixture
from unified.model.network import UnifiedNetwork
from unified.training.evaluator import Evaluation
from unified.training.folder import RunFolder
from unified.training.monitor import EvaluationRecord, Monitor, Plan, RunSummary, StepRecord
from unified.training.page.album import Album
from unified.training.page.census import census
from unified.training.page.document import write_report
from unified.training.page.environment import environment
from unified.training.page.latents import latent_notes, latent_values, read_values, write_values
from unified.training.page.predictions import predictions
from unified.training.page.record import Look, Message, Record, Sitting, TaskNote, read_record, write_record

MESSAGES = 200  # kept of one run


class Story(Monitor):
    """A listener of the main process that also sees the network at every evaluation.

    What goes wrong here is told in one line and costs the run nothing but the page.

    Args:
        folder: the run's.
        config: what it trains.
        tasks: its tasks by name.
        train, val: its data.
        network: as it stands before the first step of this process.
        resumed: the step that a run goes on from; None for a fresh one.
        tell: hears of what goes wrong.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: RunConfig,
        tasks: Mapping[str, Task],
        train: Mixture,
        val: Mixture,
        network: UnifiedNetwork,
        *,
        resumed: int | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.folder, self.config, self.tasks = folder, config, tasks
        self.train, self.val = train, val
        self.tell = tell or (lambda text: None)
        self.record = Record()
        self.step_now = resumed or 0
        self.seen: dict[str, Any] = {}
        self.seconds = 0.0  # spent here
        self.before = latent_values(network, "before") if resumed is None else {}
        self._safely(self._begin, network, resumed is not None)

    def __enter__(self) -> Story:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Whoever trains inside and stops by an error has it on the page."""
        if error is not None:
            words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            self._safely(self._write, f"stopped by {words}")

    def start(self, plan: Plan) -> None:
        self._safely(self._started, plan)

    def step(self, record: StepRecord) -> None:
        self.step_now = record.step

    def look(self, network: UnifiedNetwork, evaluation: Evaluation) -> None:
        """Takes in what an evaluation found; :meth:`evaluation` follows."""
        self._safely(self._look, network, evaluation)

    def evaluation(self, record: EvaluationRecord) -> None:
        self.step_now = record.step
        self._safely(self._evaluated, record)

    def message(self, text: str) -> None:
        if len(self.record.messages) < MESSAGES:
            told = Message(step=self.step_now, text=text)
            self.record = self.record.model_copy(update={"messages": (*self.record.messages, told)})

    def end(self, summary: RunSummary) -> None:
        self._safely(self._write, "interrupted" if summary.interrupted else "finished")

    def _safely(self, act: Callable[..., None], *given: Any) -> None:
        began = time.monotonic()
        try:
            act(*given)
        except Exception as error:  # a page is not worth a run, whatever a plug-in's metric does
            self.tell(f"report.html is not up to date: {type(error).__name__}: {error}")
        self.seconds += time.monotonic() - began

    def _begin(self, network: UnifiedNetwork, resumed: bool) -> None:
        if resumed:
            self.record = read_record(self.folder.path)
            self.before = {k: v for k, v in read_values(self.folder.path).items() if k.startswith("before/")}
        notes = tuple(
            TaskNote(name=name, kind=self.config.tasks[name].task, primary=task.primary, scores=dict(type(task).scores))
            for name, task in self.tasks.items()
        )
        self.record = self.record.model_copy(update={"tasks": notes, "latents": latent_notes(network)})

    def _started(self, plan: Plan) -> None:
        sitting = Sitting(
            command=plan.command or "",
            begun=f"{datetime.now():%Y-%m-%d %H:%M}",
            step=self.step_now,
            environment=environment(plan.device, plan.precision),
        )
        facts = {"parameters": plan.parameters, "steps": plan.steps, "batch": plan.batch, "size": plan.size}
        given = {**facts, "sittings": (*self.record.sittings, sitting), "state": "running"}
        self.record = self.record.model_copy(update=given)
        for note in plan.notes:
            self.message(note)
        write_record(self.folder.path, self.record)

    def _look(self, network: UnifiedNetwork, evaluation: Evaluation) -> None:
        if not self.record.data:
            notes = census(self.config, self.tasks, self.train, "train")
            notes += census(self.config, self.tasks, self.val, "val")
            self.record = self.record.model_copy(update={"data": notes})
        album = Album(self.val)
        shown = album.gallery(predictions(evaluation.shown, self.tasks))
        sections = {name: self._sections(name, metric, album) for name, metric in evaluation.parts.items()}
        self.seen = {"sections": sections, "predictions": shown if shown.rows else None}
        write_values(self.folder.path, {**self.before, **latent_values(network, "after")})

    def _sections(self, task: str, metric: Any, album: Album) -> tuple[Section, ...]:
        if not isinstance(metric, Explains):
            return ()
        try:
            filled = (album.filled(Section.model_validate(section)) for section in metric.sections())
            return tuple(section for section in filled if section.parts)
        except Exception as error:  # a plug-in's metric must not cost the other tasks their sections
            self.tell(f"report.html shows nothing of task '{task}': {type(error).__name__}: {error}")
            return ()

    def _evaluated(self, record: EvaluationRecord) -> None:
        look = Look(
            step=record.step,
            images=record.images,
            seconds=record.seconds,
            metrics=dict(record.metrics),
            **self.seen,
        )
        best = record.step if record.best else self.record.best
        self.record = self.record.model_copy(update={"look": look, "best": best})
        self._write(self.record.state)

    def _write(self, state: str) -> None:
        self.record = self.record.model_copy(update={"state": state})
        write_record(self.folder.path, self.record)
        write_report(self.folder.path)
