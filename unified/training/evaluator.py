# SPDX-License-Identifier: Apache-2.0
"""Scores of a network on a validation set."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unified.contracts.protocols import Curve, Metric, Task
from unified.contracts.structures import Annotations, Batch, Frame, Prediction
from unified.model.network import UnifiedNetwork
from unified.model.prediction import predict_all
from unified.hardware import Hardware

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
    show: int = 12,
) -> Evaluation:
    """Runs the network over validation batches and scores every task on the images that serve it."""
    start, result = time.monotonic(), Evaluation()
    training = network.training
    network.eval()
    result.parts = {name: task.metric() for name, task in tasks.items()}
    for batch in batches:
        _measure(network, tasks, batch, hardware, result, show)
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
) -> None:
    served = [name for name in tasks if name in batch.tasks]
    moved = batch.to(hardware.device)
    with hardware.autocast():
        outputs = network(moved.images, served)
    size = (batch.images.shape[-2], batch.images.shape[-1])
    predictions = predict_all(tasks, outputs, size, len(batch), confidence=LOW_CONFIDENCE)
    for name in served:
        result.parts[name].update(outputs[name], predictions, moved)
    for i in range(min(len(batch), show - len(result.shown))):
        result.shown.append(Shown(batch.images[i], batch.annotations[i], batch.frames[i], predictions[i]))
    result.images += len(batch)
