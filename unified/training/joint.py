# SPDX-License-Identifier: Apache-2.0
"""Network and tasks as one module: one forward from images to losses, so that one wrapper serves every rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from unified.contracts.protocols import Task
from unified.contracts.structures import Batch, LossTerm
from unified.model.network import UnifiedNetwork


class JointModel(nn.Module):
    """What is trained: the network and the parameters that tasks' losses own."""

    def __init__(self, network: UnifiedNetwork, tasks: nn.ModuleDict) -> None:
        super().__init__()
        self.network = network
        self.tasks = tasks

    def forward(self, batch: Batch) -> dict[str, Mapping[str, LossTerm]]:
        """Loss terms of the tasks this batch serves, by task name."""
        outputs = self.network(batch.images, batch.tasks)
        return {name: self.task(name).loss(outputs[name], batch) for name in batch.tasks}

    def task(self, name: str) -> Task:
        return self.tasks[name]  # type: ignore[return-value]

    def parameters_of(self, task: str) -> Iterator[nn.Parameter]:
        """Parameters that only this task uses: its head, its latents and its loss."""
        yield from self.network.heads[task].parameters()
        yield from self.tasks[task].parameters()
        if task in self.network.bank.tasks:
            yield from self.network.bank.tasks[task].parameters()
