# SPDX-License-Identifier: Apache-2.0
"""Which training transforms there are, by the names in which tasks and datasets say what would make a label untrue.

A mosaic is right for boxes and wrong for a caption; a turned hue is wrong where colour is the identity. A task says so
once for all datasets (``Task.breaks``), a dataset for its own labels (``breaks`` and ``keeps`` in its data file).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from types import MappingProxyType
from typing import Final

from unified.contracts.config import AugmentConfig, DatasetConfig
from unified.contracts.errors import ConfigError, suggestion

MIXING: Final = ("mosaic", "mixup", "copy_paste")
"""They make one picture of several: true for boxes and what moves with them, but not for labels of a whole image."""

TRANSFORMS: Final = (
    *MIXING,
    "cutout",
    "scale",
    "translate",
    "rotate",
    "shear",
    "fliplr",
    "flipud",
    "hue",
    "saturation",
    "value",
)
"""All of them; each is the setting of that name in :class:`AugmentConfig`, whose zero leaves it out."""

GROUPS: Final = MappingProxyType(
    {
        "mix": MIXING,
        "flip": ("fliplr", "flipud"),
        "crop": ("scale", "translate"),
        "turn": ("rotate", "shear"),
        "colour": ("hue", "saturation", "value"),
    }
)
"""Names for several of them."""


def spelled_out(names: Iterable[str], where: str) -> frozenset[str]:
    """Names of transforms and groups as transforms alone.

    Raises:
        ConfigError: a name is unknown; ``where`` stands before it.
    """
    found: set[str] = set()
    for name in names:
        if name not in GROUPS and name not in TRANSFORMS:
            raise ConfigError(f"{where}: unknown transform '{name}'{suggestion(name, (*TRANSFORMS, *GROUPS))}")
        found.update(GROUPS.get(name, (name,)))
    return frozenset(found)


def without(augment: AugmentConfig, names: Iterable[str]) -> AugmentConfig:
    """The settings with some transforms left out."""
    zero = {name: 0.0 for name in names if getattr(augment, name)}
    return augment.model_copy(update=zero) if zero else augment


def broken(config: DatasetConfig, name: str, task: str, declared: Collection[str]) -> frozenset[str]:
    """The transforms that make a task's labels untrue in one dataset.

    Args:
        config: the dataset called ``name``.
        task: the task's name in the run.
        declared: what the task itself says.

    Raises:
        ConfigError: the dataset names a transform that does not exist.
    """
    more = spelled_out(config.breaks.get(task, ()), f"dataset '{name}': breaks of task '{task}'")
    fewer = spelled_out(config.keeps.get(task, ()), f"dataset '{name}': keeps of task '{task}'")
    return (spelled_out(declared, f"task '{task}'") - fewer) | more
