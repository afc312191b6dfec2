# SPDX-License-Identifier: Apache-2.0
"""The only place where the words of a configuration become parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from unified.contracts import protocols
from unified.contracts.config import LatentConfig, ModelConfig, PartConfig, TaskConfig
from unified.contracts.document import check_options, list_configs, load_model_config
from unified.contracts.errors import ConfigError, suggestion
from unified.contracts.protocols import Backbone, Head, Latent, Neck, Operator, Task
from unified.contracts.structures import FeatureSpec, Vocabulary
from unified.model.latents.bank import LatentBank
from unified.model.latents.operators import Add, Concat, Mul
from unified.model.latents.vector import VectorLatent
from unified.model.network import UnifiedNetwork

LATENTS: Mapping[str, type[Latent]] = {"vector": VectorLatent}
OPERATORS: Mapping[str, type[Operator]] = {"add": Add, "mul": Mul, "concat": Concat}

EXAMPLE_VOCABULARY = Vocabulary(
    boxes=tuple(f"class {i}" for i in range(80)),
    tags=tuple(f"tag {i}" for i in range(20)),
    identities=tuple(f"identity {i}" for i in range(100)),
)


@dataclass(frozen=True)
class Assembly:
    """A network and the tasks that ask it, built from one configuration."""

    network: UnifiedNetwork
    tasks: nn.ModuleDict  # task name -> Task

    def task(self, name: str) -> Task:
        return self.tasks[name]  # type: ignore[return-value]


def _lookup(kind: str, name: str, table: Mapping[str, type[Any]]) -> type[Any]:
    if name not in table:
        raise ConfigError(f"unknown {kind} '{name}'{suggestion(name, table)}")
    return table[name]


def build_backbone(part: PartConfig) -> Backbone:
    """The trunk; ``timm:NAME`` is short for ``{name: timm, model: NAME}``."""
    name, _, model = part.name.partition(":")
    options = {**part.options, "model": model} if model else part.options
    cls = protocols.backbones.get(name)
    check_options("backbone", name, cls, options)
    return cls(**options)


def build_neck(part: PartConfig, spec: FeatureSpec) -> Neck:
    """The neck over a backbone's levels."""
    cls = protocols.necks.get(part.name)
    check_options("neck", part.name, cls, part.options, reserved=("spec",))
    return cls(spec, **part.options)


def task_class(config: TaskConfig) -> type[Task]:
    """The registered kind of a task."""
    return protocols.tasks.get(config.task)


def build_task(name: str, config: TaskConfig, vocabulary: Vocabulary) -> Task:
    """A task with its loss, predictions and metric."""
    cls = task_class(config)
    check_options("task", config.task, cls, config.options, reserved=("name", "vocabulary"))
    return cls(name, vocabulary, **config.options)


def build_head(config: TaskConfig, model: ModelConfig, spec: FeatureSpec, outputs: int) -> Head:
    """A task's head: the model's options for this head, overridden by the task's own."""
    part = config.head or PartConfig(name=task_class(config).default_head)
    cls = protocols.heads.get(part.name)
    options = {**model.heads.get(part.name, {}), **part.options}
    check_options("head", part.name, cls, options, reserved=("spec", "outputs"))
    return cls(spec, outputs, **options)


def sites(head: Head, spec: FeatureSpec) -> dict[str, int]:
    """Every place where a latent of this head's task may stand, with its channels."""
    align = {f"align.{level}": c for level, c in zip(spec.levels, spec.channels, strict=True)}
    return {**align, **head.sites}


def build_bank(rules: Sequence[LatentConfig], heads: Mapping[str, Head], spec: FeatureSpec) -> LatentBank:
    """A z for every task and site that a rule matches.

    Raises:
        ConfigError: a rule that matches no site of any task, or an unknown latent or operator.
    """
    bank = LatentBank()
    for rule in rules:
        placed = 0
        for task, head in heads.items():
            if not any(fnmatchcase(task, pattern) for pattern in rule.tasks):
                continue
            for site, channels in sites(head, spec).items():
                if fnmatchcase(site, rule.site):
                    bank.place(task, site, *_latent(rule, channels))
                    placed += 1
        if not placed:
            known = {s for head in heads.values() for s in sites(head, spec)}
            raise ConfigError(f"latents: no site matches '{rule.site}'{suggestion(rule.site, known)}")
    return bank


def _latent(rule: LatentConfig, channels: int) -> tuple[Latent, Operator]:
    operator_class = _lookup("operator", rule.operator.name, OPERATORS)
    check_options("operator", rule.operator.name, operator_class, rule.operator.options, reserved=("channels",))
    operator = operator_class(channels, **rule.operator.options)
    latent_class = _lookup("latent", rule.latent.name, LATENTS)
    check_options("latent", rule.latent.name, latent_class, rule.latent.options, reserved=("channels", "mean"))
    return latent_class(operator.width, operator.identity, **rule.latent.options), operator


def assemble(model: ModelConfig, tasks: Mapping[str, TaskConfig], vocabulary: Vocabulary) -> Assembly:
    """Network and tasks of a configuration, with fresh weights from torch's generator."""
    backbone = build_backbone(model.backbone)
    neck = build_neck(model.neck, backbone.spec)
    parts = {name: build_task(name, config, vocabulary) for name, config in tasks.items()}
    heads = {name: build_head(tasks[name], model, neck.spec, task.outputs) for name, task in parts.items()}
    bank = build_bank(model.latents, heads, neck.spec)
    return Assembly(UnifiedNetwork(backbone, neck, bank, heads), nn.ModuleDict(parts))


def create_model(
    name: str = "unified-n",
    tasks: Sequence[str] = ("det", "cls", "emb"),
    vocabulary: Vocabulary | None = None,
) -> UnifiedNetwork:
    """A network with fresh weights, by the name of a model configuration.

    Args:
        name: one of :func:`list_models`, or a path to a model YAML.
        tasks: registered kinds, or ``name:kind``.
        vocabulary: what the outputs mean; by default 80 classes, 20 tags and 100 identities without names.

    Raises:
        ConfigError, RegistryError: a name that is not known.
    """
    pairs = (t.partition(":") for t in tasks)
    configs = {task: TaskConfig(task=kind or task) for task, _, kind in pairs}
    return assemble(load_model_config(name), configs, vocabulary or EXAMPLE_VOCABULARY).network


def list_models() -> tuple[str, ...]:
    """Names of the model configurations that come with the package."""
    return list_configs("models")
