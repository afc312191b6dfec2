# SPDX-License-Identifier: Apache-2.0
"""Scores of a network on a validation set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from unified.contracts.document import load_data
from unified.contracts.errors import ConfigError, suggestion
from unified.contracts.protocols import Curve, Metric, Task
from unified.contracts.structures import Annotations, Batch, Frame, Prediction
from unified.data.loader import EvalLoader, spoilage_of
from unified.data.mixing import open_mixture
from unified.hardware import Hardware, pick
from unified.model.network import UnifiedNetwork
from unified.model.prediction import predict_all
from unified.trained import load_trained

LOW_CONFIDENCE = 0.001  # average precision integrates over the whole curve


@dataclass(frozen=True)
class Shown:
    """One validation image kept for the report, all in input pixels."""

    image: Tensor  # (3, H, W) uint8
    annotations: Annotations
    frame: Frame
    prediction: Prediction


@dataclass
class Evaluation:
    """Scores by flat name (``det/AP50``), and what the report draws."""

    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[Curve]] = field(default_factory=dict)
    shown: list[Shown] = field(default_factory=list)
    parts: dict[str, Metric] = field(default_factory=dict)  # each task's metric, with whatever more it knows
    images: int = 0
    seconds: float = 0.0

    def score(self, tasks: Mapping[str, Task]) -> float:
        """Mean of the tasks' primary scores, by which checkpoints are compared."""
        found = [self.metrics.get(f"{name}/{task.primary}") for name, task in tasks.items()]
        values = [value for value in found if value is not None]
        return sum(values) / len(values) if values else 0.0


@torch.inference_mode()
def evaluate(
    network: UnifiedNetwork,
    tasks: Mapping[str, Task],
    batches: Iterable[Batch],
    hardware: Hardware,
    show: int = 64,
    total: int = 0,
) -> Evaluation:
    """Runs the network over validation batches and scores every task on the images that serve it.

    ``show`` images, spread evenly over all ``total`` of them (or the first ones, where their number is not told), are
    kept for the report.
    """
    start, result = time.monotonic(), Evaluation()
    training = network.training
    network.eval()
    result.parts = {name: task.metric() for name, task in tasks.items()}
    for batch in batches:
        shown = 0 if total and result.images >= total else show  # second views follow: all images have been seen
        _measure(network, tasks, batch, hardware, result, shown, max(1, total // max(show, 1)))
    network.train(training)
    for name, metric in result.parts.items():
        result.metrics |= {f"{name}/{key}": value for key, value in metric.compute().items()}
        result.curves |= {f"{name}/{key}": lines for key, lines in metric.curves().items()}
    result.seconds = time.monotonic() - start
    return result


def _measure(
    network: UnifiedNetwork,
    tasks: Mapping[str, Task],
    batch: Batch,
    hardware: Hardware,
    result: Evaluation,
    show: int,
    every: int,
) -> None:
    served = [name for name in tasks if name in batch.tasks]
    moved = batch.to(hardware.device)
    with hardware.autocast():
        outputs = network(moved.images, served)
    size = (batch.images.shape[-2], batch.images.shape[-1])
    predictions = predict_all(tasks, outputs, size, len(batch), confidence=LOW_CONFIDENCE)
    for name in served:
        result.parts[name].update(outputs[name], predictions, moved)
    for i in range(-result.images % every, len(batch), every)[: max(show - len(result.shown), 0)]:
        result.shown.append(Shown(batch.images[i], batch.annotations[i], batch.frames[i], predictions[i]))
    result.images += len(batch)


def evaluate_run(
    run: Path,
    data: str | None = None,
    split: Literal["train", "val"] = "val",
    tasks: Sequence[str] | None = None,
    size: int | None = None,
    batch: int | None = None,
    limit: int | None = None,
    rectangular: bool = False,
    tell: Callable[[str], None] | None = None,
) -> dict[str, float]:
    """Scores a trained model on its own validation data, or on another dataset that speaks its words.

    Args:
        run: folder of a run or of a checkpoint.
        data: name or path of a data file; the run's own by default.
        split: ``val`` or ``train``.
        tasks: only these; all by default.
        size: side of the input in pixels; the training's by default.
        batch: images a pass.
        limit: at most so many images of each dataset.
        rectangular: images of like shape together, padded no more than strides ask, instead of squares.
        tell: called with one line for every dataset that has unreadable pictures.

    Raises:
        UnifiedError: the run, the data or a task is not there or does not fit.
    """
    trained = load_trained(run)
    asked = tuple(tasks or trained.tasks)
    for name in asked:
        if name not in trained.tasks:
            raise ConfigError(f"this model has no task '{name}'{suggestion(name, trained.tasks)}")
    if not data and not trained.config.data.datasets:
        raise ConfigError(f"'{run}' was imported and brings no data of its own; name some with --data")
    kinds = {name: task.task for name, task in trained.config.tasks.items()}
    config, base = load_data(data, kinds) if data else (trained.config.data, trained.base)
    settings = trained.config.train
    side = trained.network.check_size(settings.size if size is None else size)
    chosen = {name: trained.tasks[name] for name in asked}
    mixture = open_mixture(
        config,
        {name: task.labels for name, task in chosen.items()},
        split=split,
        size=side,
        base=base,
        vocabulary=trained.vocabulary,
        breaks={name: task.breaks for name, task in chosen.items()},
    )
    hardware = pick(settings.device, settings.precision)
    network = hardware.place(trained.network)
    stride = max(trained.network.neck.spec.strides)
    given: dict[str, Any] = {"size": side, "limit": limit, "rectangular": rectangular, "stride": stride}
    loader = EvalLoader(
        mixture, batch=batch or 2 * settings.batch, spoilage=spoilage_of(mixture, settings.unreadable), **given
    )
    metrics = evaluate(network, chosen, loader, hardware, show=0).metrics
    if tell is not None:
        for line in loader.spoilage.lines():
            tell(line)
    return metrics
