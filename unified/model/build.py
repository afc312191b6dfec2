# SPDX-License-Identifier: Apache-2.0
"""The only place where the words of a configuration become parts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, TypeVar

from torch import nn

from unified.contracts import protocols
from unified.contracts.config import GrowthConfig, LatentConfig, ModelConfig, PartConfig, TaskConfig
from unified.contracts.document import check_options, list_configs, load_model_config
from unified.contracts.errors import ConfigError, UnifiedError, suggestion
from unified.contracts.protocols import Backbone, Head, Latent, Neck, Operator, Task
from unified.contracts.registry import HOME, Registry, RegistryError
from unified.contracts.structures import FeatureSpec, Vocabulary
from unified.model.latents.bank import LatentBank
from unified.model.latents.operators import Only
from unified.model.network import UnifiedNetwork
from unified.model.style import restyle

OPEN = ("pre.*", "post.*")  # rules of a model's file for sites that a stranger's head need not have

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


def build_backbone(part: PartConfig, fetch: bool = True) -> Backbone:
    """The trunk; ``timm:NAME`` is short for ``{name: timm, model: NAME}``; without ``fetch`` nothing is pretrained."""
    name, _, model = part.name.partition(":")
    options = {**part.options, "model": model} if model else dict(part.options)
    if not fetch and options.get("pretrained"):
        options["pretrained"] = False
    cls = protocols.backbones.get(name)
    check_options("backbone", name, cls, options)
    return _built(protocols.backbones, name, lambda: cls(**options))


def build_neck(part: PartConfig, spec: FeatureSpec) -> Neck:
    """The neck over a backbone's levels."""
    cls = protocols.necks.get(part.name)
    check_options("neck", part.name, cls, part.options, reserved=("spec",))
    return _built(protocols.necks, part.name, lambda: cls(spec, **part.options))


def task_class(config: TaskConfig) -> type[Task]:
    """The registered kind of a task."""
    return protocols.tasks.get(config.task)


def build_task(name: str, config: TaskConfig, vocabulary: Vocabulary) -> Task:
    """A task with its loss, predictions and metric."""
    cls = task_class(config)
    check_options("task", config.task, cls, config.options, reserved=("name", "vocabulary"))
    words = Vocabulary(**dict(config.words)) if config.words else vocabulary
    task = _built(protocols.tasks, config.task, lambda: cls(name, words, **config.options))
    task.more_metrics = tuple(_metric(part, task) for part in config.metrics)
    return task


def _metric(part: PartConfig, task: Task) -> Callable[[], Any]:
    """What makes a metric that the configuration adds to a task's own."""
    cls: Callable[..., Any] = protocols.metrics.get(part.name)
    check_options("metric", part.name, cls, part.options, reserved=("task",))
    return partial(cls, task, **part.options)


def build_head(config: TaskConfig, model: ModelConfig, spec: FeatureSpec, outputs: int) -> Head:
    """A task's head: the model's options for this head, overridden by the task's own."""
    default = model.default_heads.get(config.task, task_class(config).default_head)
    part = config.head or PartConfig(name=default)
    cls = protocols.heads.get(part.name)
    options = {**model.heads.get(part.name, {}), **part.options}
    check_options("head", part.name, cls, options, reserved=("spec", "outputs"))
    head = _built(protocols.heads, part.name, lambda: cls(spec, outputs, **options))
    _check_head(head, protocols.heads.named(part.name), spec)
    return head


def _check_head(head: Head, who: str, spec: FeatureSpec) -> None:
    """Whether a head declares its sites, and reads levels that there are."""
    if not isinstance(getattr(head, "sites", None), Mapping):
        raise RegistryError(f"{who} declares no sites; set self.sites in its constructor, {{}} for none")
    for level in head.reads:
        if level not in spec.levels:
            raise ConfigError(f"{who} reads level '{level}', which this model has not{suggestion(level, spec.levels)}")


Made = TypeVar("Made")


def _built(registry: Registry[Any], name: str, make: Callable[[], Made]) -> Made:
    """A part; what goes wrong in the constructor of a stranger's is told in one line that names it."""
    try:
        return make()
    except Exception as error:
        if isinstance(error, UnifiedError) or registry.whence(name).package == HOME:
            raise
        raise RegistryError(f"{registry.named(name)} cannot be built: {type(error).__name__}: {error}") from error


def sites(head: Head, spec: FeatureSpec, trunk: Mapping[str, int]) -> dict[str, int]:
    """Every place where a latent of this head's task may stand, with its channels, in the order of the features."""
    levels = head.reads or spec.levels
    align = {f"align.{level}": c for level, c in zip(spec.levels, spec.channels, strict=True) if level in levels}
    return {**trunk, **align, **head.sites}


def build_bank(
    rules: Sequence[LatentConfig],
    heads: Mapping[str, Head],
    spec: FeatureSpec,
    trunk: Mapping[str, int],
    partial: bool = False,
    own: Mapping[str, Sequence[LatentConfig]] | None = None,
) -> LatentBank:
    """A z for every task and site that a rule matches.

    Args:
        rules: in the order in which their latents act.
        heads: by task.
        spec: levels of the neck.
        trunk: the backbone's own sites; only a pattern that begins with ``trunk`` reaches them.
        partial: these are not all heads the rules were written for, so that some may match nothing.
        own: rules of single tasks, which hold for these in the place of ``rules``.

    Raises:
        ConfigError: a rule that matches no site of any task, or does not fit one that it matches.
        RegistryError: an unknown latent or operator.
    """
    bank, own = LatentBank(), own or {}
    common = {task: head for task, head in heads.items() if task not in own}
    _place(bank, rules if common else (), common, spec, trunk, partial)
    for task, more in own.items():
        _place(bank, more, {task: heads[task]}, spec, trunk, partial=False)
    return bank


def _place(
    bank: LatentBank,
    rules: Sequence[LatentConfig],
    heads: Mapping[str, Head],
    spec: FeatureSpec,
    trunk: Mapping[str, int],
    partial: bool,
) -> None:
    for rule in rules:
        placed = 0
        for task, head in heads.items():
            if not any(fnmatchcase(task, pattern) for pattern in rule.tasks):
                continue
            for site, channels in sites(head, spec, trunk).items():
                if fnmatchcase(site, rule.site) and (site not in trunk or rule.site.startswith("trunk")):
                    bank.place(task, site, *_latent(rule, channels, _chosen(rule, task, site, head)))
                    placed += 1
        if not placed and not partial and rule.site not in OPEN:
            known = {s for head in heads.values() for s in sites(head, spec, trunk)}
            raise ConfigError(f"latents: no site matches '{rule.site}'{suggestion(rule.site, known)}")


def _chosen(rule: LatentConfig, task: str, site: str, head: Head) -> tuple[int, ...]:
    """Channels of a site that have one of the rule's roles; empty where the rule names none."""
    if not rule.only:
        return ()
    roles = head.roles(site) if site in head.sites else None
    if roles is None:
        raise ConfigError(
            f"latents: only [{', '.join(rule.only)}] does not fit site '{site}' of task '{task}': "
            "its channels have no roles; give another site, or leave `only` out"
        )
    for role in rule.only:
        if role not in roles:
            raise ConfigError(
                f"latents: site '{site}' of task '{task}' has no channel '{role}'{suggestion(role, set(roles))}"
            )
    return tuple(i for i, role in enumerate(roles) if role in rule.only)


def _latent(rule: LatentConfig, channels: int, chosen: Sequence[int]) -> tuple[Latent, Operator, tuple[str, str]]:
    """A latent and its operator, and both in words."""
    cls = protocols.operators.get(rule.operator.name)
    operator = _made("operator", cls, rule.operator, len(chosen) or channels)
    if chosen:
        operator = Only(operator, chosen, channels)
    latent = _made("latent", protocols.latents.get(rule.latent.name), rule.latent, operator.width, operator.identity())
    only = f"[{','.join(rule.only)}]" if rule.only else ""
    return latent, operator, (rule.latent.name, rule.operator.name + only)


def _made(kind: str, cls: type[Any], part: PartConfig, *given: Any) -> Any:
    """A latent or operator; ``given`` are the builder's own arguments, the first of its constructor."""
    first = list(inspect.signature(cls).parameters)[: len(given)]
    check_options(kind, part.name, cls, part.options, reserved=first)
    try:
        return cls(*given, **part.options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{kind} '{part.name}' cannot be built with {dict(part.options)}: {error}") from error


def assemble(
    model: ModelConfig,
    tasks: Mapping[str, TaskConfig],
    vocabulary: Vocabulary,
    fetch: bool = True,
    partial: bool = False,
    growth: GrowthConfig | None = None,
) -> Assembly:
    """Network and tasks of a configuration, with fresh weights from torch's generator.

    ``fetch``: whether a trunk may look for the published weights it asks for; False where others are loaded next.
    ``partial``: these are not all tasks that the model was made for.
    ``growth``: tasks that the network has beside ``tasks``, before them; the assembly has only their heads and latents.
    """
    backbone = build_backbone(model.backbone, fetch)
    neck = build_neck(model.neck, backbone.spec)
    every = {**(growth.tasks if growth else {}), **tasks}
    parts = {name: build_task(name, config, vocabulary) for name, config in every.items()}
    heads = {name: build_head(every[name], model, neck.spec, task.outputs) for name, task in parts.items()}
    own = {name: config.latents for name, config in every.items() if config.latents is not None}
    bank = build_bank(model.latents, heads, neck.spec, backbone.sites, partial, own)
    network = UnifiedNetwork(backbone, neck, bank, heads)
    restyle(network, model)
    return Assembly(network, nn.ModuleDict({name: parts[name] for name in tasks}))


def create_model(
    name: str = "unified-n",
    tasks: Sequence[str] = ("det", "cls", "emb"),
    vocabulary: Vocabulary | None = None,
    latents: str | None = None,
) -> UnifiedNetwork:
    """A network with fresh weights, by the name of a model configuration.

    Args:
        name: one of :func:`list_models`, or a path to a model YAML.
        tasks: registered kinds, or ``name:kind``.
        vocabulary: what the outputs mean; by default 80 classes, 20 tags and 100 identities without names.
        latents: which z stands where, instead of what the model's file says: ``yolor``, ``align.*=mul pre.*=add``.

    Raises:
        ConfigError, RegistryError: a name that is not known.
    """
    pairs = (t.partition(":") for t in tasks)
    configs = {task: TaskConfig(task=kind or task) for task, _, kind in pairs}
    return assemble(load_model_config(name, latents), configs, vocabulary or EXAMPLE_VOCABULARY).network


def list_models() -> tuple[str, ...]:
    """Names of the model configurations that come with the package."""
    return list_configs("models")
