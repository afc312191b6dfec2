# SPDX-License-Identifier: Apache-2.0
"""The design of a study: its arms, its seeds and the budget that all share, read from YAML."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Annotated

from pydantic import Field

from unified.contracts.complaint import validate
from unified.contracts.config import Config, LatentConfig, Positive
from unified.contracts.document import config_path
from unified.contracts.errors import ConfigError, suggestion
from unified.contracts.source import read_source, shown_path

_SLUG = re.compile(r"[^a-z0-9]+")


class ArmConfig(Config):
    """One thing that is compared: a network for all tasks, or with ``apart`` one network for each."""

    latents: str | tuple[LatentConfig, ...] | None = None  # a block's name or one-line rules; None: the model's own
    apart: bool = False
    settings: tuple[str, ...] = ()  # key=value, of this arm alone; the table names them
    group: str = ""  # arms of one group stand together in the table


class GridConfig(Config):
    """Arms by multiplication: every site with every latent and every operator."""

    site: tuple[str, ...]
    latent: tuple[str, ...] = ("vector",)
    operator: tuple[str, ...] = ("add",)


class StudyConfig(Config):
    """What is compared with what, on which data, how often and at what cost.

    ``steps`` are optimizer steps of a network for all tasks. A network for one task is trained on the datasets that
    label it, for as many steps as bring it the same number of images with that task's labels.
    """

    name: str = ""
    title: str = ""
    question: str = ""  # one or two sentences for the page
    data: str
    model: str = "unified-n"
    recipe: str | None = None
    tasks: tuple[str, ...]
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    steps: Positive
    settings: tuple[str, ...] = ()  # key=value, of every arm
    baseline: str  # the arm that all others are measured against
    arms: dict[str, ArmConfig] = Field(default_factory=dict)
    grid: GridConfig | None = None

    @property
    def all_arms(self) -> dict[str, ArmConfig]:
        """Those written out, then those of the grid."""
        return {**self.arms, **(multiplied(self.grid) if self.grid else {})}


def fault(study: StudyConfig) -> str | None:
    """What is wrong with a study as a whole; None for nothing."""
    arms = study.all_arms
    slugs = [slug(name) for name in arms]
    if study.baseline not in arms:
        return f"baseline: no arm '{study.baseline}'{suggestion(study.baseline, arms)}"
    if len(arms) < 2:
        return "arms: a comparison needs two or more"
    if len(set(study.seeds)) < len(study.seeds):
        return f"seeds: {', '.join(map(str, study.seeds))} has one twice"
    twin = next((name for k, name in enumerate(arms) if not slugs[k] or slugs[k] in slugs[:k]), None)
    return f"arms: '{twin}' needs a name that differs from all others in letters or digits" if twin else None


def multiplied(grid: GridConfig) -> dict[str, ArmConfig]:
    """Every combination of a grid as an arm, named by the one-line rule that it is."""
    rules = [
        f"{site}={operator}" + ("" if latent == "vector" else f":{latent}")
        for site, operator, latent in product(grid.site, grid.operator, grid.latent)
    ]
    return {rule: ArmConfig(latents=rule) for rule in rules}


def slug(name: str) -> str:
    """A name as part of a path."""
    return _SLUG.sub("-", name.lower()).strip("-")


def load_study(name: str) -> StudyConfig:
    """A study by the name of a shipped file or the path of one's own.

    Raises:
        ConfigError: it is not there or not right, with file and line.
    """
    path = config_path("studies", name)
    source = read_source(path)
    if not isinstance(source.value, dict):
        raise ConfigError(f"{shown_path(path)}: expected a study, with 'data:', 'tasks:', 'steps:' and 'arms:'")
    source.value.setdefault("name", path.stem)
    study = validate(StudyConfig, source)
    if wrong := fault(study):
        raise ConfigError(f"{shown_path(path)}: {wrong}")
    return study.model_copy(update={key: _beside(path, getattr(study, key)) for key in ("data", "model", "recipe")})


def _beside(path: Path, name: str | None) -> str | None:
    """What stands beside the study's file, if that is what it names; else the name as it is."""
    there = path.parent / name if name else path
    return str(there) if name and there.exists() and not Path(name).exists() else name
