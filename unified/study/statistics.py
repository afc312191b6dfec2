# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of comparisons: intervals over seeds and relative change against baselines."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from unified.contracts.errors import DataError

LEVEL = 0.95
LEAST = 1e-6  # a baseline below this has no relative change


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with Student's t-interval (Student 1908): mean ± t(n - 1) s / sqrt(n), at ``LEVEL``.

    ``half`` is None for a single value, of which nothing is known.
    """

    values: tuple[float, ...]  # one a seed

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / len(self.values)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds, with n - 1."""
        if len(self.values) < 2:
            return None
        mean = self.mean
        return math.sqrt(math.fsum((value - mean) ** 2 for value in self.values) / (len(self.values) - 1))

    @property
    def half(self) -> float | None:
        """Half the interval's length."""
        deviation, many = self.deviation, len(self.values)
        return (
            None if deviation is None else float(stats.t.ppf((1 + LEVEL) / 2, many - 1)) * deviation / math.sqrt(many)
        )

    @property
    def low(self) -> float:
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.half or 0.0)

    @property
    def spread(self) -> float:
        """Largest less smallest."""
        return max(self.values) - min(self.values)


def relative_change(score: float, baseline: float, lower_is_better: bool = False) -> float:
    """(-1)^l (M - B) / B in per cent: one term of delta m (Maninis et al. 2019; Vandenhende et al. 2021, the survey).

    Raises:
        DataError: the baseline is zero, against which everything is infinitely better.
    """
    if abs(baseline) < LEAST:
        raise DataError(f"a baseline of {baseline:g} has no relative change; train longer, or compare another score")
    return (-1 if lower_is_better else 1) * 100 * (score - baseline) / abs(baseline)


def delta_m(scores: Mapping[str, float], baseline: Mapping[str, float], lower: Collection[str] = ()) -> float:
    """Mean signed relative change over all tasks against their single-task baselines, in per cent.

    Args:
        scores, baseline: a number a task.
        lower: tasks whose score is an error.
    """
    changes = [relative_change(scores[task], baseline[task], task in lower) for task in baseline]
    return math.fsum(changes) / len(changes)


def over_seeds(values: Sequence[float]) -> Interval:
    """The interval of one number a seed."""
    return Interval(tuple(values))
