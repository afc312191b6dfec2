# SPDX-License-Identifier: Apache-2.0
"""A trained model read back from its folder: network, tasks and words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from unified.checkpoint import MANIFEST, Checkpoint, fit_state, load_checkpoint
from unified.contracts.config import GrowthConfig, RunConfig, TaskConfig
from unified.contracts.errors import CheckpointError
from unified.contracts.plugins import require
from unified.contracts.protocols import Task
from unified.contracts.structures import Vocabulary
from unified.data.vocabulary import merge_vocabularies
from unified.model.build import assemble
from unified.model.growth import on_its_own
from unified.model.network import UnifiedNetwork
from unified.pretrained import TRUNK, Pack, Provenance, chosen, is_pack, part_of, read_pack
from unified.shelf import Say, Shelf, Shelved, tell


@dataclass(frozen=True)
class Trained:
    """A network with its averaged weights, and what belongs to it."""

    network: UnifiedNetwork
    tasks: Mapping[str, Task]
    vocabulary: Vocabulary
    config: RunConfig
    base: Path  # folder that the configuration's dataset paths start from
    source: Path  # the checkpoint's folder
    provenance: Provenance = field(default_factory=Provenance)


def trained_checkpoint(path: Path, parts: tuple[str, ...], say: Say = tell) -> Shelved:
    """The checkpoint that a path means: itself; or a run's best, and where that is damaged the last, which is said.

    Args:
        path: folder of a run, of its checkpoints, or of one checkpoint.
        parts: the tensors that are wanted.
        say: takes the line that tells of a damaged checkpoint.

    Raises:
        CheckpointError: it is neither a checkpoint nor a run that has one, or all are damaged.
    """
    if (path / MANIFEST).is_file():
        return Shelved(path, load_checkpoint(path, parts))
    for shelf in (Shelf(path / "checkpoints"), Shelf(path)):
        if shelf.steps():
            return shelf.load("best", parts, say)
    what = "does not exist" if not path.exists() else "is neither a run with a checkpoint nor a checkpoint"
    raise CheckpointError(f"'{path}' {what}; give the folder of a run, such as runs/unified-n-...")


def checkpoint_folder(path: Path) -> Path:
    """The folder of the checkpoint that a path means.

    Raises:
        CheckpointError: it is neither a checkpoint nor a run that has one.
    """
    return trained_checkpoint(path, parts=()).folder


def trained_config(path: Path) -> RunConfig:
    """What a run or a model was trained as, without reading its weights.

    Raises:
        CheckpointError: missing, damaged, or not saying what it holds.
    """
    if is_pack(path):
        return read_pack(path, tensors=False).config
    found = trained_checkpoint(path, parts=())
    return _described(found.checkpoint, found.folder)[0]


def whole(config: RunConfig, vocabulary: Vocabulary) -> tuple[RunConfig, Vocabulary]:
    """A grown run as the model that it is: what came with the network and what was added, each with its own words."""
    came = config.growth.tasks
    if not came:
        return config, vocabulary
    learned = {name: on_its_own(name, task, config.model, vocabulary) for name, task in config.tasks.items()}
    tasks = {**came, **learned}
    return config.model_copy(update={"tasks": tasks, "growth": GrowthConfig()}), joined_words(tasks)


def joined_words(tasks: Mapping[str, TaskConfig]) -> Vocabulary:
    """Every word of tasks that have their own, each once."""
    return merge_vocabularies(Vocabulary(**dict(task.words)) for task in tasks.values() if task.words)


def trained_words(path: Path) -> Vocabulary:
    """The vocabulary of a run or of a model.

    Raises:
        CheckpointError: missing, damaged, or not saying what it holds.
    """
    if is_pack(path):
        return read_pack(path, tensors=False).vocabulary
    found = trained_checkpoint(path, parts=())
    return _described(found.checkpoint, found.folder)[1]


def trained_scores(path: Path) -> dict[str, float]:
    """The scores of a run's best checkpoint or of a model, by flat name; empty where none are kept.

    Raises:
        CheckpointError: missing, damaged, or not saying what it holds.
    """
    if is_pack(path):
        return dict(read_pack(path, tensors=False).provenance.metrics)
    found = trained_checkpoint(path, parts=())
    return _standing(found.checkpoint) | _scores(found.folder, found.checkpoint)


def trained_tensors(path: Path) -> Mapping[str, Tensor]:
    """The averaged weights of the network of a run or of a model, by their names there.

    Raises:
        CheckpointError: missing or damaged.
    """
    if is_pack(path):
        return read_pack(path).tensors
    return trained_checkpoint(path, parts=("ema",)).checkpoint.tensors["ema"]


def load_trained(path: Path, tasks: Sequence[str] | None = None) -> Trained:
    """Reads the averaged weights of a run's best checkpoint, of a checkpoint's folder, or of a model handed on.

    An exported file (``model.onnx``, or its folder) comes with a network that another program computes.

    Args:
        path: the folder, or an exported file.
        tasks: only these; all by default. The parts of other tasks are not built.

    Raises:
        CheckpointError: missing, damaged, or of another configuration than it says.
        ConfigError: it has no such task.
    """
    from unified.export.artifact import is_export
    from unified.export.opened import open_export

    if is_export(path):
        return open_export(path, tasks)
    if is_pack(path):
        return _built(read_pack(path, tasks), path, path)
    found = trained_checkpoint(path, parts=("ema",))
    folder, checkpoint = found.folder, found.checkpoint
    config, vocabulary = _described(checkpoint, folder)
    asked = chosen(config.tasks, tasks)
    partial = len(asked) < len(config.tasks)
    config = config.model_copy(update={"tasks": {name: config.tasks[name] for name in asked}})
    require(checkpoint.state.get("plugins", ()), config, str(path))
    tensors = checkpoint.tensors["ema"]
    kept = {k: v for k, v in tensors.items() if part_of(k) in (TRUNK, *asked)} if partial else tensors
    known = _provenance(folder, checkpoint, config)
    pack = Pack(config, vocabulary, replace(known, metrics=_standing(checkpoint) | dict(known.metrics)), kept, partial)
    return _built(pack, Path(checkpoint.said("base")), folder)


def _built(pack: Pack, base: Path, source: Path) -> Trained:
    parts = assemble(pack.config.model, pack.config.tasks, pack.vocabulary, fetch=False, partial=pack.partial)
    fit_state(parts.network, pack.tensors, str(source))
    tasks = {name: parts.task(name).eval() for name in pack.config.tasks}
    return Trained(parts.network.eval(), tasks, pack.vocabulary, pack.config, base, source, pack.provenance)


def _provenance(folder: Path, checkpoint: Checkpoint, config: RunConfig) -> Provenance:
    """What a run says of its data, its beginning and its scores; without paths, which are the machine's own."""
    data: dict[str, dict[str, Any]] = {}
    for name, dataset in config.data.datasets.items():
        options = {
            key: value for key, value in dataset.options.items() if not (isinstance(value, str) and "/" in value)
        }
        said = {task: labelled for task, labelled in dataset.labelled.items() if task in config.tasks}
        data[name] = {"format": dataset.format, "labelled": said} | ({"options": options} if options else {})
    begun = checkpoint.state.get("origin")
    trunk = config.model.backbone
    if begun:
        weights = f"imported from the published file {begun}"
    elif trunk.options.get("pretrained"):
        words = ", ".join(f"{key}: {value}" for key, value in trunk.options.items())
        weights = (
            f"the trunk began with published weights ({trunk.name}; {words}), whose own licence holds for them too"
        )
    else:
        weights = ""
    return Provenance(data=data, weights=weights, metrics=_scores(folder, checkpoint))


def _scores(folder: Path, checkpoint: Checkpoint) -> dict[str, float]:
    """The evaluation of a checkpoint's own step, from its run's log; empty where there is none."""
    log = folder.parent.parent / "log.jsonl"
    step = (checkpoint.state.get("progress") or {}).get("step")
    if step is None or not log.is_file():
        return {}
    found: dict[str, float] = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("step") == step and isinstance(entry.get("metrics"), dict):
            found = {name: float(value) for name, value in entry["metrics"].items()}
    return found


def _standing(checkpoint: Checkpoint) -> dict[str, float]:
    """Scores that tasks brought with them into a run in which nothing that they read has learned."""
    growth = GrowthConfig.model_validate(checkpoint.state["config"].get("growth", {}))
    return {} if growth.unfreeze else dict(growth.metrics)


def _described(checkpoint: Checkpoint, folder: Path) -> tuple[RunConfig, Vocabulary]:
    try:
        config = RunConfig.model_validate(checkpoint.state["config"])
        words = {name: tuple(words) for name, words in checkpoint.state["vocabulary"].items()}
        return whole(config, Vocabulary(**words))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"checkpoint '{folder}' does not say what it holds ({reason})") from error
