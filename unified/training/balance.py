# SPDX-License-Identifier: Apache-2.0
"""From the tasks' losses to one scalar."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unified.contracts.structures import LossTerm


def normalised(term: LossTerm, count: Tensor) -> Tensor:
    """A loss term per labelled item: weight * sum / count; a term without items stays zero."""
    return term.weight * term.sum / count.clamp(min=1.0)


class FixedWeights:
    """The weighted sum of the tasks' losses, the default: tuned sums are hard to beat (Kurin et al. 2022).

    Args:
        weights: task -> weight; a task that is missing counts 1.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)

    def combine(self, losses: Mapping[str, Tensor]) -> Tensor:
        """losses: scalars by task; returns a scalar."""
        return torch.stack([self.weights.get(task, 1.0) * loss for task, loss in losses.items()]).sum()
