# SPDX-License-Identifier: Apache-2.0
"""Network and tasks as one module: one forward from images to losses, so that one wrapper serves every rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from unified.contracts.config import RunConfig
from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Task
from unified.contracts.structures import Batch, LossTerm
from unified.model.network import UnifiedNetwork


class JointModel(nn.Module):
    """What is trained: the network and the parameters that tasks' losses own.

    ``rates`` holds what multiplies the learning rate of a task's own parameters; :meth:`settle` sets it.
    """

    def __init__(self, network: UnifiedNetwork, tasks: nn.ModuleDict) -> None:
        super().__init__()
        self.network = network
        self.tasks = tasks
        self.rates: dict[str, float] = {}
        self._frozen: tuple[str, ...] = ()  # places of modules

    def settle(self, config: RunConfig) -> None:
        """Takes the rates of the tasks and freezes what shall not learn: no gradients, and batch norms stand still.

        Raises:
            ConfigError: nothing is left to learn.
        """
        self.rates = {name: task.lr for name, task in config.tasks.items() if task.lr != 1}
        places = [f"network.{part}" for part in config.train.freeze]
        for name in (name for name, task in config.tasks.items() if task.freeze):
            own = (f"network.heads.{name}", f"tasks.{name}", f"network.bank.tasks.{name}")
            places += [place for place in own if place in dict(self.named_modules())]
        self._frozen = tuple(places)
        for place in places:
            self.get_submodule(place).requires_grad_(False)
        self.network.standing += tuple(self.get_submodule(p) for p in places if p.startswith("network."))
        if not any(p.requires_grad for p in self.parameters()):
            raise ConfigError("freeze: nothing is left to learn; leave one task, the backbone or the neck out of it")
        self.train(self.training)

    def train(self, mode: bool = True) -> JointModel:
        """Training or evaluation mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        for place in self._frozen:
            self.get_submodule(place).eval()
        return self

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

    def own_parameters(self, task: str) -> list[nn.Parameter]:
        """Those of :meth:`parameters_of` that learn."""
        return [p for p in self.parameters_of(task) if p.requires_grad]

    def shared_parameters(self) -> list[nn.Parameter]:
        """Parameters that learn and belong to no task alone: those of trunk and neck."""
        own = {id(p) for task in self.tasks for p in self.parameters_of(task)}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in own]
