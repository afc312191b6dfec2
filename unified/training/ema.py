# SPDX-License-Identifier: Apache-2.0
"""The exponential moving average of a network's weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn


def ramped(decay: float, ramp: float, updates: int) -> float:
    """d(t) = decay * (1 - exp(-t / ramp)), so that early steps do not hold on to random weights."""
    return decay * (1 - math.exp(-updates / ramp))


class MovingAverage:
    """Follows a network's parameters and buffers: average += (1 - d(t)) * (network - average)."""

    def __init__(self, network: nn.Module, decay: float, ramp: float) -> None:
        self.network = copy.deepcopy(network).eval()
        self.network.requires_grad_(False)
        self.decay = decay
        self.ramp = ramp
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """One optimizer step has been taken."""
        self.updates += 1
        decay = ramped(self.decay, self.ramp, self.updates)
        average, current = self.network.state_dict(), network.state_dict()
        floating = [k for k, v in average.items() if v.is_floating_point()]
        mine: list[Tensor] = [average[k] for k in floating]
        theirs: list[Tensor] = [current[k].detach() for k in floating]
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for key in average.keys() - set(floating):
            average[key].copy_(current[key])
