# SPDX-License-Identifier: Apache-2.0
"""From the tasks' losses to one scalar."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from unified.contracts.config import PhaseConfig, RunConfig
from unified.contracts.errors import ConfigError, suggestion
from unified.contracts.protocols import Balancer, GradientBalancer
from unified.contracts.structures import LossTerm


def normalised(term: LossTerm, count: Tensor) -> Tensor:
    """A loss term per labelled item: weight * sum / count; a term without items stays zero."""
    return term.weight * term.sum / count.clamp(min=1.0)


def check_phases(phases: Sequence[PhaseConfig], tasks: Iterable[str]) -> None:
    """Whether the gains of all phases name tasks of the run; their losses are known only once they are computed.

    Raises:
        ConfigError: one does not.
    """
    for number, phase in enumerate(phases):
        for name in phase.gains:
            if (task := name.partition("/")[0]) not in tasks:
                raise ConfigError(f"phases[{number}].gains: this run has no task '{task}'{suggestion(task, tasks)}")


def check_gains(terms: Mapping[str, Mapping[str, LossTerm]], phases: Sequence[PhaseConfig]) -> None:
    """Whether every gain of every phase names a loss, as far as the tasks of ``terms`` can tell.

    Raises:
        ConfigError: one does not.
    """
    known = {f"{task}/{name}" for task, items in terms.items() for name in items}
    for number, phase in enumerate(phases):
        for name in phase.gains:
            if "/" in name and name.partition("/")[0] in terms and name not in known:
                raise ConfigError(f"phases[{number}].gains: unknown loss '{name}'{suggestion(name, known)}")


def check_balance(config: RunConfig, balancer: Balancer) -> None:
    """Whether a balancer can do its work in a run.

    Raises:
        ConfigError: the tasks' weights sum to nothing, or gradients of single tasks are asked of compiled graphs.
    """
    if not any(task.weight for task in config.tasks.values()):
        names = ", ".join(config.tasks)
        raise ConfigError(f"the weights of all tasks ({names}) are 0, so nothing would be learnt; give one a weight")
    if isinstance(balancer, GradientBalancer) and len(config.tasks) > 1 and getattr(config.train, "compile", False):
        raise ConfigError(
            f"balancer '{config.balance.name}' takes every task's own gradient, and a compiled graph has one backward "
            "pass only; set compile=false, or balance=fixed, uncertainty, dwa or famo"
        )


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
