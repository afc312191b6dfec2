# SPDX-License-Identifier: Apache-2.0
"""What a foreign trainer needs: the model that gives losses, the batches, and the way back to a model of ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from unified.contracts.config import RunConfig
from unified.contracts.document import load_run_config
from unified.contracts.errors import ConfigError
from unified.contracts.structures import Batch
from unified.data.loader import EvalLoader, TrainLoader, reach_of
from unified.hardware import pick_workers
from unified.inference.model import UnifiedModel
from unified.model.build import assemble
from unified.model.defaults import spelled_out
from unified.trained import Trained
from unified.training.balance import normalised
from unified.training.course import Course
from unified.training.joint import JointModel
from unified.training.run import Splits, open_splits
from unified.training.scheduling import scheduled


class Served(IterableDataset[Batch]):
    """The batches of a loader, for a trainer that asks how many there are."""

    def __init__(self, loader: TrainLoader | EvalLoader, images: int) -> None:
        self.loader = loader
        self.images = images  # that the batches hold

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.loader)


@dataclass(frozen=True)
class Workshop:
    """A configured run without a trainer: whoever trains takes the model and the batches from here.

    Args:
        config: as :func:`unified.contracts.document.load_run_config` gives it.
        base: the folder that dataset paths start from.
    """

    config: RunConfig
    base: Path

    @classmethod
    def of(
        cls,
        tasks: Sequence[str],
        data: str = "shapes",
        model: str = "unified-n",
        recipe: str | None = None,
        settings: Sequence[str] = (),
    ) -> Workshop:
        """One from the words of ``unified-train``; ``settings`` are its ``KEY=VALUE``.

        Raises:
            ConfigError: a word that is not known.
        """
        config, base = load_run_config(model=model, data=data, tasks=tasks, recipe=recipe, overrides=list(settings))
        return cls(spelled_out(config), base)

    @cached_property
    def splits(self) -> Splits:
        """Training and validation data, opened once."""
        return open_splits(self.config, self.base)

    @cached_property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return Course(self.config.train, self.splits.train.images).steps

    def joint_model(self) -> JointModel:
        """A fresh network with the tasks' losses, by the run's seed.

        Raises:
            ConfigError: the input size does not suit the network.
        """
        torch.manual_seed(self.config.train.seed)
        parts = assemble(self.config.model, self.config.tasks, self.splits.train.vocabulary, fetch=False)
        parts.network.check_size(self.config.train.size)
        model = JointModel(parts.network, parts.tasks)
        model.settle(self.config)
        return model

    def train_loader(self, rank: int = 0, world: int = 1, start: int = 0) -> DataLoader[Batch]:
        """The training batches of one rank from step ``start`` on: our schedule, order and transforms.

        Raises:
            ConfigError: accumulation is configured, which is the other trainer's business.
        """
        train, mixture = self.config.train, self.splits.train
        if train.accumulate != 1:
            raise ConfigError(f"accumulate={train.accumulate}: set it in the trainer that takes the steps, 1 here")
        course = Course(train, mixture.images)
        sizes = {name: -(-len(source) // train.batch) for name, source in mixture.sources.items()}
        loader = TrainLoader(
            mixture,
            schedule=scheduled(self.config, sizes, mixture.serves, course),
            batch=train.batch,
            size=train.size,
            augment=course.augment,
            seed=train.seed,
            steps=course.passes,
            start_step=start,
            rank=rank,
            world=world,
            workers=pick_workers(train.workers),
            reach=reach_of(train.size, (phase.augment for phase in course.phases)),
        )
        return _served(loader, train.batch * len(loader))

    def val_loader(self) -> DataLoader[Batch]:
        """The validation images once, letterboxed."""
        loader = EvalLoader(self.splits.val, batch=2 * self.config.train.batch, size=self.config.train.size)
        return _served(loader, self.splits.val.images)

    def losses(self, model: JointModel, batch: Batch) -> Mapping[str, Tensor]:
        """The loss of every task that a batch serves: scalars, by labelled items and weighted as configured."""
        return {
            task: self.config.tasks[task].weight
            * torch.stack([normalised(term, term.count.detach().float()) for term in terms.values()]).sum()
            for task, terms in model(batch).items()
        }

    def finished(self, model: JointModel, device: str = "auto") -> UnifiedModel:
        """What was trained, as :func:`unified.load` would give it; ``save_pretrained`` writes it to disk."""
        tasks = {name: model.task(name) for name in self.config.tasks}
        vocabulary = self.splits.train.vocabulary
        return UnifiedModel(Trained(model.network, tasks, vocabulary, self.config, self.base, self.base), device)


def _served(loader: TrainLoader | EvalLoader, images: int) -> DataLoader[Batch]:
    served: DataLoader[Batch] = DataLoader(Served(loader, images), batch_size=None)
    served.sampler.set_epoch = lambda epoch: None  # type: ignore[attr-defined]  # trainers ask; the order is settled
    return served
