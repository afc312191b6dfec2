# SPDX-License-Identifier: Apache-2.0
"""What a training run tells whoever watches it. The trainer speaks; a terminal, a file or a notebook listens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class DatasetPlan:
    """One dataset's part in a run."""

    images: int
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What is about to happen, known before the first step."""

    run: Path  # the run's folder
    tasks: tuple[str, ...]
    datasets: Mapping[str, DatasetPlan]
    parameters: int  # learned numbers of the whole network
    steps: int  # optimizer steps of the whole run
    batch: int  # images an optimizer step
    size: int  # pixels: square input
    device: str
    precision: str
    max_seconds: float | None = None  # the time budget, where one was given
    command: str | None = None  # what the person typed
    notes: tuple[str, ...] = ()  # one line each, worth knowing at the start


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step. Rates are means since the last record."""

    step: int  # steps done, this one included
    steps: int  # steps planned; shrinks when a time budget shortens the run
    epoch: float
    seconds: float  # since the run began, earlier sittings of a resumed run included
    dataset: str
    lr: float
    losses: Mapping[str, float]  # a task's whole under its name ("det"), its terms under "det/box"
    images_per_second: float
    wait: float  # share of the time spent waiting for data, 0..1
    memory_mb: float = 0.0  # accelerator memory at its highest, or the process's own
    skipped: int = 0  # steps left out so far because numbers were not finite

    def line(self) -> dict[str, Any]:
        """The record as it stands in ``log.jsonl``."""
        return {
            "step": self.step,
            "epoch": round(self.epoch, 4),
            "seconds": round(self.seconds, 3),
            "dataset": self.dataset,
            "lr": float(f"{self.lr:.4g}"),
            "losses": {name: float(f"{value:.5g}") for name, value in self.losses.items()},
            "images_per_second": round(self.images_per_second, 2),
            "wait": round(self.wait, 4),
            "memory_mb": round(self.memory_mb),
            **({"skipped": self.skipped} if self.skipped else {}),
        }


@dataclass(frozen=True)
class EvaluationRecord:
    """One look at the validation data."""

    step: int
    metrics: Mapping[str, float]  # "det/AP50": 0.61
    images: int
    seconds: float  # what the evaluation took
    best: bool  # whether this is the best so far, by the tasks' primary scores


@dataclass(frozen=True)
class RunSummary:
    """How a run ended."""

    folder: Path
    metrics: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    signal: int = 0  # that interrupted it; 0 where the file ``stop`` did


class Monitor:
    """Listens and says nothing. Override what is of interest; calls come in order, from one process and thread."""

    def start(self, plan: Plan) -> None:
        """Once, before the first step."""

    def step(self, record: StepRecord) -> None:
        """After every optimizer step that is logged."""

    def evaluation(self, record: EvaluationRecord) -> None:
        """After every evaluation."""

    def message(self, text: str) -> None:
        """One line a person should see now, such as a warning."""

    def end(self, summary: RunSummary) -> None:
        """Once, after the last step, however the run ended without an error."""

    def close(self) -> None:
        """Always, by whoever made the monitor, also after an error. May come more than once."""
