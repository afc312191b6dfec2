# SPDX-License-Identifier: Apache-2.0
"""Scores of a network on a validation set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from unified.contracts.config import DataConfig
from unified.contracts.document import load_data
from unified.contracts.errors import ConfigError, suggestion
from unified.contracts.protocols import Curve, Metric, Task
from unified.contracts.scoring import metric_of
from unified.contracts.structures import Annotations, Batch, Frame, Prediction, Vocabulary
from unified.data.loader import EvalLoader, spoilage_of
from unified.data.mixing import open_mixture
from unified.hardware import Hardware, pick
from unified.model.network import UnifiedNetwork
from unified.model.prediction import predict_all
from unified.trained import Trained, load_trained
from unified.training.growth import labelled_too

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
        """Mean of the tasks' primary scores, by which checkpoints are compared; errors as 1 / (1 + error)."""
        found = {name: self.metrics.get(f"{name}/{task.primary}") for name, task in tasks.items()}
        values = [tasks[name].goodness(value) for name, value in found.items() if value is not None]
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
    result.parts = {name: metric_of(task) for name, task in tasks.items()}
    for batch in batches:
        shown = 0 if total and result.images >= total else show  # second views follow: all images have been seen
        measure(network, tasks, batch, hardware, result, shown, max(1, total // max(show, 1)))
    network.train(training)
    summed_up(result)
    result.seconds = time.monotonic() - start
    return result


def summed_up(result: Evaluation) -> Evaluation:
    """Scores and curves of what the metrics gathered."""
    for name, metric in result.parts.items():
        result.metrics |= {f"{name}/{key}": value for key, value in metric.compute().items()}
        result.curves |= {f"{name}/{key}": lines for key, lines in metric.curves().items()}
    return result


def measure(
    network: UnifiedNetwork,
    tasks: Mapping[str, Task],
    batch: Batch,
    hardware: Hardware,
    result: Evaluation,
    show: int,
    every: int,
) -> None:
    """Runs one batch and gives the metrics in ``result`` its evidence; every ``every``-th image is to be shown."""
    served = [name for name in tasks if name in batch.tasks]
    moved = batch.to(hardware.device)
    with hardware.autocast():
        outputs = network(moved.images, served)
    size = (batch.images.shape[-2], batch.images.shape[-1])
    predictions = predict_all(tasks, outputs, size, len(batch), frames=batch.frames, confidence=LOW_CONFIDENCE)
    for name in served:
        said = {field for other in served if other != name for field in tasks[other].provides}
        own = predictions
        if said.intersection(
            tasks[name].provides
        ):  # what two tasks say of one kind stands together; each is scored alone
            blank = [Prediction(size=size) for _ in range(len(batch))]
            own = tasks[name].predict(outputs[name], blank, confidence=LOW_CONFIDENCE)
        result.parts[name].update(outputs[name], own, moved)
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
    begin: Callable[[int], None] = lambda total: None,
    say: Callable[[int], None] = lambda done: None,
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
        begin, say: hear how many batches there are so far, and when one is through.

    Raises:
        UnifiedError: the run, the data or a task is not there or does not fit.
    """
    trained = load_trained(run)
    asked = tuple(tasks or trained.tasks)
    for name in asked:
        if name not in trained.tasks:
            raise ConfigError(f"this model has no task '{name}'{suggestion(name, trained.tasks)}")
    if not data and not trained.config.data.datasets:
        raise ConfigError(f"'{run}' was imported or handed on and brings no data of its own; name some with --data")
    kinds = {name: task.task for name, task in trained.config.tasks.items()}
    config, base = load_data(data, kinds) if data else (trained.config.data, trained.base)
    config = labelled_too(config, trained.config.tasks)
    settings = trained.config.train
    side = trained.network.check_size(settings.size if size is None else size)
    hardware = pick(settings.device, settings.precision)
    network = hardware.place(trained.network)
    stride = trained.network.stride
    given: dict[str, Any] = {"size": side, "limit": limit, "rectangular": rectangular, "stride": stride}
    metrics: dict[str, float] = {}
    total = 0
    for words, chosen in by_words(trained, asked, config, told=tasks is not None):
        mixture = open_mixture(
            config,
            {name: task.labels for name, task in chosen.items()},
            split=split,
            size=side,
            base=base,
            vocabulary=words,
            breaks={name: task.breaks for name, task in chosen.items()},
        )
        loader = EvalLoader(
            mixture, batch=batch or 2 * settings.batch, spoilage=spoilage_of(mixture, settings.unreadable), **given
        )
        begin(total := total + len(loader))
        metrics |= evaluate(network, chosen, _heard(loader, say), hardware, show=0).metrics
        for line in loader.spoilage.lines() if tell is not None else ():
            tell(line)  # type: ignore[misc]
    return metrics


def _heard(batches: Iterable[Batch], say: Callable[[int], None]) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        say(1)


def by_words(
    trained: Trained, asked: Sequence[str], data: DataConfig, told: bool
) -> list[tuple[Vocabulary, dict[str, Task]]]:
    """Tasks that can be scored together: of one vocabulary, and saying different things; all in an ordinary run.

    Args:
        asked: names of tasks.
        data: which of a grown model's tasks it labels; others are left out, unless they were ``told`` by a person.
    """
    if not any(trained.config.tasks[name].words for name in asked):
        return [(trained.vocabulary, {name: trained.tasks[name] for name in asked})]
    labelled = {name for each in data.datasets.values() for name, what in each.labelled.items() if what != "none"}
    groups: list[tuple[Vocabulary, dict[str, Task]]] = []
    for name in asked if told else (name for name in asked if name in labelled):
        task = trained.tasks[name]
        fitting = (
            others
            for words, others in groups
            if words == task.vocabulary and not any({*task.provides} & {*o.provides} for o in others.values())
        )
        group = next(fitting, None)
        if group is None:
            groups.append((task.vocabulary, group := {}))
        group[name] = task
    return groups
