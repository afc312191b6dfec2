# SPDX-License-Identifier: Apache-2.0
"""How fast pictures come, stage by stage, beside the least that any pipeline must do; and how long a step waits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unified.contracts.config import RunConfig
from unified.contracts.structures import Batch
from unified.data.kitchen import AHEAD, process_context
from unified.data.larder import Larder, stock
from unified.data.loader import TrainLoader, reach_of
from unified.data.mixing import Mixture
from unified.hardware import pick_workers
from unified.model.build import assemble
from unified.training.balance import normalised
from unified.training.course import Course
from unified.training.joint import JointModel
from unified.training.optimizer import make_optimizer
from unified.training.run import make_accelerator, make_balancer, open_splits, planned_schedule

SPARED: Final = 2  # steps and batches at the beginning that are not timed


@dataclass(frozen=True)
class Pace:
    """One stage."""

    name: str
    processes: int
    images_per_second: float  # median over the repeats
    milliseconds: float  # of one processor, an image
    slowest: float  # images a second, of the repeats
    fastest: float


@dataclass(frozen=True)
class Wait:
    """What training steps spent on waiting for their batch."""

    steps: int
    seconds: float  # median of a step
    share: float  # of all steps' time, 0..1
    longest: float  # seconds, of one wait


def measure_stages(config: RunConfig, base: Path, images: int, workers: int, repeats: int) -> list[Pace]:
    """Pictures decoded, transformed and delivered, and torchvision's resizing for a floor; all of the same files.

    Args:
        images: that are timed at each stage.
        workers: loader processes of what is delivered.
        repeats: the stages in turn, so that a busy moment of the machine hits all alike.
    """
    mixture = open_splits(config, base).train
    settings = config.train
    reach = reach_of(settings.size, (phase.augment for phase in Course(settings, mixture.images).phases))
    larder = stock(
        mixture.sources, reach, "ram" if settings.cache == "none" else settings.cache, settings.cache_gb * 1e9
    )
    steps = SPARED + AHEAD * max(workers, 1) + max(1, images // settings.batch)
    loader = partial(_loader, config, mixture, steps, workers, reach)
    near, kept = mixture.stocked(reach), mixture.stocked(reach, larder)
    stages: dict[str, tuple[int, Callable[[], tuple[float, float]]]] = {
        "decoded": (1, lambda: _alone(images, lambda k: _decode(mixture, k, None))),
        "decoded within reach": (1, lambda: _alone(images, lambda k: _decode(mixture, k, reach))),
        "transformed": (1, lambda: _alone(images, lambda k: _transform(near, k, config))),
        "transformed, cached": (1, lambda: _alone(images, lambda k: _transform(kept, k, config))),
        "delivered": (workers, lambda: _delivered(loader(None), images)),
        "delivered, cached": (workers, lambda: _delivered(loader(larder), images)),
    }
    if files := _files(mixture):
        floor = Floor(files, settings.size, settings.batch)
        stages["torchvision's floor"] = (workers, lambda: _floor(floor, images, workers))
    if larder is None:
        stages = {name: stage for name, stage in stages.items() if "cached" not in name}
    else:
        _fill(kept, config)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in stages}
    for _ in range(repeats):
        for name, (_, stage) in stages.items():
            times[name].append(stage())
    return [_pace(name, max(1, stages[name][0]), found) for name, found in times.items()]


def _pace(name: str, processes: int, found: Sequence[tuple[float, float]]) -> Pace:
    rates = [rate for rate, _ in found]
    cost = statistics.median(cost for _, cost in found)
    return Pace(name, processes, statistics.median(rates), 1e3 * cost, min(rates), max(rates))


def _alone(images: int, work: Callable[[int], int]) -> tuple[float, float]:
    """Images a second, and processor seconds an image, of one thread; ``work`` says how many images it made."""
    work(0)
    start, busy, made = time.perf_counter(), time.thread_time(), 0
    while made < images:
        made += work(made)
    return made / (time.perf_counter() - start), (time.thread_time() - busy) / made


def _decode(mixture: Mixture, k: int, reach: int | None) -> int:
    source = next(iter(mixture.sources.values()))
    k %= len(source)
    _ = source.read(k) if reach is None else source.read_within(k, reach)
    return 1


def _transform(mixture: Mixture, k: int, config: RunConfig) -> int:
    name, source = next(iter(mixture.sources.items()))
    k, epoch = k % len(source), k // len(source)
    return len(mixture.sample(name, k, epoch, config.train.augment, seed=config.train.seed))


def _fill(mixture: Mixture, config: RunConfig) -> None:
    """Every picture once, so that the cache is warm."""
    for name, source in mixture.sources.items():
        for k in range(len(source)):
            mixture.sample(name, k, 0, config.train.augment.model_copy(update={"mosaic": 0.0}))


def _loader(
    config: RunConfig, mixture: Mixture, steps: int, workers: int, reach: int, larder: Larder | None
) -> TrainLoader:
    accelerator, _ = make_accelerator(config)
    return TrainLoader(
        mixture,
        schedule=planned_schedule(config, mixture, accelerator),
        batch=config.train.batch,
        size=config.train.size,
        augment=lambda step: config.train.augment,
        seed=config.train.seed,
        steps=steps,
        workers=workers,
        reach=reach,
        larder=larder,
    )


def first_batch(config: RunConfig, mixture: Mixture) -> Batch:
    """The batch that a training begins with."""
    reach = reach_of(config.train.size, [config.train.augment])
    return next(iter(_loader(config, mixture, 1, 0, reach, None)))


def _delivered(loader: TrainLoader, images: int) -> tuple[float, float]:
    """The pace once all workers are at it: what they made ahead while they started is not counted."""
    return _steady(((len(batch), loader.seconds) for batch in loader), AHEAD * max(1, loader.workers), images)


def _steady(batches: Iterable[tuple[int, float]], ahead: int, images: int) -> tuple[float, float]:
    """Of batches as (images, processor seconds up to here)."""
    start, counted, before, last = 0.0, 0, 0.0, 0.0
    for number, (many, seconds) in enumerate(batches):
        if number < SPARED + ahead:
            start, before = time.perf_counter(), seconds
            continue
        counted, last = counted + many, seconds
        if counted >= images:
            break
    return counted / (time.perf_counter() - start), (last - before) / max(counted, 1)


class Floor(Dataset[tuple[Tensor, float]]):
    """Batches that torchvision decodes and resizes, and nothing else; with its cost in processor seconds."""

    def __init__(self, files: Sequence[Path], size: int, batch: int) -> None:
        self.files, self.size, self.batch = files, size, batch

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, number: int) -> tuple[Tensor, float]:
        start = time.thread_time()
        first = number * self.batch
        pictures = [self._picture(self.files[k % len(self.files)]) for k in range(first, first + self.batch)]
        return torch.stack(pictures), time.thread_time() - start

    def _picture(self, path: Path) -> Tensor:
        from torchvision.transforms.v2 import functional

        picture: Tensor = functional.resize(decode(path), [self.size, self.size], antialias=True)
        return picture


def decode(path: Path) -> Tensor:
    """uint8 (3, H, W) by torchvision's own decoder, or as its datasets do, by Pillow, where that was not compiled."""
    try:
        from torchvision.io import ImageReadMode, decode_image

        picture: Tensor = decode_image(str(path), mode=ImageReadMode.RGB)
        return picture
    except (RuntimeError, ImportError):
        with Image.open(path) as opened:
            return torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1).contiguous()


def _files(mixture: Mixture) -> list[Path]:
    """The picture files of the first dataset that has some."""
    for source in mixture.sources.values():
        if source.from_files:
            images, name = Path(source.images), source.file  # type: ignore[attr-defined]
            return [images / name(k) for k in range(len(source))]
    return []


def _floor(floor: Floor, images: int, workers: int) -> tuple[float, float]:
    given: dict[str, Any] = {"prefetch_factor": AHEAD, "multiprocessing_context": process_context()} if workers else {}
    loader = DataLoader(floor, batch_size=None, shuffle=False, num_workers=workers, **given)

    def counted() -> Iterator[tuple[int, float]]:
        total = 0.0
        for pictures, seconds in loader:
            total += seconds
            yield len(pictures), total

    return _steady(counted(), AHEAD * max(1, workers), images)


def measure_wait(config: RunConfig, base: Path, steps: int, workers: int | None) -> Wait:
    """Real training steps, with the loader that training uses."""
    _, hardware = make_accelerator(config)
    mixture = open_splits(config, base).train
    parts = assemble(config.model, config.tasks, mixture.vocabulary, fetch=False, growth=config.growth)
    model = hardware.place(JointModel(parts.network, parts.tasks)).train()
    optimizer, balancer = make_optimizer(model, config.train), make_balancer(config)
    reach = reach_of(config.train.size, [config.train.augment])
    larder = stock(mixture.sources, reach, config.train.cache, config.train.cache_gb * 1e9)
    loader = _loader(config, mixture, steps + SPARED, pick_workers(workers), reach, larder)
    waits, spans, batches = [], [], iter(loader)
    for _ in range(steps + SPARED):
        start = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - start)
        step_once(model, batch.to(hardware.device, memory_format=torch.channels_last), optimizer, balancer)
        if hardware.device.type == "cuda":
            torch.cuda.synchronize(hardware.device)
        spans.append(time.perf_counter() - start)
    waits, spans = waits[SPARED:], spans[SPARED:]
    return Wait(steps, statistics.median(spans), sum(waits) / sum(spans), max(waits))


def step_once(model: JointModel, batch: Batch, optimizer: torch.optim.Optimizer, balancer: Any) -> None:
    """A training step in full precision, as short as it can be."""
    terms = model(batch)
    losses = {
        task: torch.stack([normalised(term, term.count.detach().float()) for term in items.values()]).sum()
        for task, items in terms.items()
    }
    balancer.combine(losses).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
