# SPDX-License-Identifier: Apache-2.0
"""A trained model read back from its folder: network, tasks and words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unified.checkpoint import Checkpoint, fit_state, load_checkpoint
from unified.contracts.config import RunConfig
from unified.contracts.errors import CheckpointError
from unified.contracts.protocols import Task
from unified.contracts.structures import Vocabulary
from unified.model.build import assemble
from unified.model.network import UnifiedNetwork


@dataclass(frozen=True)
class Trained:
    """A network with its averaged weights, and what belongs to it."""

    network: UnifiedNetwork
    tasks: Mapping[str, Task]
    vocabulary: Vocabulary
    config: RunConfig
    base: Path  # folder that the configuration's dataset paths start from
    source: Path  # the checkpoint's folder


def checkpoint_folder(path: Path) -> Path:
    """The checkpoint that a path means: itself, or a run's best.

    Raises:
        CheckpointError: it is neither a checkpoint nor a run that has one.
    """
    if (path / "manifest.json").is_file():
        return path
    for pointer in (path / "checkpoints" / "best", path / "best"):
        if pointer.is_file():
            return pointer.parent / pointer.read_text().strip()
    what = "does not exist" if not path.exists() else "is neither a run with a checkpoint nor a checkpoint"
    raise CheckpointError(f"'{path}' {what}; give the folder of a run, such as runs/unified-n-...")


def trained_config(path: Path) -> RunConfig:
    """What a run or a model was trained as, without reading its weights.

    Raises:
        CheckpointError: missing, damaged, or not saying what it holds.
    """
    folder = checkpoint_folder(path)
    return _described(load_checkpoint(folder, parts=()), folder)[0]


def load_trained(path: Path) -> Trained:
    """Reads the averaged weights of a run's best checkpoint, or of a checkpoint's folder.

    Raises:
        CheckpointError: missing, damaged, or of another configuration than it says.
    """
    folder = checkpoint_folder(path)
    checkpoint = load_checkpoint(folder, parts=("ema",))
    config, vocabulary = _described(checkpoint, folder)
    parts = assemble(config.model, config.tasks, vocabulary, fetch=False)
    fit_state(parts.network, checkpoint.tensors["ema"], str(folder))
    tasks = {name: parts.task(name).eval() for name in config.tasks}
    return Trained(parts.network.eval(), tasks, vocabulary, config, Path(checkpoint.state["base"]), folder)


def _described(checkpoint: Checkpoint, folder: Path) -> tuple[RunConfig, Vocabulary]:
    try:
        config = RunConfig.model_validate(checkpoint.state["config"])
        words = {name: tuple(words) for name, words in checkpoint.state["vocabulary"].items()}
        return config, Vocabulary(**words)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"checkpoint '{folder}' does not say what it holds ({reason})") from error
