# SPDX-License-Identifier: Apache-2.0
"""The schedule of a run: its strategy, the turns of its tasks, and how many forward passes a step has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unified.contracts.config import RunConfig
from unified.contracts.errors import ConfigError
from unified.data.mixing import Mixture
from unified.data.schedule import CountingSchedule, make_schedule
from unified.training.course import Course


def together(config: RunConfig, mixture: Mixture) -> RunConfig:
    """The configuration of a run whose schedule accumulates all datasets: a forward pass of each makes a step.

    Raises:
        ConfigError: the recipe wants another number of forward passes.
    """
    if config.data.schedule.options.get("accumulate") != "all":
        return config
    train, many = config.train, len(mixture.sources)
    if train.accumulate not in (1, many):
        raise ConfigError(
            f"schedule: accumulate: all makes a step of {many} forward passes, one of each dataset, but the recipe's "
            f"accumulate is {train.accumulate}; leave one of them out"
        )
    if train.warmup_accumulate:
        raise ConfigError(
            "schedule: accumulate: all has every dataset in every step, but warmup_accumulate begins with one forward "
            "pass a step; leave one of them out"
        )
    return config.model_copy(update={"train": train.model_copy(update={"accumulate": many})})


def scheduled(
    config: RunConfig, sizes: Mapping[str, float], serves: Mapping[str, Sequence[str]], course: Course
) -> CountingSchedule:
    """The schedule of a run over its course.

    Args:
        config: strategy, and when each task has a turn.
        sizes: batches that each dataset fills.
        serves: dataset -> tasks.
        course: turns shares of the run and steps into forward passes.

    Raises:
        ConfigError: an unknown word, no dataset with a weight, or a task that never has a turn.
    """

    def at(value: float) -> int:
        """A share of the run up to 1, a step beyond that."""
        step = course.first_where(lambda share: share >= value - 1e-12) if value <= 1 else int(value)
        return course.begins(min(step, course.steps))

    spans = {
        name: (at(task.start), None if task.stop is None else at(task.stop)) for name, task in config.tasks.items()
    }
    patience = {name: task.patience for name, task in config.tasks.items() if task.patience}
    schedule = make_schedule(
        config.data.schedule,
        sizes,
        serves,
        config.train.seed,
        at=at,
        spans={name: span for name, span in spans.items() if span != (0, None)},
        patience=patience,
    )
    _check_turns(config, schedule, course)
    return schedule


def _check_turns(config: RunConfig, schedule: CountingSchedule, course: Course) -> None:
    shares = schedule.shares(course.passes).tasks
    for name, task in config.tasks.items():
        if not shares.get(name) and task.stop != 0:
            raise ConfigError(
                f"task '{name}' never has a turn: start {task.start:g}, stop {task.stop}, and its datasets have no "
                f"weight in schedule '{config.data.schedule.name}'; give one a weight, or leave the task out"
            )
