# SPDX-License-Identifier: Apache-2.0
"""The exponential moving average of a network's weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from unified.training.sharding import local


def ramped(decay: float, ramp: float, updates: int) -> float:
    """d(t) = decay * (1 - exp(-t / ramp)), so that early steps do not hold on to random weights."""
    return decay * (1 - math.exp(-updates / ramp))


def unchanging(network: nn.Module) -> frozenset[str]:
    """Names of what no step changes: parameters that do not learn, and the buffers of parts that stand still.

    An average of equal numbers is the number, but for the sign of a zero; what stands still is not even averaged.
    """
    standing = {id(part) for whole in getattr(network, "standing", ()) for part in whole.modules()}
    names = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    for place, module in network.named_modules():
        if id(module) in standing:
            names |= {f"{place}.{name}" if place else name for name, _ in module.named_buffers(recurse=False)}
    return frozenset(names)


class MovingAverage:
    """Follows a network's parameters and buffers: average += (1 - d(t)) * (network - average)."""

    def __init__(self, network: nn.Module, decay: float, ramp: float) -> None:
        self.network = copy.deepcopy(network).eval()
        self.network.requires_grad_(False)
        self.decay = decay
        self.ramp = ramp
        self.updates = 0
        self._paired: nn.Module | None = None  # the network whose tensors the two lists below pair with the average's
        self._resting: frozenset[str] = frozenset()
        self._averages: list[list[Tensor]] = []
        self._currents: list[list[Tensor]] = []

    @torch.no_grad()
    def update(self, network: nn.Module, resting: frozenset[str] = frozenset()) -> None:
        """One optimizer step has been taken; what only ``resting`` tasks use is left as it is."""
        self.updates += 1
        decay = ramped(self.decay, self.ramp, self.updates)
        if self._paired is not network or self._resting != resting:
            self._pair(network, resting)
        torch._foreach_lerp_(self._averages[0], self._currents[0], 1 - decay)
        if self._averages[1]:
            torch._foreach_copy_(self._averages[1], self._currents[1])

    def _pair(self, network: nn.Module, resting: frozenset[str]) -> None:
        """Lists the tensors of both networks once, floating ones and counters apart: both change in place only."""
        current, idle = network.state_dict(), tuple(f"{p}.{t}." for p in ("heads", "bank.tasks") for t in resting)
        still, own = unchanging(network), self.network.state_dict()
        average = {name: tensor for name, tensor in own.items() if name not in still and not name.startswith(idle)}
        floating = [[k for k, v in average.items() if v.is_floating_point() == wanted] for wanted in (True, False)]
        self._averages = [[local(average[k]) for k in keys] for keys in floating]
        self._currents = [[local(current[k].detach()) for k in keys] for keys in floating]
        self._paired, self._resting = network, resting
