# SPDX-License-Identifier: Apache-2.0
"""A noisy series as its running mean."""

from __future__ import annotations

from collections.abc import Sequence

SMOOTHING_SHARE = 0.05  # of the shown steps


def smoothed(values: Sequence[float], share: float = SMOOTHING_SHARE) -> list[float]:
    """Exponential mean, corrected for its start (as Kingma and Ba 2015, section 3, correct Adam's moments).

    Args:
        values: a number a logged step.
        share: the memory's length as a share of all values.
    """
    keep = 1 - 1 / max(1.0, share * len(values))
    mean, weight, result = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        result.append(mean / weight)
    return result
