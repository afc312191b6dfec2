# SPDX-License-Identifier: Apache-2.0
"""Which dataset at which step: pure functions of (seed, step, state), the same on every rank, after every restart."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, Protocol

import numpy as np

from unified.contracts.config import PartConfig
from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Turn
from unified.data.plan import Plan, Shares, steady_shares
from unified.data.steering import LAG, Patience, SteeredPlan, gaps_of
from unified.data.strategy import At, Serves, Spans, drafted, drift_of, known, shares_of, weights_of


class CountingSchedule(Protocol):
    """A schedule that also knows its past, so that cursors follow from the step and its state alone."""

    def turn(self, step: int) -> Turn: ...

    def dataset_steps(self, step: int) -> dict[str, int]:
        """How often each dataset was served before ``step``."""

    def shares(self, passes: int) -> Shares:
        """What ``passes`` forward passes are planned to give."""

    def resting(self, step: int) -> frozenset[str]:
        """The tasks that have no turn around a step, whatever dataset comes."""

    def state(self) -> dict[str, Any]:
        """All that does not follow from the configuration, as JSON."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state."""


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
        self._shares = steady_shares({name: sizes[name] / sum(sizes[n] for n in names) for name in serves}, serves)
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

    def shares(self, passes: int) -> Shares:
        """What ``passes`` forward passes are planned to give."""
        return self._shares

    def resting(self, step: int) -> frozenset[str]:
        """None ever rests."""
        return frozenset()

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """There is nothing to go back to."""

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
        self._serves = serves

    def turn(self, step: int) -> Turn:
        return self._turns[step % len(self._turns)]

    def dataset_steps(self, step: int) -> dict[str, int]:
        """How often each dataset was served before ``step``."""
        rounds, rest = divmod(step, len(self._turns))
        return {turn.dataset: rounds + (place < rest) for place, turn in enumerate(self._turns)}

    def shares(self, passes: int) -> Shares:
        """What ``passes`` forward passes are planned to give."""
        return steady_shares({turn.dataset: 1 / len(self._turns) for turn in self._turns}, self._serves)

    def resting(self, step: int) -> frozenset[str]:
        """None ever rests."""
        return frozenset()

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """There is nothing to go back to."""


class Together:
    """Every dataset in every optimizer step, one forward pass each; how much of it, its gradients' weights say.

    A dataset that has no turn in a step leaves its forward pass to the others in their order.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.many = plan, len(plan.serves)

    def turn(self, step: int) -> Turn:
        first = step - step % self.many
        piece, names = self.plan.holding(first), self._names(first)
        self.plan.handed = max(self.plan.handed, step + 1)
        place, total = step - first, sum(piece.weights.values())
        name = names[place % len(names)]
        times = self._times(names)[name]
        weight = piece.weights[name] / total * self.many / times
        return Turn(name, self.plan.tasks_at(name, first), weight)

    def _names(self, first: int) -> list[str]:
        return [name for name, weight in self.plan.holding(first).weights.items() if weight]

    def _times(self, names: Sequence[str]) -> dict[str, int]:
        """How often each dataset comes in one round."""
        rounds, rest = divmod(self.many, len(names))
        return {name: rounds + (place < rest) for place, name in enumerate(names)}

    def _rounds(self, step: int) -> Iterator[tuple[int, int]]:
        """The first forward passes, and the numbers, of the whole rounds before ``step`` that are alike."""
        whole = step // self.many
        firsts = [-(-piece.first // self.many) for piece in self.plan.pieces]
        for first, end in zip(firsts, [*firsts[1:], whole], strict=True):
            if first < min(end, whole):
                yield first * self.many, min(end, whole) - first

    def dataset_steps(self, step: int) -> dict[str, int]:
        """How often each dataset was served before ``step``."""
        counts = dict.fromkeys(self.plan.serves, 0)
        for first, rounds in self._rounds(step):
            for name, times in self._times(self._names(first)).items():
                counts[name] += times * rounds
        begun = step - step % self.many
        names = self._names(begun)
        for place in range(step - begun):
            counts[names[place % len(names)]] += 1
        return counts

    def shares(self, passes: int) -> Shares:
        """What ``passes`` forward passes are planned to give."""
        counts = self.dataset_steps(passes)
        tasks = dict.fromkeys(self.plan.shares(passes).tasks, 0.0)
        for first, rounds in self._rounds(passes):
            for name, times in self._times(self._names(first)).items():
                for task in self.plan.tasks_at(name, first):
                    tasks[task] += times * rounds / passes
        datasets = {name: count / passes for name, count in counts.items()}
        return Shares(datasets, tasks, self.plan.shares(passes).weights)

    def resting(self, step: int) -> frozenset[str]:
        """The tasks that have no turn in the round of a step."""
        return self.plan.resting(step - step % self.many)

    def observe(self, step: int, scores: Mapping[str, float]) -> Any:
        """See :meth:`SteeredPlan.observe`."""
        return self.plan.observe(step, scores) if isinstance(self.plan, SteeredPlan) else None

    def state(self) -> dict[str, Any]:
        return self.plan.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.plan.restore(state)


def make_schedule(
    config: PartConfig,
    sizes: Mapping[str, float],
    serves: Serves,
    seed: int = 0,
    *,
    at: At = int,
    spans: Mapping[str, tuple[int, int | None]] | None = None,
    patience: Mapping[str, int] | None = None,
) -> CountingSchedule:
    """The schedule of a configuration; ``docs/schedules.md`` lists the strategies and their options.

    Args:
        config: the strategy.
        sizes: how much each dataset has to show, in any unit.
        serves: dataset -> tasks.
        seed: settles ties.
        at: turns shares of the run and steps into forward passes.
        spans: task -> its first forward pass and the one before which it stops (None: never).
        patience: task -> evaluations without a better score after which it stops.

    Raises:
        ConfigError: an unknown schedule, option or dataset, or no dataset with a weight.
    """
    name = known(config)
    together, lag = _together(config), _lag(config)
    steady = name not in ("annealed", "gap") and not spans and not patience and not together
    if steady and name in ("round_robin", "uniform"):
        return RoundRobin(serves, seed)
    if steady:
        shares_of(config, sizes, serves)  # refuses what weighs nothing
        return Proportional(weights_of(config, sizes, serves), serves, seed)
    draft = partial(drafted, drift_of(config, sizes, serves, at), Spans(dict(spans or {})), serves)
    gaps = gaps_of(config, list(dict.fromkeys(task for tasks in serves.values() for task in tasks)))
    plan: Plan = Plan(serves, draft, seed)
    if gaps or patience:
        plan = SteeredPlan(serves, draft, seed, gaps=gaps, patience=Patience(dict(patience or {})), lag=lag)
    return Together(plan) if together else plan


def _together(config: PartConfig) -> bool:
    given = config.options.get("accumulate")
    if given not in (None, "all"):
        raise ConfigError(
            f"schedule '{config.name}': accumulate can only be 'all' (every dataset in every step), got {given!r}; "
            "forward passes of a step are set by accumulate of the recipe"
        )
    return given == "all"


def _lag(config: PartConfig) -> int:
    lag = config.options.get("lag", LAG)
    if isinstance(lag, bool) or not isinstance(lag, int) or lag < 1:
        raise ConfigError(f"schedule '{config.name}': lag must be a whole number of forward passes from 1, got {lag!r}")
    return lag
