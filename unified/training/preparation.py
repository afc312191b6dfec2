# SPDX-License-Identifier: Apache-2.0
"""What a run is made of before its first step: data, devices, balancer, schedule, and what tells it from others."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState

from unified.contracts import protocols
from unified.contracts.config import RunConfig
from unified.contracts.document import check_options
from unified.contracts.errors import ConfigError
from unified.contracts.plugins import noted
from unified.contracts.protocols import Balancer
from unified.data.fingerprint import fingerprints
from unified.data.mixing import Mixture, open_mixture
from unified.data.schedule import CountingSchedule
from unified.hardware import Hardware, leave_a_core, pick
from unified.model.build import task_class
from unified.training import sharding
from unified.training.balance import check_balance
from unified.training.course import Course
from unified.training.growth import further_words
from unified.training.ranks import meet_anew
from unified.training.resumption import surroundings
from unified.training.scheduling import scheduled


@dataclass(frozen=True)
class Splits:
    """The run's data, opened."""

    train: Mixture
    val: Mixture


def open_splits(config: RunConfig, base: Path) -> Splits:
    """Both splits; the validation split speaks the training vocabulary."""
    kinds = {name: task_class(task) for name, task in config.tasks.items()}
    labels, breaks = ({name: getattr(kind, what) for name, kind in kinds.items()} for what in ("labels", "breaks"))
    given: dict[str, Any] = {"size": config.train.size, "base": base, "breaks": breaks}
    train = open_mixture(config.data, labels, split="train", **given)
    if (words := further_words(config, train.vocabulary)) is not None:
        train = open_mixture(config.data, labels, split="train", vocabulary=words, **given)
    val = open_mixture(config.data, labels, split="val", vocabulary=train.vocabulary, **given)
    return Splits(train, val)


def planned_steps(config: RunConfig, images: int) -> int:
    """Optimizer steps of the whole run: ``epochs`` over all images, ``max_steps`` at most."""
    return Course(config.train, images).steps


def make_accelerator(config: RunConfig) -> tuple[Accelerator, Hardware]:
    """Devices and ranks by accelerate; precision by capability."""
    hardware = pick(config.train.device, config.train.precision)
    if hardware.device.type == "cpu":
        leave_a_core()
    AcceleratorState._reset_state(reset_partial_state="RANK" not in os.environ)  # runs may follow one another
    meet_anew(cpu=hardware.device.type == "cpu")
    with sharding.plugged(config) as plugin:
        accelerator = Accelerator(
            mixed_precision={"fp32": "no"}.get(hardware.precision, hardware.precision),
            cpu=hardware.device.type == "cpu",
            step_scheduler_with_optimizer=False,
            fsdp_plugin=plugin,
        )
    sharding.accept(accelerator, plugin)
    return accelerator, Hardware(accelerator.device, hardware.precision)


def description(config: RunConfig, base: Path, mixture: Mixture) -> dict[str, Any]:
    """What a checkpoint must say to be loaded on its own."""
    vocabulary = {name: list(words) for name, words in vars(mixture.vocabulary).items()}
    return {
        "config": config.model_dump(mode="json"),
        "base": str(base.resolve()),
        "vocabulary": vocabulary,
        "categories": mixture.categories(),
        "plugins": noted(config),
    }


def identity(splits: Splits, hardware: Hardware, ranks: int | str) -> dict[str, Any]:
    """What a checkpoint must say so that a run that goes on can tell whether it is the same."""
    data = fingerprints({"train": splits.train, "val": splits.val})
    return {"fingerprints": data, "surroundings": surroundings(hardware, ranks)}


def make_balancer(config: RunConfig) -> Balancer:
    """The configured way to make one loss of the tasks' losses."""
    cls = protocols.balancers.get(config.balance.name)
    check_options("balancer", config.balance.name, cls, config.balance.options, reserved=("weights",))
    balancer: Balancer = cls({name: task.weight for name, task in config.tasks.items()}, **config.balance.options)
    check_balance(config, balancer)
    return balancer


def planned_schedule(config: RunConfig, mixture: Mixture, accelerator: Accelerator) -> CountingSchedule:
    """Which dataset at which forward pass; a batch that cannot be shared is refused here."""
    settings = config.train
    share = settings.batch // settings.accumulate
    if share * settings.accumulate != settings.batch or share % accelerator.num_processes:
        raise ConfigError(
            f"batch {settings.batch} cannot be shared by {settings.accumulate} accumulation steps on "
            f"{accelerator.num_processes} ranks; choose a multiple of {settings.accumulate * accelerator.num_processes}"
        )
    mixture.samplers(share, settings.seed)  # one that does not fit is refused before the run has a folder
    sizes = {name: math.ceil(len(source) / share) for name, source in mixture.sources.items()}
    return scheduled(config, sizes, mixture.serves, Course(settings, mixture.images))
