# SPDX-License-Identifier: Apache-2.0
"""A run for TensorBoard: event files in the run's folder, beside its own log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from unified.contracts.document import read_run_config
from unified.contracts.errors import ConfigError
from unified.training.monitor import EvaluationRecord, Monitor, Plan, RunSummary, StepRecord

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
WIDEST = 1600  # pixels of a picture

Plain = bool | str | float | int


class TensorBoard(Monitor):
    """Writes scalars of steps and evaluations, the pictures in ``plots``, and the settings with the last scores.

    Raises:
        ConfigError: TensorBoard is not installed.
    """

    def __init__(self) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "logging to tensorboard needs TensorBoard, which is not installed; run "
                "pip install 'unified-networks[logging]', or leave --tensorboard out"
            ) from error
        self.run = Path()
        self.writer: SummaryWriter | None = None

    def start(self, plan: Plan) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run = plan.run
        self.writer = SummaryWriter(str(plan.run / FOLDER))
        self.writer.add_text("command", plan.command or "called from Python")

    def step(self, record: StepRecord) -> None:
        if self.writer is None:
            return
        scalars = {f"loss/{name}": value for name, value in record.losses.items()}
        scalars |= {"pace/images_per_second": record.images_per_second, "pace/waiting": record.wait}
        scalars |= {"pace/memory_mb": record.memory_mb, "learning_rate": record.lr, "epoch": record.epoch}
        self._scalars(scalars, record.step)

    def evaluation(self, record: EvaluationRecord) -> None:
        self._scalars(record.metrics, record.step)
        if self.writer is not None:
            self.writer.flush()

    def end(self, summary: RunSummary) -> None:
        if self.writer is None:
            return
        for path in sorted((self.run / "plots").glob("*.*")):
            if path.suffix in (".png", ".jpg"):
                self.writer.add_image(path.stem, _pixels(path), summary.steps, dataformats="HWC")
        self._settings(summary)
        self.close()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def _scalars(self, scalars: Mapping[str, float], step: int) -> None:
        if self.writer is not None:
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, step)

    def _settings(self, summary: RunSummary) -> None:
        """The settings as hyperparameters, in the same event file as everything else."""
        from torch.utils.tensorboard.summary import hparams

        path = self.run / "config.yaml"
        if self.writer is None or not path.is_file():
            return
        config = read_run_config(path)
        settings = dict(_flat(config.train.model_dump(mode="json")))
        settings |= {"model": config.model.name, "tasks": ", ".join(config.tasks), "balance": config.balance.name}
        settings["data"] = ", ".join(config.data.datasets)
        scores = {name: float(value) for name, value in summary.metrics.items()}
        writer: Any = self.writer
        for part in hparams(settings, scores):  # type: ignore[no-untyped-call]
            writer.file_writer.add_summary(part)  # add_hparams would make a folder of its own


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Plain]]:
    """Plain values by dotted name; lists in words, and what is not set left out."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        elif isinstance(value, bool | str | int | float):
            yield before + name, value
        elif isinstance(value, list) and value:
            yield before + name, str(value)


def _pixels(path: Path) -> np.ndarray:
    """(H, W, 3) uint8."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((WIDEST, WIDEST))
    return np.asarray(picture)
