# SPDX-License-Identifier: Apache-2.0
"""What a training may look at: the same number of images with a task's labels, whoever learns the task.

That is what "the same budget" means here. A joint network of N steps shows task t every batch of every dataset that
labels t; a network for t alone is trained on these datasets, for as many steps as show it as many such images. So a
joint network never sees more of a task's labels than the baseline that it is measured against. It does see other
tasks' labels, on the same pictures or on more: that is what is being tested.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from unified.contracts.config import DataConfig, PartConfig, RunConfig, TrainConfig
from unified.contracts.errors import ConfigError
from unified.data.mixing import Mixture
from unified.data.steering import SteeredPlan
from unified.training.course import Course
from unified.training.run import Splits, open_splits, planned_schedule


@dataclass(frozen=True)
class Budget:
    """What a training looks at, repetitions counted."""

    steps: int  # optimizer steps
    images: int
    labelled: Mapping[str, int]  # by task, images that carry its labels


class _OneRank:
    num_processes, process_index, is_main_process = 1, 0, True


def budget_of(config: RunConfig, mixture: Mixture) -> Budget:
    """The budget of a run over its whole length, by its schedule.

    Raises:
        ConfigError: the schedule depends on scores.
    """
    course = Course(config.train, mixture.images)
    schedule = planned_schedule(config, mixture, cast(Any, _OneRank()))
    if isinstance(getattr(schedule, "plan", schedule), SteeredPlan):
        raise ConfigError(
            f"schedule '{config.data.schedule.name}' follows scores, so nobody knows beforehand how many images a task "
            "sees; compare with one that does not"
        )
    served = Counter(task for step in range(course.passes) for task in schedule.turn(step).tasks)
    many = course.pass_images
    return Budget(course.steps, course.passes * many, {task: served[task] * many for task in config.tasks})


def opened(config: RunConfig, base: Path) -> Splits:
    """The data of a run."""
    return open_splits(config, base)


def to_length(config: RunConfig, steps: int, mixture: Mixture) -> RunConfig:
    """The same run, of ``steps`` optimizer steps and without a clock."""
    course = Course(config.train, mixture.images)
    epochs = 1.001 * (steps + 1) * course.step_images / mixture.images  # beyond the end; max_steps lays out the course
    given = {"max_steps": steps, "epochs": epochs, "max_minutes": None}
    train = TrainConfig.model_validate({**config.train.model_dump(), **given})  # phases stretch with the epochs
    return config.model_copy(update={"train": train})


def alone(config: RunConfig, task: str, serves: Mapping[str, tuple[str, ...]], budget: Budget) -> tuple[RunConfig, int]:
    """A joint run cut down to one task, and the steps that show it as many images with that task's labels."""
    names = [name for name, tasks in serves.items() if task in tasks]
    datasets = {name: dataset for name, dataset in config.data.datasets.items() if name in names}
    data = DataConfig(datasets=datasets, schedule=_without(config.data.schedule, set(serves) - set(names)))
    steps = max(1, round(budget.labelled[task] / (budget.images / budget.steps)))
    return config.model_copy(update={"tasks": {task: config.tasks[task]}, "data": data}), steps


def _without(schedule: PartConfig, datasets: set[str]) -> PartConfig:
    """A schedule that no longer speaks of some datasets."""
    ratios = schedule.options.get("ratios")
    if not isinstance(ratios, Mapping):
        return schedule
    return PartConfig(
        name=schedule.name,
        options={**schedule.options, "ratios": {name: w for name, w in ratios.items() if name not in datasets}},
    )


def check_length(config: RunConfig) -> None:
    """Whether nothing but the study itself says how long a run is.

    Raises:
        ConfigError: a clock ends it, or it has steps of its own.
    """
    if config.train.max_minutes:
        raise ConfigError("max_minutes: a clock gives every run another budget; a study counts steps, give it --steps")
    if config.train.max_steps:
        raise ConfigError("max_steps: a study has its own steps, the same for all; give it --steps")
