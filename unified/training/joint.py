# SPDX-License-Identifier: Apache-2.0
"""Network and tasks as one module: one forward from images to losses, so that one wrapper serves every rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from unified.contracts.config import GrowthConfig, RunConfig
from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Task
from unified.contracts.protocols import tasks as registered
from unified.contracts.registry import RegistryError
from unified.contracts.structures import Batch, LossTerm
from unified.model.network import UnifiedNetwork
from unified.training.distillation import Teacher


def checked(terms: Any, task: Task) -> Mapping[str, LossTerm]:
    """What a task's loss returned, if it is what it must be.

    Raises:
        RegistryError: it is not loss terms by name.
    """
    if isinstance(terms, Mapping) and all(isinstance(term, LossTerm) for term in terms.values()):
        return terms
    who, got = registered.called(type(task)), type(terms).__name__
    raise RegistryError(f"{who}: loss() returned a {got}; expected {{name: LossTerm(sum, count)}}")


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
        self.teacher: Teacher | None = None  # holds the answers of tasks that came with the network

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
        self._frozen = tuple(dict.fromkeys([*places, *self._keep(config.growth)]))
        places = [*self._frozen]
        for place in places:
            self.get_submodule(place).requires_grad_(False)
        self.network.standing += tuple(self.get_submodule(p) for p in places if p.startswith("network."))
        if not any(p.requires_grad for p in self.parameters()):
            raise ConfigError("freeze: nothing is left to learn; leave one task, the backbone or the neck out of it")
        self.train(self.training)

    def _keep(self, growth: GrowthConfig) -> list[str]:
        """The places of what came with the network and does not learn; there is a teacher where answers are held."""
        if not growth.tasks:
            return []
        if growth.unfreeze and growth.distill:
            self.teacher = Teacher(self.network, growth.tasks, growth.distill)
        parts = [part for part in ("backbone", "neck") if part not in growth.unfreeze]
        parts += [f"{part}.{name}" for name in growth.tasks for part in ("heads", "bank.tasks")]
        there = dict(self.network.named_modules())
        return [f"network.{part}" for part in parts if part in there] + ["teacher"] * (self.teacher is not None)

    def train(self, mode: bool = True) -> JointModel:
        """Training or evaluation mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        for place in self._frozen:
            self.get_submodule(place).eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Mapping[str, LossTerm]]:
        """Loss terms of the tasks this batch serves, by task name."""
        held = self.teacher.tasks if self.teacher else ()
        outputs = self.network(batch.images, (*batch.tasks, *held))
        terms = {name: checked(self.task(name).loss(outputs[name], batch), self.task(name)) for name in batch.tasks}
        if self.teacher and batch.tasks:
            terms[batch.tasks[0]] = {**terms[batch.tasks[0]], **self.teacher(batch.images, outputs)}
        return terms

    def task(self, name: str) -> Task:
        return self.tasks[name]  # type: ignore[return-value]

    def parameters_of(self, task: str) -> Iterator[nn.Parameter]:
        """Parameters that only this task uses: its head, its latents and its loss."""
        yield from self.network.heads[task].parameters()
        if task in self.tasks:  # of those that came with the network only head and latents are here
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
