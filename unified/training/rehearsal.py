# SPDX-License-Identifier: Apache-2.0
"""A rehearsal: everything a run does, once and small, so that what would break after hours breaks now."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from unified.contracts.config import RunConfig
from unified.contracts.errors import UnifiedError
from unified.trained import load_trained
from unified.training.monitor import EvaluationRecord, Monitor, Plan, StepRecord
from unified.training.run import train

STEPS: Final = 3
IMAGES: Final = 32  # of each validation set


@dataclass(frozen=True)
class Rehearsal:
    """What was seen."""

    steps: int
    metrics: Mapping[str, float]
    parameters: int
    megabytes: float  # of a checkpoint
    seconds: float

    def line(self) -> str:
        """For a person."""
        return (
            f"all is well: {self.steps} steps, an evaluation with {len(self.metrics)} scores, a checkpoint of "
            f"{self.megabytes:.1f} MB written and read back, {self.seconds:.0f} s; nothing was kept"
        )


class _UntilTheEnd(Monitor):
    """Tells another monitor all but where the run lies, for it is gone by then."""

    def __init__(self, listener: Monitor) -> None:
        self.listener = listener

    def start(self, plan: Plan) -> None:
        self.listener.start(plan)

    def step(self, record: StepRecord) -> None:
        self.listener.step(record)

    def evaluation(self, record: EvaluationRecord) -> None:
        self.listener.evaluation(record)

    def message(self, text: str) -> None:
        self.listener.message(text)


def rehearse(config: RunConfig, base: Path, start: Path | None = None, monitor: Monitor | None = None) -> Rehearsal:
    """A few steps, an evaluation of a few images, a checkpoint and its load, in a folder that goes away.

    Args:
        config: what would be trained.
        base: folder that relative dataset paths start from.
        start: a run's or model's folder whose weights the run would begin with.
        monitor: told of what happens.

    Raises:
        UnifiedError: whatever would break the run.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="unified-rehearsal-") as place:
        folder = Path(place) / "run"
        summary = train(shortened(config), base, out=folder, monitor=_UntilTheEnd(monitor or Monitor()), start=start)
        if summary.interrupted:
            raise KeyboardInterrupt
        trained = load_trained(folder)
        side = config.train.size
        with torch.inference_mode():
            trained.network(torch.zeros(1, 3, side, side))
        broken = [name for name, value in summary.metrics.items() if not math.isfinite(value)]
        if broken:
            raise UnifiedError(f"--fast-dev-run: the score {broken[0]} is {summary.metrics[broken[0]]}")
        size = sum(path.stat().st_size for path in trained.source.rglob("*") if path.is_file())
        parameters = sum(p.numel() for p in trained.network.parameters())
    return Rehearsal(summary.steps, summary.metrics, parameters, size / 1e6, time.monotonic() - began)


def shortened(config: RunConfig) -> RunConfig:
    """The same run in miniature: every part of it, none of its length."""
    settings = config.train
    short = {
        "max_steps": min(settings.max_steps or STEPS, STEPS),
        "max_minutes": None,
        "evaluate_every": 1.0,
        "val_images": min(settings.val_images or IMAGES, IMAGES),
        "patience": None,
    }
    return config.model_copy(update={"train": settings.model_copy(update=short)})
