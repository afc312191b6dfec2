# SPDX-License-Identifier: Apache-2.0
"""The shapes that a learning rate may follow: pure functions of how much of the course is behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from unified.contracts.config import TrainConfig


def height(config: TrainConfig, part: float) -> float:
    """The learning rate at ``part`` (0..1) of a course, as a share of its highest."""
    return CURVES[config.course](config, part)


def _cosine(config: TrainConfig, part: float) -> float:
    """Loshchilov and Hutter 2017, SGDR, eq. 5, without restarts."""
    cosine = (1 + math.cos(math.pi * part)) / 2
    return config.lr_final + (1 - config.lr_final) * cosine


def _linear(config: TrainConfig, part: float) -> float:
    """Level for ``lr_hold`` of the course, then straight down (Zhai et al. 2022, section 3.5: constant, cooldown)."""
    fallen = max(0.0, part - config.lr_hold) / (1 - config.lr_hold)
    return 1 - (1 - config.lr_final) * fallen


def _one_cycle(config: TrainConfig, part: float) -> float:
    """Smith and Topin 2018, Super-Convergence: up to the highest rate and down again, each along half a cosine."""
    if part < config.lr_peak:
        return _along(config.lr_start, 1.0, part / config.lr_peak)
    return _along(1.0, config.lr_final, (part - config.lr_peak) / (1 - config.lr_peak))


def _along(first: float, last: float, part: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * part)) / 2


def _constant(config: TrainConfig, part: float) -> float:
    return 1.0


def _steps(config: TrainConfig, part: float) -> float:
    """He et al. 2016, ResNet: times ``lr_drop`` at each of ``lr_steps``."""
    return config.lr_drop ** sum(part >= step for step in config.lr_steps)


CURVES: Mapping[str, Callable[[TrainConfig, float], float]] = {
    "cosine": _cosine,
    "linear": _linear,
    "one-cycle": _one_cycle,
    "constant": _constant,
    "steps": _steps,
}
