# SPDX-License-Identifier: Apache-2.0
"""The course of a run: what holds at which point of it, as a pure function that needs no training to be looked at.

A point of a run is a number of forward passes, or their share 0..1 of the whole; steps are made of passes. Of a run
without a clock everything follows from the step, so that a resumed run goes on exactly.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate

from unified.contracts.config import AugmentConfig, PhaseConfig, TrainConfig
from unified.data.transforms import closed
from unified.training.curves import height

LEAST_RISE = 0.01  # of the learning rate, at the very first step of a warm-up by share


@dataclass(frozen=True)
class Setting:
    """What holds for one step."""

    epoch: float
    phase: int
    lr: float
    bias_lr: float  # differs from lr only while biases warm up in their own way
    momentum: float | None  # None: as the optimizer was made
    passes: int  # forward passes that make the step


def batches_a_step(config: TrainConfig) -> int:
    """Batches that are gathered into one step: as many as come nearest to ``nominal_batch``."""
    return max(1, round(config.nominal_batch / config.batch)) if config.nominal_batch else 1


def decay_scale(config: TrainConfig) -> float:
    """Times the configured weight decay: images of a step over ``nominal_batch``."""
    return config.batch * batches_a_step(config) / config.nominal_batch if config.nominal_batch else 1.0


class Course:
    """Phases, learning rate, momentum, forward passes of a step and pictures over a whole run.

    Args:
        config: how the network learns.
        images: that make an epoch.
    """

    def __init__(self, config: TrainConfig, images: int) -> None:
        self.config, self.images = config, images
        self.pass_images = max(1, config.batch // config.accumulate)
        self.step_passes = config.accumulate * batches_a_step(config)  # after the warm-up
        self.phases = config.phases or (PhaseConfig(epochs=config.epochs, augment=config.augment),)
        self.ends = tuple(end / config.epochs for end in accumulate(phase.epochs for phase in self.phases))  # shares
        self.over_course = config.warmup_epochs is not None or config.warmup_passes > 0
        self._plan()

    @property
    def step_images(self) -> int:
        """Images of an optimizer step after the warm-up."""
        return self.step_passes * self.pass_images

    @property
    def sizes_vary(self) -> bool:
        """Whether batches come in several sizes."""
        return any(phase.augment.multi_scale > 0 for phase in self.phases)

    def _plan(self) -> None:
        """Lays out steps and warm-up; ``max_steps`` shortens everything in proportion."""
        steps = max(1, math.ceil(self.config.epochs * self.images / self.step_images))
        passes = steps * self.step_passes
        self.warmup = self._warmup_share(passes)  # share of the run
        self._lay(self.warmup * passes, passes)
        limit = self.config.max_steps
        if limit and limit < self.steps:
            self._lay(self.warmup * limit * self.step_passes, self.begins(self.steps), limit)
        self.warmup = min(self._warm_passes / self.passes, 1.0) if self.config.warmup_accumulate else self.warmup

    def _warmup_share(self, passes: int) -> float:
        if not self.over_course:
            return 0.0 if self.config.course == "one-cycle" else self.config.warmup  # one cycle rises by itself
        by_epochs = (self.config.warmup_epochs or 0.0) / self.config.epochs
        return min(1.0, max(by_epochs, self.config.warmup_passes / passes))

    def _lay(self, warm_passes: float, passes: int, steps: int | None = None) -> None:
        """Steps of growing size up to ``warm_passes``, then of full size up to ``passes``, or to so many ``steps``."""
        self._warm_passes, self._begins, begin = warm_passes, list[int](), 0
        while self.config.warmup_accumulate and begin < min(warm_passes, passes):
            self._begins.append(begin)
            begin += self._passes_from(begin)
        self._settled = begin
        self.steps = steps or len(self._begins) + max(0, math.ceil((passes - begin) / self.step_passes))
        self.passes = self.begins(self.steps)

    def _passes_from(self, position: float) -> int:
        if not self.config.warmup_accumulate or position >= self._warm_passes:
            return self.step_passes
        return max(1, round(1 + (self.step_passes - 1) * position / self._warm_passes))

    def begins(self, step: int) -> int:
        """Forward passes behind a run when it begins its step number ``step``, counted from 0."""
        warm = len(self._begins)
        return self._begins[step] if step < warm else self._settled + (step - warm) * self.step_passes

    def first_where(self, holds: Callable[[float], bool]) -> int:
        """The first step at whose share of the run something holds that holds ever after; else the number of steps."""
        return bisect_left(range(self.steps), True, key=lambda step: holds(self.begins(step) / self.passes))

    def first_of(self, phase: int) -> int:
        """The first step of a phase."""
        return self.first_where(lambda share: self.phase(share) >= phase)

    def phase(self, share: float) -> int:
        """Which phase holds at a share of the run."""
        return min(bisect_right(self.ends, share), len(self.phases) - 1)

    def at(self, position: float) -> Setting:
        """What holds for a step that begins at ``position`` forward passes; a whole number where no clock rules."""
        share = min(position / self.passes, 1.0)
        phase = self.phase(share)
        horizon = (self.phases[phase].horizon or self.config.epochs) / self.config.epochs
        lr, bias_lr = self._rates(share, horizon)
        passes = self._passes_from(position)
        return Setting(share * self.config.epochs, phase, lr, bias_lr, self._momentum(share), passes)

    def _rates(self, share: float, horizon: float) -> tuple[float, float]:
        """The learning rate, and that of biases, in a course that ends at ``horizon`` (share of the run)."""
        config = self.config
        top = self._top(share, horizon) if self.over_course or share >= self.warmup else config.lr
        if share >= self.warmup:
            return top, top
        risen = share / self.warmup
        lr = top * (risen if self.over_course else max(risen, LEAST_RISE))
        start = config.warmup_bias_lr
        return lr, lr if start is None else start + (top - start) * risen

    def _top(self, share: float, horizon: float) -> float:
        """The learning rate without a warm-up over it."""
        begin = 0.0 if self.over_course else self.warmup
        part = min(1.0, (share - begin) / (horizon - begin)) if horizon > begin else 1.0
        return self.config.lr * height(self.config, part)

    def _momentum(self, share: float) -> float | None:
        start, full = self.config.warmup_momentum, self.config.momentum
        if start is None:
            return None
        return full if share >= self.warmup else start + (full - start) * share / self.warmup

    def gains(self, phase: int) -> Mapping[str, float]:
        """Factors on losses by name in a phase."""
        return self.phases[phase].gains

    def augment(self, number: int, position: float = 0.0) -> AugmentConfig:
        """How the pictures of forward pass ``number`` are changed, of a run whose clock stands at ``position``."""
        behind = min(max(number, position), self.passes)
        return closed(self.phases[self.phase(behind / self.passes)].augment, behind, self.passes)
