# SPDX-License-Identifier: Apache-2.0
"""From the design of a study to its jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unified.contracts.config import RunConfig
from unified.contracts.document import load_run_config
from unified.contracts.errors import ConfigError
from unified.data.mixing import Mixture
from unified.study.budget import Budget, alone, budget_of, check_length, opened, to_length
from unified.study.design import ArmConfig, StudyConfig
from unified.study.job import Job

WITHOUT_CLOCK = ("train.max_minutes=null", "train.evaluate_every=1.0")  # a recipe's own clock does not count


@dataclass(frozen=True)
class Expansion:
    """All jobs, in the order in which they are run: a whole seed before the next."""

    jobs: tuple[Job, ...]
    budget: Budget  # of a network for all tasks


def expand(study: StudyConfig, overrides: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> Expansion:
    """The jobs of a study. Its data is opened, and shapes are rendered, before anything is trained.

    Args:
        overrides: key=value, of every job.
        options: values by dotted key, as :func:`load_run_config` takes them.

    Raises:
        UnifiedError: an arm that cannot be built, or data that is not there.
    """
    plain, base = _configured(study, ArmConfig(), overrides, options or {})
    mixture = opened(plain, base).train
    budget = budget_of(to_length(plain, study.steps, mixture), mixture)
    found: list[Job] = []
    for seed in study.seeds:
        for name, arm in study.all_arms.items():
            try:
                config, _ = _configured(study, arm, overrides, options or {})
                found += _jobs(name, arm, seed, (config, base), (mixture, budget, study.steps))
            except ConfigError as error:
                raise ConfigError(f"arm '{name}': {error}") from error
    return Expansion(tuple(found), budget)


def _configured(
    study: StudyConfig, arm: ArmConfig, overrides: Sequence[str], options: Mapping[str, Any]
) -> tuple[RunConfig, Path]:
    rules = arm.latents
    latents = rules if rules is None or isinstance(rules, str) else [rule.model_dump(mode="json") for rule in rules]
    config, base = load_run_config(
        model=study.model,
        data=study.data,
        tasks=study.tasks,
        recipe=study.recipe,
        overrides=[*WITHOUT_CLOCK, *study.settings, *arm.settings, *overrides],
        options={**options, "model.latents": latents},
    )
    check_length(config)
    return config, base


def _jobs(
    name: str, arm: ArmConfig, seed: int, run: tuple[RunConfig, Path], joint: tuple[Mixture, Budget, int]
) -> list[Job]:
    config, base = run
    mixture, budget, steps = joint
    seeded = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
    if not arm.apart:
        return [Job(name, seed, to_length(seeded, steps, mixture), base)]
    found = []
    for task in config.tasks:
        cut, own = alone(seeded, task, mixture.serves, budget)
        found.append(Job(name, seed, to_length(cut, own, _part(cut, mixture)), base, part=task))
    return found


def _part(config: RunConfig, mixture: Mixture) -> Mixture:
    """The datasets of a mixture that a run has kept."""
    if set(config.data.datasets) >= set(mixture.sources):
        return mixture
    kept = set(config.data.datasets)
    return Mixture(
        {name: source for name, source in mixture.sources.items() if name in kept},
        {name: reader for name, reader in mixture.readers.items() if name in kept},
        mixture.vocabulary,
        mixture.size,
    )
