# SPDX-License-Identifier: Apache-2.0
"""The learning-rate finder: a few steps at a growing rate, and the rate at which the loss fell fastest (Smith 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from unified.contracts.config import RunConfig
from unified.contracts.errors import ConfigError
from unified.contracts.structures import Batch
from unified.data.loader import TrainLoader, reach_of
from unified.data.mixing import Mixture
from unified.hardware import pick_workers
from unified.model.build import assemble
from unified.model.norms import settle_norms
from unified.training.auto_batch import settled_batch
from unified.training.course import Course
from unified.training.descent import Descent
from unified.training.joint import JointModel
from unified.training.optimizer import make_optimizer, set_learning_rate
from unified.training.run import make_accelerator, make_balancer, open_splits, planned_schedule
from unified.training.start import begin_with

STEPS: Final = 100
FIRST, LAST = 1e-6, 1.0
WORSE: Final = 4.0  # times the lowest loss: there the test ends
WINDOW: Final = 0.5  # decades to either side over which losses are averaged
LEAST: Final = 12  # steps of which something can be said

INK, SOFT, LINE, RAW, MARK = "#22252a", "#767b84", "#0072B2", "#c9d6e2", "#D55E00"


@dataclass(frozen=True)
class Sweep:
    """A range test; rates, losses and smoothed losses are of equal length."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float  # where the smoothed loss falls fastest in a decade of the rate
    lowest: float  # where it is lowest; from there on up it is too much
    diverged: bool  # whether the test ended because the loss grew

    def line(self) -> str:
        """For a person."""
        end = (
            f"beyond {self.lowest:.1e} the loss grows" if self.diverged else f"the loss is lowest at {self.lowest:.1e}"
        )
        return f"suggested lr: {self.suggestion:.1e} (where the loss falls fastest; {end})"


def range_test(step: Callable[[float], float], first: float = FIRST, last: float = LAST, steps: int = STEPS) -> Sweep:
    """Takes steps at rates that grow evenly in their logarithm, until the loss has grown too far.

    Args:
        step: one optimizer step at a rate; returns the loss before it.
        first, last: rates.
        steps: at most.

    Raises:
        ConfigError: the loss was not finite, or grew too far, before anything could be seen.
    """
    rates: list[float] = []
    losses: list[float] = []
    for k in range(steps):
        rate = first * (last / first) ** (k / max(steps - 1, 1))
        loss = step(rate)
        if not math.isfinite(loss) or (loss > WORSE * min([loss, *losses]) and len(losses) >= LEAST):
            break
        rates.append(rate)
        losses.append(loss)
    if len(losses) < LEAST:
        raise ConfigError(
            f"--find-lr: the loss was lost after {len(losses)} of {steps} steps; choose other data or weights"
        )
    return _judged(rates, losses, diverged=len(losses) < steps)


def _judged(rates: list[float], losses: list[float], diverged: bool) -> Sweep:
    decades = np.log10(rates)
    smooth = _smoothed(decades, np.array(losses))
    lowest = max(2, int(smooth.argmin()))
    slopes = np.gradient(smooth, decades)[: lowest + 1]
    suggestion = rates[int(slopes.argmin())]
    return Sweep(tuple(rates), tuple(losses), tuple(smooth.tolist()), suggestion, rates[lowest], diverged)


def _smoothed(at: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A mean over the neighbourhood, nearer ones weigh more; it looks ahead too, so that nothing lags."""
    weights = np.maximum(0.0, 1 - np.abs(at[:, None] - at[None, :]) / WINDOW)
    return (weights @ values) / weights.sum(axis=1)  # type: ignore[no-any-return]


def find_rate(
    config: RunConfig,
    base: Path,
    start: Path | None = None,
    steps: int = STEPS,
    tell: Callable[[float, float], None] = lambda rate, loss: None,
) -> Sweep:
    """A range test of a run on its own training data; nothing of it is kept.

    Args:
        config: what would be trained; its own ``lr`` plays no part.
        base: folder that relative dataset paths start from.
        start: a run's or model's folder whose weights the run would begin with.
        steps: at most.
        tell: hears of every step's rate and loss.

    Raises:
        UnifiedError: whatever would keep the run from starting, or a loss that says nothing.
    """
    torch.manual_seed(config.train.seed)
    mixture = open_splits(config, base).train
    accelerator, hardware = make_accelerator(config)
    config, _ = settled_batch(config, mixture, accelerator, hardware)
    parts = assemble(config.model, config.tasks, mixture.vocabulary, growth=config.growth)
    if start:
        begin_with(parts.network, start, config.growth)
    settle_norms(parts.network, config.train.batch_norm, config.train.frozen_norms)
    model = JointModel(parts.network, parts.tasks)
    model.settle(config)
    model = hardware.place(model).train()
    wrapped, optimizer = accelerator.prepare(model, make_optimizer(model, config.train))
    descent = Descent(model, accelerator, make_balancer(config))
    course = Course(config.train, mixture.images)
    batches = _batches(config, mixture, course, steps * course.step_passes, accelerator)
    seen: dict[str, float] = {}

    def step(rate: float) -> float:
        set_learning_rate(optimizer, rate)
        for _ in range(course.step_passes):
            moved = next(batches).to(accelerator.device, memory_format=torch.channels_last)
            losses, _ = descent.losses(wrapped(moved), course.gains(0))
            seen.update({task: float(loss.detach()) for task, loss in losses.items()})
            descent.backward(losses, _share(config, course), iter(()))
        descent.gather()
        if config.train.clip:
            accelerator.clip_grad_norm_(model.parameters(), config.train.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss = _total(seen, {name: task.weight for name, task in config.tasks.items()})
        tell(rate, loss)
        return loss

    return range_test(step, steps=steps)


def _share(config: RunConfig, course: Course) -> Callable[[Tensor], Tensor]:
    if config.train.reduction == "sum":
        return lambda loss: loss * course.pass_images
    return lambda loss: loss / course.step_passes


def _total(seen: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The last loss of every task, so that a batch which serves only some of them does not look like progress."""
    return sum(weights[task] * loss for task, loss in seen.items())


def _batches(config: RunConfig, mixture: Mixture, course: Course, passes: int, accelerator: object) -> Iterator[Batch]:
    settings = config.train
    loader = TrainLoader(
        mixture,
        schedule=planned_schedule(config, mixture, accelerator),  # type: ignore[arg-type]
        batch=settings.batch // settings.accumulate,
        size=settings.size,
        augment=course.augment(0),
        seed=settings.seed,
        steps=passes,
        workers=pick_workers(settings.workers),
        reach=reach_of(settings.size, (phase.augment for phase in course.phases)),
    )
    return iter(loader)


def draw(sweep: Sweep, path: Path) -> Path:
    """The loss over the rate, with the suggestion marked; a PNG."""
    figure = Figure(figsize=(7.2, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(sweep.rates, sweep.losses, color=RAW, linewidth=1.2, label="each step")
    axes.plot(sweep.rates, sweep.smoothed, color=LINE, linewidth=2, label="smoothed")
    axes.axvline(sweep.suggestion, color=MARK, linewidth=1.5, label=f"suggested: {sweep.suggestion:.1e}")
    axes.axvline(sweep.lowest, color=SOFT, linewidth=1, linestyle="--", label=f"lowest: {sweep.lowest:.1e}")
    low, high = min(sweep.smoothed), max(sweep.smoothed)
    axes.set_ylim(low - 0.08 * (high - low), high + 0.15 * (high - low))
    axes.set_xscale("log")
    axes.set_xlabel("learning rate", color=SOFT)
    axes.set_ylabel("loss", color=SOFT)
    axes.set_title("Learning-rate range test", loc="left", color=INK, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=SOFT)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
