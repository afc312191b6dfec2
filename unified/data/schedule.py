# SPDX-License-Identifier: Apache-2.0
"""Which dataset at which step: pure functions of (seed, step), the same on every rank and after every restart."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from unified.contracts.config import PartConfig
from unified.contracts.errors import ConfigError, suggestion
from unified.contracts.protocols import Turn

Serves = Mapping[str, Sequence[str]]


class CountingSchedule(Protocol):
    """A schedule that also knows its past, so that cursors follow from the step alone."""

    def turn(self, step: int) -> Turn: ...

    def dataset_steps(self, step: int) -> dict[str, int]:
        """How often each dataset was served before ``step``."""


class Proportional:
    """Each dataset in proportion to its weight, spread as evenly as can be: no dice, no clumps.

    After any number of steps every dataset is less than one batch from its planned share (Tijdeman 1980, The chairman
    assignment problem: among those far enough behind, the one whose deadline comes first). ``seed`` settles ties only.
    """

    def __init__(self, sizes: Mapping[str, float], serves: Serves, seed: int = 0) -> None:
        names = [name for name in serves if sizes[name] > 0]
        if not names:
            raise ConfigError("a schedule needs at least one dataset with a positive weight")
        names = [names[k] for k in np.random.default_rng([seed, len(names)]).permutation(len(names))]
        self._turns = {name: Turn(name, tuple(serves[name])) for name in serves}
        self._names = names
        self._weights = _whole([sizes[name] for name in names])
        self._steps: list[array[int]] = [array("q") for _ in names]  # the steps at which each was chosen
        self._chosen = array("q")

    def turn(self, step: int) -> Turn:
        self._extend(step + 1)
        return self._turns[self._names[self._chosen[step]]]

    def dataset_steps(self, step: int) -> dict[str, int]:
        """How often each dataset was served before ``step``."""
        self._extend(step)
        before = {name: bisect_left(steps, step) for name, steps in zip(self._names, self._steps, strict=True)}
        return {name: before.get(name, 0) for name in self._turns}

    def _extend(self, length: int) -> None:
        """Plans ahead to ``length`` steps; a plan is remembered, never changed."""
        weights, total, many = self._weights, sum(self._weights), len(self._weights)
        slack = max(2 * many - 2, 1)
        for step in range(len(self._chosen), length):
            counts = [len(steps) for steps in self._steps]
            behind = [k for k in range(many) if slack * ((step + 1) * weights[k] - counts[k] * total) >= total]
            # the earliest n at which n * weight / total - count exceeds 1 - 1 / slack
            chosen = min(behind or range(many), key=lambda k: (slack * counts[k] + slack - 1) / weights[k])
            self._steps[chosen].append(step)
            self._chosen.append(chosen)


def _whole(weights: Sequence[float]) -> list[int]:
    """Weights as whole numbers in the same proportion, to nine digits."""
    total = sum(weights)
    return [max(1, round(Fraction(weight) / Fraction(total) * 10**9)) for weight in weights]


class RoundRobin:
    """Each dataset in its turn, whatever its size."""

    def __init__(self, serves: Serves, seed: int = 0) -> None:
        if not serves:
            raise ConfigError("a schedule needs at least one dataset")
        names = list(serves)
        order = np.random.default_rng([seed, len(names)]).permutation(len(names))
        self._turns = [Turn(names[k], tuple(serves[names[k]])) for k in order]

    def turn(self, step: int) -> Turn:
        return self._turns[step % len(self._turns)]

    def dataset_steps(self, step: int) -> dict[str, int]:
        """How often each dataset was served before ``step``."""
        rounds, rest = divmod(step, len(self._turns))
        return {turn.dataset: rounds + (place < rest) for place, turn in enumerate(self._turns)}


def make_schedule(config: PartConfig, sizes: Mapping[str, float], serves: Serves, seed: int = 0) -> CountingSchedule:
    """The schedule of a configuration.

    ``proportional`` takes ``temperature`` (1: by size; larger: more even) or ``ratios`` (dataset -> weight);
    ``round_robin`` (also ``uniform``) takes nothing. ``sizes``: how much each dataset has to show, in any unit.

    Raises:
        ConfigError: an unknown schedule, option or dataset.
    """
    known: dict[str, tuple[str, ...]] = {"proportional": ("temperature", "ratios"), "round_robin": (), "uniform": ()}
    name = config.name.replace("-", "_")
    if name not in known:
        raise ConfigError(f"unknown schedule '{config.name}'{suggestion(name, known)}")
    for option in config.options:
        if option not in known[name]:
            raise ConfigError(f"schedule '{config.name}' has no option '{option}'{suggestion(option, known[name])}")
    if name != "proportional":
        return RoundRobin(serves, seed)
    return Proportional(_weights(config.options, sizes, serves), serves, seed)


def _weights(options: Mapping[str, Any], sizes: Mapping[str, float], serves: Serves) -> dict[str, float]:
    ratios = options.get("ratios")
    if ratios is None:
        temperature = options.get("temperature", 1.0)
        if not isinstance(temperature, int | float) or temperature <= 0:
            raise ConfigError(f"schedule 'proportional': temperature must be a positive number, got {temperature!r}")
        return {name: float(sizes[name]) ** (1 / temperature) for name in serves}
    if not isinstance(ratios, Mapping) or any(not isinstance(w, int | float) or w < 0 for w in ratios.values()):
        raise ConfigError(f"schedule 'proportional': ratios must map datasets to weights of 0 or more, got {ratios!r}")
    for name in ratios:
        if name not in serves:
            raise ConfigError(f"schedule 'proportional': ratios name the dataset '{name}'{suggestion(name, serves)}")
    return {name: float(ratios.get(name, 0.0)) for name in serves}
