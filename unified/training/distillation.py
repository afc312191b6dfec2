# SPDX-License-Identifier: Apache-2.0
"""Distillation: old answers are held near what they were while something that they read learns."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unified.contracts.structures import LossTerm
from unified.model.growth import pruned
from unified.model.network import UnifiedNetwork

LEAST = 1e-6  # variance of an answer below which it is taken to be constant


class Teacher(nn.Module):
    """A network as it was, whose answers for some tasks are kept (Li and Hoiem 2016, Learning without Forgetting).

    What a head says is compared number by number, as mean squared difference over the variance of the old answer: 0 is
    the same answer, 1 as far off as its mean. So one weight serves boxes, tags and vectors alike.

    Args:
        network: copied as it is now.
        tasks: whose answers are kept.
        weight: of each task's loss.
    """

    def __init__(self, network: UnifiedNetwork, tasks: Collection[str], weight: float) -> None:
        super().__init__()
        alone = network
        for name in network.tasks:
            alone = alone if name in tasks else pruned(alone, name)
        self.network = copy.deepcopy(alone).requires_grad_(False).eval()
        self.tasks, self.weight = tuple(tasks), weight

    def forward(self, images: Tensor, outputs: Mapping[str, Any]) -> dict[str, LossTerm]:
        """Loss terms ``keep_TASK`` of what the network says now. images: (B, 3, H, W); outputs: by task name."""
        with torch.no_grad():
            before = self.network(images, self.tasks)
        return {f"keep_{name}": self._term(outputs[name], before[name]) for name in self.tasks}

    def _term(self, now: Any, before: Any) -> LossTerm:
        pairs = list(zip(numbers(now), numbers(before), strict=True))
        moved = [_distance(a.float(), b.float()) for a, b in pairs if a.requires_grad]
        zero = sum((a.sum() * 0.0 for a, _ in pairs), start=pairs[0][1].new_zeros(()))
        total = torch.stack(moved).mean() if moved else zero
        return LossTerm(total, total.new_ones(()), self.weight)


def _distance(now: Tensor, before: Tensor) -> Tensor:
    return (now - before).square().mean() / before.var().clamp(min=LEAST)


def numbers(output: Any) -> Iterator[Tensor]:
    """The floating tensors of a head's output, in order."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from numbers(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from numbers(value)
    elif is_dataclass(output):
        for each in fields(output):
            yield from numbers(getattr(output, each.name))
