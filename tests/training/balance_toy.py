# SPDX-License-Identifier: Apache-2.0
"""A network of a few numbers with several tasks, for balancers: every gradient can be worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from unified.contracts.structures import LossTerm
from unified.training.descent import Descent
from unified.training.guard import Guard
from unified.training.passes import Passes
from unified.training.progress import Progress
from unified.training.serving import Serving


@dataclass
class Points:
    """A batch: (B, 4) float, and the tasks it serves."""

    x: Tensor
    tasks: tuple[str, ...]
    dataset: str = "points"

    def to(self, device: object, memory_format: object = None) -> Points:
        return self

    def __len__(self) -> int:
        return len(self.x)

    def half(self, rank: int) -> Points:
        many = len(self) // 2
        return replace(self, x=self.x[rank * many : (rank + 1) * many])


class Toy(nn.Module):
    """A shared layer and a layer for each task; a task's loss is the squared distance to a line of its own."""

    def __init__(self, tasks: tuple[str, ...] = ("a", "b", "c")) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(4, 5)
        self.tasks = nn.ModuleDict({task: nn.Linear(5, 2) for task in tasks})
        self.targets = {task: torch.randn(4, 2) for task in tasks}
        self.network = SimpleNamespace(tasks=tuple(self.tasks))

    def forward(self, batch: Points) -> dict[str, dict[str, LossTerm]]:
        hidden = torch.tanh(self.trunk(batch.x))
        terms = {}
        for task in batch.tasks:
            off = (self.tasks[task](hidden) - batch.x @ self.targets[task]).float()
            scale = 1 + 3 * list(self.tasks).index(task)
            terms[task] = {"square": LossTerm(scale * off.square().sum(), torch.tensor(float(len(batch))))}
        return terms

    def parameters_of(self, task: str) -> Iterator[nn.Parameter]:
        yield from self.tasks[task].parameters()

    def own_parameters(self, task: str) -> list[nn.Parameter]:
        return list(self.parameters_of(task))

    def shared_parameters(self) -> list[nn.Parameter]:
        return list(self.trunk.parameters())


def accelerator(precision: str = "no") -> Accelerator:
    AcceleratorState._reset_state(reset_partial_state=False)
    return Accelerator(cpu=True, mixed_precision=precision)


class Track:
    """Steps of a toy under a balancer, through the very passes that training makes."""

    def __init__(self, balancer: Any, toy: Any, precision: str = "no", lr: float = 0.01, momentum: float = 0.5) -> None:
        self.accelerator = accelerator(precision)
        self.toy, self.balancer = toy, balancer
        made = torch.optim.SGD(toy.parameters(), lr=lr, momentum=momentum)
        self.wrapped, self.optimizer = self.accelerator.prepare(toy, made)
        self.descent = Descent(toy, self.accelerator, balancer)
        self.passes = Passes(toy, self.wrapped, self.accelerator, self.descent, Guard(toy), None)

    def gradients(self, *batches: Points) -> None:
        self.serving = Serving(iter(batches), len(batches))  # type: ignore[arg-type]
        self.passes.gradients(self.serving, {}, Progress(), lambda _: 1.0)

    def step(self, *batches: Points) -> None:
        self.gradients(*batches)
        for parameter in self.passes.idle(self.serving.tasks):
            parameter.grad = None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.passes.after(self.serving, {})

    def weights(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.toy.parameters()])


def batches(tasks: tuple[str, ...] = ("a", "b", "c"), many: int = 6) -> list[list[Points]]:
    """Steps of two forward passes; some serve only a part of the tasks, one a single one."""
    dice = torch.Generator().manual_seed(1)
    served = (tasks, tasks[:2], tasks[:1], tasks[1:], tasks[-1:], tasks)
    return [
        [Points(torch.randn(8, 4, generator=dice), served[(step + k) % len(served)]) for k in (0, step % 2)]
        for step in range(many)
    ]
