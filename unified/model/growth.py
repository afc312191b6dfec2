# SPDX-License-Identifier: Apache-2.0
"""A network with a task more or a task less: the trunk and all other parts are the same objects, untouched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

import torch
from torch import Tensor, nn

from unified.contracts.config import LatentConfig, ModelConfig, PartConfig, TaskConfig, WordsConfig
from unified.contracts.errors import ConfigError, suggestion
from unified.contracts.protocols import Labels
from unified.contracts.structures import Vocabulary
from unified.model.build import task_class
from unified.model.latents.bank import LatentBank
from unified.model.network import UnifiedNetwork

VERSION: Final = 1  # of what goes into a fingerprint
_IDLE: Final = "num_batches_tracked"  # counts of training that change no answer
_CLASSES: Final = ("boxes", "tags")  # both, for a tag may be the presence of a class
_TABLES: Final[Mapping[Labels, tuple[str, ...]]] = {"boxes": _CLASSES, "tags": _CLASSES}  # the others read all


def trunk_of(network: UnifiedNetwork, model: ModelConfig) -> str:
    """The fingerprint of a trunk: SHA-256 (64 hexadecimal digits) over all that decides what heads are given.

    These are backbone and neck, with their weights, the running statistics of their norms, and how they are put
    together. Tasks, latents, input size, device and precision are no part of it.
    """
    options = {key: value for key, value in model.backbone.options.items() if key != "pretrained"}
    plan = {
        "version": VERSION,
        "backbone": {"name": model.backbone.name, "options": options},
        "neck": model.neck.model_dump(),
        "norm": model.norm.model_dump(),
        "activation": model.activation,
    }
    total = hashlib.sha256(json.dumps(plan, sort_keys=True, default=str).encode())
    for part in ("backbone", "neck"):
        for name, tensor in sorted(getattr(network, part).state_dict().items()):
            if not name.endswith(_IDLE):
                total.update(f"{part}.{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                total.update(_bytes(tensor))
    return total.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def grafted(network: UnifiedNetwork, name: str, donor: UnifiedNetwork) -> UnifiedNetwork:
    """The network and, behind its own tasks, one of another network: its head and its latents.

    Raises:
        ConfigError: the network has a task of this name.
    """
    if name in network.heads:
        raise ConfigError(f"this model has a task '{name}' already; mount the other one by another name")
    heads = {**dict(network.heads), name: donor.heads[name]}
    latents = {**dict(network.bank.tasks)} | ({name: donor.bank.tasks[name]} if name in donor.bank.tasks else {})
    return _joined(network, heads, latents)


def pruned(network: UnifiedNetwork, name: str) -> UnifiedNetwork:
    """The network without one of its tasks.

    Raises:
        ConfigError: it has no such task, or no other.
    """
    if name not in network.heads:
        raise ConfigError(f"this model has no task '{name}'{suggestion(name, network.tasks)}")
    if len(network.heads) == 1:
        raise ConfigError(f"'{name}' is this model's only task and stays")
    heads, latents = ({k: v for k, v in part.items() if k != name} for part in (network.heads, network.bank.tasks))
    return _joined(network, heads, latents)


def _joined(network: UnifiedNetwork, heads: Mapping[str, Any], latents: Mapping[str, nn.Module]) -> UnifiedNetwork:
    bank = LatentBank()
    bank.tasks.update(latents)
    made = UnifiedNetwork(network.backbone, network.neck, bank, heads)  # type: ignore[arg-type]
    made.standing = network.standing
    return made.train(network.training)


def on_its_own(name: str, task: TaskConfig, model: ModelConfig, vocabulary: Vocabulary) -> TaskConfig:
    """A task's configuration that needs neither the run's words nor the model's options for heads."""
    default = model.default_heads.get(task.task, task_class(task).default_head)
    head = task.head or PartConfig(name=default)
    options = {**model.heads.get(head.name, {}), **head.options}
    words = task.words or words_for(task, vocabulary)
    return task.model_copy(update={"head": PartConfig(name=head.name, options=options), "words": words})


def words_for(task: TaskConfig, vocabulary: Vocabulary) -> WordsConfig:
    """The words that a task needs: those of classes, or all where it may learn identities."""
    tables = _TABLES.get(task_class(task).labels, tuple(vars(vocabulary)))
    return WordsConfig(**{table: getattr(vocabulary, table) for table in tables})


def latents_standing(network: UnifiedNetwork, name: str, rules: tuple[LatentConfig, ...]) -> tuple[LatentConfig, ...]:
    """Those of the rules by which a latent stands for a task, for this task alone."""
    sites = {entry.site for entry in network.bank.entries() if entry.task == name}
    mine = [rule for rule in rules if any(fnmatchcase(name, pattern) for pattern in rule.tasks)]
    here = [rule for rule in mine if any(_reaches(rule.site, site) for site in sites)]
    return tuple(rule.model_copy(update={"tasks": ("*",)}) for rule in here)


def _reaches(pattern: str, site: str) -> bool:
    return fnmatchcase(site, pattern) and (not site.startswith("trunk.") or pattern.startswith("trunk"))


def numbers_of(network: UnifiedNetwork, name: str) -> Iterator[Tensor]:
    """The parameters that only this task uses: those of its head and of its latents."""
    yield from network.heads[name].parameters()
    if name in network.bank.tasks:
        yield from network.bank.tasks[name].parameters()
