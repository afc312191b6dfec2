# SPDX-License-Identifier: Apache-2.0
"""Balancers that look at losses alone: a few numbers a step, no backward pass more than the plain sum has."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Final

from unified.contracts.errors import ConfigError
from unified.training.balance import FixedWeights

LEAST: Final = 1e-8  # of a loss in a logarithm or below a fraction


class Adam:
    """Adam (Kingma and Ba 2015) over a few named numbers, each with a clock of its own for tasks come irregularly."""

    def __init__(self, rate: float, decay: float = 0.0) -> None:
        self.rate, self.decay = rate, decay
        self.values: dict[str, float] = {}
        self.moments: dict[str, list[float]] = {}  # name -> steps, first and second moment

    def step(self, gradients: Mapping[str, float]) -> None:
        for name, given in gradients.items():
            value = self.values.get(name, 0.0)
            gradient = given + self.decay * value
            count, first, second = self.moments.get(name, [0, 0.0, 0.0])
            count, first, second = count + 1, 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            mean, spread = first / (1 - 0.9**count), math.sqrt(second / (1 - 0.999**count))
            self.values[name] = value - self.rate * mean / (spread + 1e-8)
            self.moments[name] = [count, first, second]

    def state(self) -> dict[str, Any]:
        return {"values": dict(self.values), "moments": {name: list(m) for name, m in self.moments.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.values = dict(state["values"])
        self.moments = {name: list(moments) for name, moments in state["moments"].items()}


class UncertaintyWeights(FixedWeights):
    """Learned uncertainty: the sum over tasks of exp(-s) L + s, s a log variance (Kendall et al. 2018, eq. 7).

    s is learned by an Adam of its own from the losses of all ranks; a task without labels in a step leaves its s alone.
    Where losses stand still, exp(-s) becomes 1 / L: every task pulls as if its loss were 1.

    Args:
        weights: task -> weight.
        lr: of s.
    """

    def __init__(self, weights: Mapping[str, float], lr: float = 0.01) -> None:
        super().__init__(weights)
        _above_zero("uncertainty", lr=lr)
        self.adam = Adam(lr)

    again: ClassVar = False

    def factors(self, losses: Mapping[str, float]) -> Mapping[str, float]:
        """exp(-s) of each task."""
        return {task: math.exp(-self.adam.values.get(task, 0.0)) for task in losses}

    def observe(self, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        """before: the step's losses by task, over all ranks; tasks without labels are missing."""
        s = self.adam.values
        self.adam.step({task: 1 - math.exp(-s.get(task, 0.0)) * loss for task, loss in before.items()})

    def state(self) -> dict[str, Any]:
        return self.adam.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.adam.restore(state)


class DynamicWeightAverage(FixedWeights):
    """More for tasks whose loss falls slowly: K softmax(r / T), r the ratio of its last two means (Liu et al. 2019).

    Args:
        weights: task -> weight.
        temperature: T of eq. 7; larger: more alike.
        every: steps that make a mean; of a task, those that had labels for it.
    """

    def __init__(self, weights: Mapping[str, float], temperature: float = 2.0, every: int = 100) -> None:
        super().__init__(weights)
        _above_zero("dwa", temperature=temperature, every=every)
        self.temperature, self.every = temperature, every
        self.sums: dict[str, list[float]] = {}  # task -> sum and number of the losses of the mean that is growing
        self.means: dict[str, list[float]] = {}  # task -> its last two means, the newer one last

    again: ClassVar = False

    def factors(self, losses: Mapping[str, float]) -> Mapping[str, float]:
        """Over all tasks of the run they have a mean of 1."""
        ratios = {task: self._ratio(task) for task in self.weights.keys() | losses.keys()}
        top = max(ratios.values())
        heights = {task: math.exp((ratio - top) / self.temperature) for task, ratio in ratios.items()}
        scale = len(heights) / math.fsum(heights.values())
        return {task: scale * heights[task] for task in losses}

    def _ratio(self, task: str) -> float:
        means = self.means.get(task, [])
        return means[1] / max(means[0], LEAST) if len(means) == 2 else 1.0

    def observe(self, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        """before: the step's losses by task, over all ranks; tasks without labels are missing."""
        for task, loss in before.items():
            total, count = self.sums.get(task, [0.0, 0])
            total, count = total + loss, count + 1
            if count >= self.every:
                self.means[task] = [*self.means.get(task, [])[-1:], total / count]
                total, count = 0.0, 0
            self.sums[task] = [total, count]

    def state(self) -> dict[str, Any]:
        return {name: {task: list(v) for task, v in getattr(self, name).items()} for name in ("sums", "means")}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.sums, self.means = ({task: list(v) for task, v in state[name].items()} for name in ("sums", "means"))


class Famo(FixedWeights):
    """Fast adaptive multitask optimization: all losses fall at the same relative rate (Liu et al. 2023, algorithm 1).

    A step follows the sum of z / L times each gradient, z = softmax(logits), scaled so that these factors have a mean
    of 1 over the tasks of the batch. The logits learn from what the step did to the logarithm of each loss, so every
    step ends with another forward pass over its last batch, without gradients.

    Args:
        weights: task -> weight.
        lr: of the logits.
        decay: of the logits (the paper's gamma).
    """

    again: ClassVar = True

    def __init__(self, weights: Mapping[str, float], lr: float = 0.025, decay: float = 0.001) -> None:
        super().__init__(weights)
        _above_zero("famo", lr=lr)
        if decay < 0:
            raise ConfigError(f"balancer 'famo': decay must be 0 or more, got {decay}")
        self.adam = Adam(lr, decay)

    def shares(self, tasks: Collection[str]) -> dict[str, float]:
        """z of the tasks of a batch; they add up to 1."""
        top = max(self.adam.values.get(task, 0.0) for task in tasks)
        heights = {task: math.exp(self.adam.values.get(task, 0.0) - top) for task in tasks}
        total = math.fsum(heights.values())
        return {task: height / total for task, height in heights.items()}

    def factors(self, losses: Mapping[str, float]) -> Mapping[str, float]:
        """losses: of one forward pass by task, over all ranks; 0 where a task has no labels in it."""
        labelled = [task for task, loss in losses.items() if loss > 0]
        if len(labelled) < 2:
            return dict.fromkeys(losses, 1.0)
        z = self.shares(labelled)
        pulls = {task: z[task] / max(losses[task], LEAST) for task in labelled}
        scale = len(pulls) / math.fsum(pulls.values())
        return {**dict.fromkeys(losses, 0.0), **{task: scale * pull for task, pull in pulls.items()}}

    def observe(self, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        """The losses of one batch before and after a step, over all ranks; tasks without labels are missing."""
        both = {task: loss for task, loss in before.items() if task in after}
        if len(both) < 2:
            return
        z = self.shares(both.keys())
        fell = {task: math.log(max(loss, LEAST)) - math.log(max(after[task], LEAST)) for task, loss in both.items()}
        mean = math.fsum(z[task] * fell[task] for task in both)
        self.adam.step({task: z[task] * (fell[task] - mean) for task in both})

    def state(self) -> dict[str, Any]:
        return self.adam.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.adam.restore(state)


def _above_zero(balancer: str, **options: float) -> None:
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ConfigError(f"balancer '{balancer}': {name} must be a number above 0, got {value!r}")
