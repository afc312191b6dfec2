# SPDX-License-Identifier: Apache-2.0
"""What evaluations change about a schedule: more of who lags behind, no more of who has converged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from unified.contracts.config import PartConfig
from unified.contracts.errors import ConfigError, suggestion
from unified.data.plan import Entry, Plan

LAG = 100  # forward passes from an evaluation to the first one that it changes: more than any loader works ahead


@runtime_checkable
class SteeredSchedule(Protocol):
    """A schedule that evaluations may change."""

    def observe(self, step: int, scores: Mapping[str, float]) -> Entry | None:
        """What an evaluation before forward pass ``step`` changes, if anything; see :meth:`SteeredPlan.observe`."""


@dataclass(frozen=True)
class Gaps:
    """More of the tasks that are farthest from their single-task baselines.

    A task at score s with baseline b weighs 1 / (min(1, s / b) ** power + floor) (Jean et al. 2019, Adaptive Scheduling
    for Multi-Task Learning, the explicit schedule); a dataset as much as the mean over those of its tasks that have a
    baseline, relative to a task at its baseline.

    Args:
        baselines: task, or task/score -> the score of the network that learnt this task alone.
        power: how sharply the weight grows with the gap.
        floor: limits the weight of a task that scores nothing, to (1 + floor) / floor times one at its baseline.
    """

    baselines: Mapping[str, float]
    power: float = 1.0
    floor: float = 0.1

    def weight(self, task: str, scores: Mapping[str, float]) -> float | None:
        """What a task weighs; None where it has no baseline or no score."""
        name = next((key for key in self.baselines if key.partition("/")[0] == task), None)
        if name is None or name not in scores:
            return None
        reached = min(1.0, max(0.0, scores[name] / self.baselines[name]))
        return float((1 + self.floor) / (reached**self.power + self.floor))

    def factors(self, scores: Mapping[str, float], serves: Mapping[str, Sequence[str]]) -> dict[str, float]:
        """By dataset. scores: by task its primary score, and by task/score all of them."""
        found = {task: self.weight(task, scores) for task in {t for tasks in serves.values() for t in tasks}}
        told = {name: [w for task in tasks if (w := found[task]) is not None] for name, tasks in serves.items()}
        return {name: sum(weights) / len(weights) if weights else 1.0 for name, weights in told.items()}


@dataclass
class Patience:
    """Which tasks have not scored better for so many evaluations."""

    limits: Mapping[str, int]  # task -> evaluations
    best: dict[str, float] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)  # evaluations since the best

    def exhausted(self, scores: Mapping[str, float]) -> list[str]:
        """Notes the scores of an evaluation and names the tasks whose patience ran out."""
        for task in self.limits:
            if task not in scores:
                continue
            better = scores[task] > self.best.get(task, float("-inf"))
            self.since[task] = 0 if better else self.since.get(task, 0) + 1
            self.best[task] = max(scores[task], self.best.get(task, scores[task]))
        return [task for task, limit in self.limits.items() if self.since.get(task, 0) >= limit]


class SteeredPlan(Plan):
    """A plan that evaluations change: ``lag`` forward passes later, for a loader works ahead of the training.

    All it knows is JSON (:meth:`state`), and the same on every rank as long as every rank is told the same scores.
    """

    def __init__(self, *given: Any, gaps: Gaps | None, patience: Patience, lag: int = LAG, **named: Any) -> None:
        super().__init__(*given, **named)
        self.gaps, self.patience, self.lag = gaps, patience, lag

    def observe(self, step: int, scores: Mapping[str, float]) -> Entry | None:
        """What an evaluation before forward pass ``step`` changes, if anything.

        Args:
            scores: by task its primary score, and by ``task/score`` all of them.
        """
        last = self.entries[-1] if self.entries else Entry()
        factors = self.gaps.factors(scores, self.serves) if self.gaps else {}
        stopped = self._stopped(last, scores)
        if (factors, stopped) == (dict(last.factors or {}), last.stopped):
            return None
        entry = Entry(step + self.lag, factors, stopped)
        self.enter(entry)
        return entry

    def _stopped(self, last: Entry, scores: Mapping[str, float]) -> tuple[str, ...]:
        """Those that were stopped, and those whose patience ran out as long as another one goes on."""
        stopped = list(last.stopped)
        for task in self.patience.exhausted(scores):
            if task not in stopped and self._goes_on_without([*stopped, task]):
                stopped.append(task)
        return tuple(stopped)

    def _goes_on_without(self, stopped: Sequence[str]) -> bool:
        try:
            self._draft(Entry(stopped=tuple(stopped)))
        except ConfigError:
            return False
        return True

    def state(self) -> dict[str, Any]:
        return {**super().state(), "best": dict(self.patience.best), "since": dict(self.patience.since)}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.patience.best, self.patience.since = dict(state.get("best", {})), dict(state.get("since", {}))


def gaps_of(part: PartConfig, tasks: Sequence[str]) -> Gaps | None:
    """The gaps that a configuration asks to close; None where it does not.

    Raises:
        ConfigError: an option that is not as it must be, or a baseline of no task of the run.
    """
    if part.name.replace("-", "_") != "gap":
        return None
    baselines: Any = part.options.get("baselines")
    power, floor = part.options.get("power", 1.0), part.options.get("floor", 0.1)
    if not isinstance(baselines, Mapping) or not baselines:
        raise ConfigError(
            "schedule 'gap': baselines is missing; write baselines: {det: 0.41, ...}, what each task scores alone"
        )
    for name, score in baselines.items():
        if (task := str(name).partition("/")[0]) not in tasks:
            raise ConfigError(f"schedule 'gap': baselines name the task '{task}'{suggestion(task, tasks)}")
        if not _positive(score):
            raise ConfigError(f"schedule 'gap': the baseline of {name} must be a score above 0, got {score!r}")
    for which, value in (("power", power), ("floor", floor)):
        if not _positive(value):
            raise ConfigError(f"schedule 'gap': {which} must be a number above 0, got {value!r}")
    return Gaps({str(name): float(score) for name, score in baselines.items()}, float(power), float(floor))


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
