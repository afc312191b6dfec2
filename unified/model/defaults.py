# SPDX-License-Identifier: Apache-2.0
"""A configuration with nothing left unsaid, so that a saved run still builds when a default has moved on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Set
from typing import Any

from unified.contracts import protocols
from unified.contracts.config import ModelConfig, PartConfig, RunConfig, TaskConfig
from unified.model.build import task_class


def spelled_out(config: RunConfig) -> RunConfig:
    """The same run, with every default of its trunk, tasks and heads written down.

    Raises:
        RegistryError: a part that is not known.
    """
    tasks = {name: _task(task) for name, task in config.tasks.items()}
    return config.model_copy(update={"model": _model(config.model, config.tasks), "tasks": tasks})


def _model(model: ModelConfig, tasks: Mapping[str, TaskConfig]) -> ModelConfig:
    heads, default_heads = dict(model.heads), dict(model.default_heads)
    for task in tasks.values():
        if task.head is None:
            default_heads.setdefault(task.task, task_class(task).default_head)
        name = task.head.name if task.head else default_heads[task.task]
        heads[name] = _options(protocols.heads.get(name), heads.get(name, {}))
    name, _, given = model.backbone.name.partition(":")  # timm:NAME gives an option in its name
    trunk = _options(protocols.backbones.get(name), model.backbone.options, given={"model"} if given else set())
    neck = _options(protocols.necks.get(model.neck.name), model.neck.options)
    return model.model_copy(
        update={
            "backbone": PartConfig(name=model.backbone.name, options=trunk),
            "neck": PartConfig(name=model.neck.name, options=neck),
            "heads": heads,
            "default_heads": default_heads,
        }
    )


def _task(task: TaskConfig) -> TaskConfig:
    return task.model_copy(update={"options": _options(task_class(task), task.options)})


def _options(cls: Callable[..., Any], options: Mapping[str, Any], given: Set[str] = frozenset()) -> dict[str, Any]:
    """What is given, and the constructor's defaults as far as they can be written down."""
    defaults = {p.name: p.default for p in inspect.signature(cls).parameters.values() if p.default is not p.empty}
    return {name: v for name, v in defaults.items() if _plain(v) and name not in given} | dict(options)


def _plain(value: Any) -> bool:
    """Whether YAML and JSON hold a value."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(v) for key, v in value.items())
    return value is None or isinstance(value, str | int | float | bool)
