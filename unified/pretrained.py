# SPDX-License-Identifier: Apache-2.0
"""A model to hand on: a folder with ``model.safetensors``, ``config.json`` and a card, of which any tasks can be read.

Nothing in it can run code or knows a path of the machine it was made on. The tensors of the trunk and of each task are
summed apart, so that who reads some tasks reads and verifies no others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from unified.contracts.config import DataConfig, RunConfig
from unified.contracts.errors import CheckpointError, ConfigError, suggestion
from unified.contracts.plugins import require
from unified.contracts.structures import Vocabulary
from unified.disk import read_regular, write_bytes

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
CARD: Final = "README.md"
FORMAT: Final = 1
TRUNK: Final = "trunk"  # the part that all tasks share
MOST: Final = 256 << 20  # bytes of a config.json


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from and what was measured of it; what nobody said stays empty and is never guessed."""

    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by dataset: what it labels, its format
    weights: str = ""  # what the training began with
    metrics: Mapping[str, float] = field(default_factory=dict)  # by flat name (det/AP50), on the validation data
    licence: str = ""  # of the weights
    data_licences: Mapping[str, str] = field(default_factory=dict)  # by dataset
    description: str = ""


@dataclass(frozen=True)
class Pack:
    """What a folder of this kind holds."""

    config: RunConfig  # of the tasks that were read; without datasets
    vocabulary: Vocabulary
    provenance: Provenance
    tensors: Mapping[str, Tensor]  # of the network, by their names there
    partial: bool = False  # the folder has more tasks


def is_pack(folder: Path) -> bool:
    """Whether a folder is of this kind."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def without_data(config: RunConfig) -> RunConfig:
    """A configuration without its datasets, whose paths mean nothing elsewhere."""
    return config.model_copy(update={"data": DataConfig(datasets={})})


def write_pack(folder: Path, pack: Pack, card: str, notes: Mapping[str, Any]) -> None:
    """Writes a model; each file whole or not at all, and ``config.json``, without which it is none, last.

    Args:
        folder: made where it is not there; an older model in it is replaced.
        pack: the model.
        card: the text of README.md.
        notes: further facts for ``config.json``.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in pack.tensors.items()}
    content = {
        "format": FORMAT,
        **notes,
        "config": without_data(pack.config).model_dump(mode="json"),
        "vocabulary": {name: list(words) for name, words in vars(pack.vocabulary).items()},
        "provenance": asdict(pack.provenance),
        "sha256": {part: _sum(tensors, part) for part in (TRUNK, *pack.config.tasks)},
    }
    write_bytes(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_bytes(folder / CARD, card.encode())
    write_bytes(folder / CONFIG, json.dumps(content, indent=1, allow_nan=False).encode())


def read_pack(folder: Path, tasks: Sequence[str] | None = None, tensors: bool = True) -> Pack:
    """Reads a model, or only some of its tasks: of the weights, only their tensors are read from the disk.

    Args:
        folder: where it lies.
        tasks: their names; all by default.
        tensors: whether to read any.

    Raises:
        CheckpointError: missing, damaged, or of a newer format.
        ConfigError: it has no such task.
    """
    content = _content(folder)
    config, vocabulary, provenance = _described(folder, content)
    asked = chosen(config.tasks, tasks)
    config = config.model_copy(update={"tasks": {name: config.tasks[name] for name in asked}})
    require(content.get("plugins", ()), config, str(folder))
    pack = Pack(config, vocabulary, provenance, {}, partial=len(asked) < len(content["config"]["tasks"]))
    return replace(pack, tensors=_verified(folder, content, asked)) if tensors else pack


def chosen(known: Iterable[str], tasks: Sequence[str] | None) -> tuple[str, ...]:
    """The tasks asked for, in the model's own order; all where None.

    Raises:
        ConfigError: one is not known, or none was named.
    """
    names = tuple(known)
    for task in tasks or ():
        if task not in names:
            raise ConfigError(f"this model has no task '{task}'{suggestion(task, names)}")
    if tasks is not None and not tasks:
        raise ConfigError(f"no task was asked for{suggestion('', names)}")
    return names if tasks is None else tuple(name for name in names if name in tasks)


def part_of(tensor: str) -> str:
    """The part a tensor of the network belongs to: a task's name, or :data:`TRUNK`."""
    words = tensor.split(".")
    if words[0] == "heads":
        return words[1]
    return words[2] if words[:2] == ["bank", "tasks"] else TRUNK


def _content(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(folder / CONFIG, MOST))
        version = int(content["format"])
    except OSError as error:
        raise CheckpointError(f"no model at '{folder}': {CONFIG} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"'{folder}' is damaged: {CONFIG} cannot be understood ({_line(error)})") from None
    if version != FORMAT:
        raise CheckpointError(f"model '{folder}' has format {version}, this version reads {FORMAT}; update unified")
    return dict(content)


def _described(folder: Path, content: Mapping[str, Any]) -> tuple[RunConfig, Vocabulary, Provenance]:
    try:
        config = RunConfig.model_validate(content["config"])
        vocabulary = Vocabulary(**{name: tuple(words) for name, words in content["vocabulary"].items()})
        return config, vocabulary, Provenance(**content["provenance"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"'{folder}': {CONFIG} does not say what it holds, or is of another version of unified ({_line(error)})"
        ) from None


def _verified(folder: Path, content: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of the trunk and of some tasks, compared with their sums."""
    parts = (TRUNK, *tasks)
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys() if part_of(name) in parts}  # noqa: SIM118
        for part in parts:
            if _sum(tensors, part) != content["sha256"][part]:
                raise CheckpointError(f"'{folder}' is damaged: the weights of '{part}' do not match their SHA-256")
    except (OSError, SafetensorError, KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"'{folder}' is damaged: {WEIGHTS} cannot be read ({_line(error)})") from None
    return tensors


def _sum(tensors: Mapping[str, Tensor], part: str) -> str:
    return sum_of({name: tensor for name, tensor in tensors.items() if part_of(name) == part})


def sum_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and values of tensors."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            total.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return (str(error).splitlines() or [type(error).__name__])[0]
