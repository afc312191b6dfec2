# SPDX-License-Identifier: Apache-2.0
"""A plan whose shares change over a run: pieces of constant shares, and entries that were added on the way."""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from unified.contracts.errors import CheckpointError, ConfigError
from unified.contracts.protocols import Turn

UNIT = 10**9  # parts of a batch


@dataclass(frozen=True)
class Piece:
    """From forward pass ``first`` on: how much each dataset gets, and which tasks have a turn."""

    first: int
    weights: Mapping[str, float]  # by dataset, 0 or more, not all 0
    tasks: frozenset[str]


@dataclass(frozen=True)
class Entry:
    """What an evaluation changed, from forward pass ``first`` on."""

    first: int = 0
    factors: Mapping[str, float] | None = None  # dataset -> times its planned weight
    stopped: tuple[str, ...] = ()  # tasks that have no turn any more

    def state(self) -> dict[str, Any]:
        return {"first": self.first, "factors": dict(self.factors or {}), "stopped": list(self.stopped)}

    def line(self) -> str:
        """The change in words."""
        factors = [f"{name} x {factor:.2f}" for name, factor in (self.factors or {}).items()]
        words = [f"datasets {', '.join(factors)}"] if factors else []
        words += [f"no turn any more for {', '.join(self.stopped)}"] if self.stopped else []
        return f"schedule: from forward pass {self.first} on {'; '.join(words) or 'as planned'}"


@dataclass(frozen=True)
class Shares:
    """Of all forward passes, those that read a dataset and those that serve a task; and of all gradients, whose."""

    datasets: Mapping[str, float]
    tasks: Mapping[str, float]
    weights: Mapping[str, float]  # of gradients, by dataset


Draft = Callable[[Entry], Sequence[Piece]]
"""All pieces of a run as they are under an entry."""


class Regime:
    """Pieces laid end to end, with the batches that each dataset is due at every border, in parts of a batch."""

    def __init__(self, pieces: Sequence[Piece], names: Sequence[str], first: int, due: Sequence[int]) -> None:
        nexts = [*pieces[1:], None]
        kept = [piece for piece, after in zip(pieces, nexts, strict=True) if after is None or after.first > first]
        self.pieces = kept
        self.starts = [max(piece.first, first) for piece in kept]
        self.parts = [_parts([piece.weights[name] for name in names]) for piece in kept]
        self.due = [list(due)]
        for (start, end), parts in zip(zip(self.starts, self.starts[1:], strict=False), self.parts, strict=False):
            self.due.append([d + (end - start) * p for d, p in zip(self.due[-1], parts, strict=True)])

    def at(self, step: int) -> int:
        """The piece that holds at a step."""
        return bisect_right(self.starts, step) - 1

    def due_at(self, step: int) -> list[int]:
        """What each dataset is due before ``step``."""
        k = self.at(step)
        past = step - self.starts[k]
        return [due + past * part for due, part in zip(self.due[k], self.parts[k], strict=True)]

    def deadline(self, dataset: int, amount: Fraction, k: int) -> float:
        """The number of steps after which a dataset is due ``amount``, from the ``k``-th piece on."""
        for piece in range(k, len(self.starts)):
            part, due = self.parts[piece][dataset], self.due[piece][dataset]
            last = piece + 1 == len(self.starts)
            if part and (last or self.due[piece + 1][dataset] >= amount):
                return self.starts[piece] + float((amount - due) / part)
        return float("inf")


class Plan:
    """Each dataset as its pieces say, less than a batch from its planned amount (Tijdeman 1980, for shares that vary).

    What was planned is never changed: an entry holds from its own ``first`` on and steps before it are planned without
    looking at it. So a plan follows from its entries alone, wherever and however often it is made again.

    Args:
        serves: dataset -> tasks.
        draft: gives the pieces of the run under an entry.
        seed: settles ties.
    """

    def __init__(self, serves: Mapping[str, Sequence[str]], draft: Draft, seed: int = 0) -> None:
        order = np.random.default_rng([seed, len(serves)]).permutation(len(serves))
        self.serves = {name: tuple(tasks) for name, tasks in serves.items()}
        self._names = [list(serves)[k] for k in order]
        self._draft, self._slack = draft, max(2 * len(serves) - 2, 1)
        self._lock = threading.RLock()  # a loader's thread asks while an evaluation answers
        self.handed = 0  # forward passes whose turns were handed out
        self._begin()

    def _begin(self) -> None:
        nothing = [0] * len(self._names)
        self.entries: list[Entry] = []
        self._regimes = [Regime(self._draft(Entry()), self._names, 0, nothing)]
        self._firsts = [0]
        self._chosen = array("q")
        self._steps: list[array[int]] = [array("q") for _ in self._names]

    @property
    def pieces(self) -> list[Piece]:
        """The pieces of the run as it is known now, each from where it really holds."""
        found: list[Piece] = []
        for regime, end in zip(self._regimes, [*self._firsts[1:], None], strict=True):
            for start, piece in zip(regime.starts, regime.pieces, strict=True):
                if end is None or start < end:
                    found.append(Piece(start, piece.weights, piece.tasks))
        return found

    def holding(self, step: int) -> Piece:
        """The piece that holds at a step."""
        regime = self._regime(step)
        return regime.pieces[regime.at(step)]

    def turn(self, step: int) -> Turn:
        with self._lock:
            self._extend(step + 1)
            self.handed = max(self.handed, step + 1)
            name = self._names[self._chosen[step]]
            return Turn(name, self.tasks_at(name, step))

    def tasks_at(self, dataset: str, step: int) -> tuple[str, ...]:
        """The tasks of a dataset that have a turn at a step."""
        active = self.holding(step).tasks
        return tuple(task for task in self.serves[dataset] if task in active)

    def resting(self, step: int) -> frozenset[str]:
        """The tasks that have no turn at a step."""
        return frozenset(_all_tasks(self.serves)) - self.holding(step).tasks

    def dataset_steps(self, step: int) -> dict[str, int]:
        """How often each dataset was served before ``step``."""
        with self._lock:
            self._extend(step)
            before = {name: bisect_left(steps, step) for name, steps in zip(self._names, self._steps, strict=True)}
            return {name: before[name] for name in self.serves}

    def shares(self, passes: int) -> Shares:
        """What ``passes`` forward passes are planned to give."""
        datasets, tasks = dict.fromkeys(self.serves, 0.0), dict.fromkeys(_all_tasks(self.serves), 0.0)
        pieces = [piece for piece in self.pieces if piece.first < passes]
        for piece, end in zip(pieces, [*(piece.first for piece in pieces[1:]), passes], strict=True):
            part, total = (end - piece.first) / passes, sum(piece.weights.values())
            for name, weight in piece.weights.items():
                datasets[name] += part * weight / total
                for task in self.serves[name]:
                    tasks[task] += part * weight / total * (task in piece.tasks)
        return Shares(datasets, tasks, datasets)

    def enter(self, entry: Entry) -> None:
        """Changes the plan from ``entry.first`` on.

        Raises:
            ConfigError: steps from there on were handed out already.
        """
        with self._lock:
            if entry.first < self.handed:
                raise ConfigError(
                    f"schedule: a change from forward pass {entry.first} comes too late, {self.handed} are handed out "
                    "already; set a larger lag of the schedule, or fewer workers"
                )
            due = self._regime(entry.first).due_at(entry.first)
            self._forget(entry.first)
            self.entries.append(entry)
            self._regimes.append(Regime(self._draft(entry), self._names, entry.first, due))
            self._firsts.append(entry.first)

    def _forget(self, first: int) -> None:
        """Drops what was thought of steps from ``first`` on, but never handed out."""
        del self._chosen[first:]
        for steps in self._steps:
            del steps[bisect_left(steps, first) :]

    def state(self) -> dict[str, Any]:
        return {"entries": [entry.state() for entry in self.entries]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state, whatever was planned in between.

        Raises:
            CheckpointError: it is of other datasets.
        """
        self._begin()
        self.handed = 0
        for entry in state.get("entries", ()):
            if strange := sorted(set(entry["factors"]) - set(self.serves)):
                raise CheckpointError(f"the checkpoint's schedule names the dataset '{strange[0]}'; this run has none")
            self.enter(Entry(entry["first"], entry["factors"], tuple(entry["stopped"])))

    def _regime(self, step: int) -> Regime:
        return self._regimes[bisect_right(self._firsts, step) - 1]

    def _extend(self, length: int) -> None:
        for step in range(len(self._chosen), length):
            chosen = self._choose(step)
            self._steps[chosen].append(step)
            self._chosen.append(chosen)

    def _choose(self, step: int) -> int:
        """Among those far enough behind, the one whose deadline comes first; who has no share now is never chosen."""
        regime, slack = self._regime(step), self._slack
        k = regime.at(step)
        active = [d for d, part in enumerate(regime.parts[k]) if part]
        past = step + 1 - regime.starts[k]
        due = {d: regime.due[k][d] + past * regime.parts[k][d] for d in active}
        behind = [d for d in active if slack * (due[d] - len(self._steps[d]) * UNIT) >= UNIT]
        if len(behind) == 1:
            return behind[0]
        late = Fraction(UNIT * (slack - 1), slack)
        return min(behind or active, key=lambda d: regime.deadline(d, len(self._steps[d]) * UNIT + late, k))


def _parts(weights: Sequence[float]) -> list[int]:
    """Weights as whole parts that add up to one batch exactly; the largest one takes what rounding leaves."""
    total = sum(Fraction(weight) for weight in weights)
    parts = [max(1, round(Fraction(weight) / total * UNIT)) if weight else 0 for weight in weights]
    parts[max(range(len(parts)), key=parts.__getitem__)] += UNIT - sum(parts)
    return parts


def _all_tasks(serves: Mapping[str, Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(task for tasks in serves.values() for task in tasks))


def steady_shares(shares: Mapping[str, float], serves: Mapping[str, Sequence[str]]) -> Shares:
    """What a plan gives whose shares of datasets never change."""
    tasks = {task: sum(shares[name] for name in serves if task in serves[name]) for task in _all_tasks(serves)}
    return Shares(shares, tasks, shares)
