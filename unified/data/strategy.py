# SPDX-License-Identifier: Apache-2.0
"""How much of each dataset: strategies by name, their weights, and how one becomes another over a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unified.contracts.config import PartConfig
from unified.contracts.errors import ConfigError, suggestion
from unified.data.plan import Entry, Piece

Serves = Mapping[str, Sequence[str]]
Weights = dict[str, float]
At = Callable[[float], int]
"""Where in a run a number stands, as a forward pass: up to 1 it is a share of the run, beyond that a step."""

COMMON = ("accumulate", "lag")
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "proportional": ("temperature", "ratios"),
    "temperature": ("tau",),
    "ratios": ("ratios",),
    "uniform": (),
    "round_robin": (),
    "annealed": ("before", "after", "begin", "end"),
    "gap": ("baselines", "base", "power", "floor"),
}
CHANGES = 256  # pieces of constant shares that stand for a span over which they drift


@dataclass(frozen=True)
class Drift:
    """Weights that go straight from one strategy's to another's; without a span they stay the first's."""

    before: Weights  # shares that add up to 1
    after: Weights
    begin: int = 0  # forward passes
    end: int = 0

    def borders(self) -> set[int]:
        """Where the weights change."""
        span = self.end - self.begin
        count = min(CHANGES, span)
        return {0, *(self.begin + k * span // count for k in range(count + 1))} if count else {0}

    def at(self, step: int) -> Weights:
        """The shares of the piece that begins at ``step``: those at its middle, so that a drift has its area."""
        if self.end <= self.begin:
            return self.before
        half = (self.end - self.begin) / min(CHANGES, self.end - self.begin) / 2
        part = (step + half - self.begin) / (self.end - self.begin)
        part = 0.0 if step < self.begin else 1.0 if step >= self.end else part
        return {name: (1 - part) * share + part * self.after[name] for name, share in self.before.items()}


@dataclass(frozen=True)
class Spans:
    """When each task has a turn: from its first forward pass to before its last; a task that is missing always has."""

    spans: Mapping[str, tuple[int, int | None]]

    def borders(self) -> set[int]:
        return {at for span in self.spans.values() for at in span if at is not None}

    def active(self, tasks: Sequence[str], step: int) -> frozenset[str]:
        """Those of ``tasks`` that have a turn at a step."""
        return frozenset(task for task in tasks if self._holds(task, step))

    def _holds(self, task: str, step: int) -> bool:
        first, end = self.spans.get(task, (0, None))
        return first <= step and (end is None or step < end)


def drafted(drift: Drift, spans: Spans, serves: Serves, entry: Entry) -> list[Piece]:
    """The pieces of a run: weights of the drift, times the entry's factors, of datasets that have a task to serve.

    Raises:
        ConfigError: at some step no dataset has one.
    """
    tasks = sorted({task for each in serves.values() for task in each} - set(entry.stopped))
    pieces: list[Piece] = []
    for first in sorted(drift.borders() | spans.borders()):
        active, shares = spans.active(tasks, first), drift.at(first)
        weights = {name: share * (entry.factors or {}).get(name, 1.0) for name, share in shares.items()}
        weights = {name: weight if active & set(serves[name]) else 0.0 for name, weight in weights.items()}
        if not any(weights.values()):
            turn = f"tasks with a turn: {', '.join(sorted(active)) or 'none'}"
            raise ConfigError(
                f"schedule: from forward pass {first} no dataset with a positive weight serves a task ({turn}); "
                "move the start or stop of a task, or give a dataset that serves it a weight"
            )
        if not pieces or (pieces[-1].weights, pieces[-1].tasks) != (weights, active):
            pieces.append(Piece(first, weights, active))
    return pieces


def known(part: PartConfig, what: str = "schedule", common: Sequence[str] = COMMON) -> str:
    """The name of a strategy whose options are all known.

    Raises:
        ConfigError: an unknown strategy or option.
    """
    name = part.name.replace("-", "_")
    if name not in OPTIONS:
        raise ConfigError(f"unknown {what} '{part.name}'{suggestion(name, OPTIONS)}")
    choices = (*OPTIONS[name], *common)
    for option in part.options:
        if option not in choices:
            raise ConfigError(f"{what} '{part.name}' has no option '{option}'{suggestion(option, choices)}")
    return name


def drift_of(part: PartConfig, sizes: Mapping[str, float], serves: Serves, at: At) -> Drift:
    """The weights of a strategy over a run.

    Raises:
        ConfigError: an option that is not as it must be.
    """
    name = part.name.replace("-", "_")
    if name == "gap":
        return drift_of(_inner(part, "base", "proportional"), sizes, serves, at)
    if name != "annealed":
        shares = shares_of(part, sizes, serves)
        return Drift(shares, shares)
    before, after = (_inner(part, which, default) for which, default in (("before", None), ("after", None)))
    begin, end = (_moment(part, which, default) for which, default in (("begin", 0.0), ("end", 1.0)))
    if at(begin) >= at(end):
        raise ConfigError(
            f"schedule 'annealed': it ends at {end:g} before it has begun at {begin:g}; end must be larger"
        )
    return Drift(shares_of(before, sizes, serves), shares_of(after, sizes, serves), at(begin), at(end))


def _inner(part: PartConfig, which: str, default: str | None) -> PartConfig:
    """A strategy that another one is made of; it must itself stand still."""
    where, given = f"schedule '{part.name}': {which}", part.options.get(which, default)
    if given is None:
        raise ConfigError(f"{where} is missing; write {which}: uniform, or another schedule")
    try:
        inner = given if isinstance(given, PartConfig) else PartConfig.model_validate(given)
    except ValueError:
        raise ConfigError(f"{where} must be a schedule's name, or a mapping with its name, got {given!r}") from None
    if known(inner, f"{where}:", ()) in ("annealed", "gap"):
        raise ConfigError(f"{where} must be a schedule that stands still, got '{inner.name}'; take proportional")
    return inner


def _moment(part: PartConfig, which: str, default: float) -> float:
    value = part.options.get(which, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ConfigError(f"schedule '{part.name}': {which} must be a share of the run (0..1) or a step, got {value!r}")
    return float(value)


def shares_of(part: PartConfig, sizes: Mapping[str, float], serves: Serves) -> Weights:
    """The shares of a strategy that stands still; they add up to 1.

    Raises:
        ConfigError: an option that is not as it must be, or no weight at all.
    """
    weights = weights_of(part, sizes, serves)
    total = sum(weights.values())
    if not total:
        raise ConfigError("a schedule needs at least one dataset with a positive weight; all of its weights are 0")
    return {name: weight / total for name, weight in weights.items()}


def weights_of(part: PartConfig, sizes: Mapping[str, float], serves: Serves) -> Weights:
    """The weights of a strategy that stands still, in any unit.

    Raises:
        ConfigError: an option that is not as it must be.
    """
    name, options = part.name.replace("-", "_"), part.options
    if name in ("uniform", "round_robin"):
        return dict.fromkeys(serves, 1.0)
    if name == "ratios" and "ratios" not in options:
        raise ConfigError(f"schedule 'ratios': ratios is missing; write ratios: {{{next(iter(serves))}: 1, ...}}")
    if (ratios := options.get("ratios")) is not None:
        return _ratios(part.name, ratios, serves)
    which = "tau" if name == "temperature" else "temperature"
    temperature = options.get(which, 2.0 if name == "temperature" else 1.0)
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or temperature <= 0:
        raise ConfigError(f"schedule '{part.name}': {which} must be a positive number, got {temperature!r}")
    return {name: float(sizes[name]) ** (1 / temperature) for name in serves}


def _ratios(schedule: str, ratios: Any, serves: Serves) -> Weights:
    if not isinstance(ratios, Mapping) or any(
        isinstance(w, bool) or not isinstance(w, int | float) or not 0 <= w < float("inf") for w in ratios.values()
    ):
        raise ConfigError(f"schedule '{schedule}': ratios must map datasets to weights of 0 or more, got {ratios!r}")
    for name in ratios:
        if name not in serves:
            raise ConfigError(f"schedule '{schedule}': ratios name the dataset '{name}'{suggestion(name, serves)}")
    return {name: float(ratios.get(name, 0.0)) for name in serves}
