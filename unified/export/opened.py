# SPDX-License-Identifier: Apache-2.0
"""An exported network in the place of the one it was made from: the same answers, computed by another program."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self, get_type_hints

import torch
from torch import Tensor, nn

from unified.contracts import protocols
from unified.contracts.config import ModelConfig, TaskConfig
from unified.contracts.errors import CheckpointError, ConfigError, suggestion
from unified.contracts.exporting import Exporter, Runner
from unified.contracts.plugins import require
from unified.export.artifact import Artifact, Outlet, read_artifact
from unified.export.endings import ending_named
from unified.model.build import build_task
from unified.model.network import as_input, multiple
from unified.pretrained import chosen
from unified.trained import Trained


class NotInFileError(CheckpointError, AttributeError):
    """Something that only a network has whose weights are at hand."""


class ExportedNetwork(nn.Module):
    """Answers like a :class:`unified.model.network.UnifiedNetwork`; its computing is done by a format's own program.

    Args:
        artifact: what the file is.
        file: where it lies; it is opened when it is first placed on a device or asked.
    """

    def __init__(self, artifact: Artifact, file: Path) -> None:
        super().__init__()
        self.artifact, self.file = artifact, file
        self.outlets = {each.task: each for each in artifact.outlets if each.task in artifact.config.tasks}
        self.heads = dict.fromkeys(self.outlets)
        self.structures = {task: _structure(artifact, task) for task in self.outlets}
        self.exporter: Exporter = protocols.exporters.get(artifact.exporter)()
        self._device = "cpu"
        self._runner: Runner | None = None
        self._opening = threading.Lock()

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.outlets)

    @property
    def stride(self) -> int:
        """The coarsest stride in pixels, of which the sides of an input must be multiples."""
        return self.artifact.stride

    def check_size(self, side: int) -> int:
        """The side of a square input in pixels, if it suits the strides.

        Raises:
            ConfigError: it is no positive multiple of the coarsest stride.
        """
        return multiple(side, self.stride)

    def fingerprint(self, task: str, side: int) -> str:
        """The fingerprint of an embedding task's space, as the network had it that this was made from.

        Raises:
            ConfigError: at another side than the one it was made for, where only the weights could tell.
        """
        if side != self.artifact.size:
            raise ConfigError(
                f"an exported file knows the fingerprint of its vectors at {self.artifact.size} pixels, not at {side}; "
                f"export it with --size {side}"
            )
        return self.artifact.spaces[task]

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Whether what is asked of a prediction can still be had.

        Raises:
            ConfigError: the graph has left out boxes that would be needed.
        """
        for outlet in self.outlets.values():
            for name, settled in dict(outlet.facts.get("rule", {})).items():
                asked = options.get(name)
                less = asked is not None and (asked < settled if name == "confidence" else asked > settled)
                if less and name != "multi_label":
                    raise ConfigError(
                        f"{name} {asked} cannot be had: this file suppresses repeats in its graph, with {name} "
                        f"{settled:g}; export it with --nms outside, or with another --{name.replace('_', '-')}"
                    )

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Takes a device, which the format's program then uses if it can; types and layouts change nothing."""
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        if device is not None and device.type != self._device:
            self._device, self._runner = device.type, None
        return self

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Any]:
        """The answer of each task asked for (all by default), on the CPU.

        images: (B, 3, H, W), uint8 or float in [0, 1]; H and W multiples of the coarsest stride.

        Raises:
            ConfigError: a task that is not in the file.
        """
        asked = self.tasks if tasks is None else tuple(tasks)
        for task in asked:
            if task not in self.outlets:
                raise ConfigError(f"this file has no task '{task}'{suggestion(task, self.tasks)}")
        names = [name for task in asked for name in self.outlets[task].tensors.values()]
        pixels = as_input(images.detach().cpu()).float().contiguous().numpy()
        arrays = self.runner(pixels, names)
        size = (int(images.shape[-2]), int(images.shape[-1]))
        found = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return {task: self._restored(self.outlets[task], found, size) for task in asked}

    @property
    def runner(self) -> Runner:
        """What computes; opened once."""
        with self._opening:
            if self._runner is None:
                self._runner = self.exporter.open(self.file, self.artifact.outputs, self._device)
            return self._runner

    def _restored(self, outlet: Outlet, found: Mapping[str, Tensor], size: tuple[int, int]) -> Any:
        tensors = {name: found[output] for name, output in outlet.tensors.items()}
        return ending_named(outlet.ending).restore(tensors, outlet.facts, self.structures[outlet.task], size)

    def state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotInFileError(self._refusal())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            return super().__getattr__(name)
        raise NotInFileError(self._refusal(name))

    def __deepcopy__(self, memo: Any) -> NoReturn:
        raise NotInFileError(self._refusal())

    def _refusal(self, name: str = "weights") -> str:
        return (
            f"'{self.file}' is an exported file: it predicts and embeds, but has no {name} that could be read, changed "
            "or exported again; give the run or model it was made from"
        )


def open_export(path: Path, tasks: Sequence[str] | None = None) -> Trained:
    """An exported network with its tasks, as if it had been read from a checkpoint.

    Args:
        path: its folder, or its file.
        tasks: only these; all by default.

    Raises:
        CheckpointError: damaged, or its description is missing.
        ConfigError: it has no such task, or the program that runs it is not installed.
        RegistryError: a plug-in that it needs is not installed.
    """
    artifact, file = read_artifact(path)
    require(artifact.plugins, artifact.config, str(path))
    artifact = artifact.of(chosen(artifact.config.tasks, tasks))
    network = ExportedNetwork(artifact, file)
    network.exporter.check(artifact.precision)
    config, words = artifact.config, artifact.vocabulary
    with torch.random.fork_rng(devices=[]):  # a loss draws its proxies, which nobody needs here
        kinds = {name: build_task(name, task, words).eval() for name, task in config.tasks.items()}
    return Trained(network.eval(), kinds, words, config, path, path, artifact.provenance)  # type: ignore[arg-type]


def structure_of(task: TaskConfig, model: ModelConfig) -> type:
    """The class that a task's head answers, by the annotation of its ``forward``.

    Raises:
        ConfigError: it has none.
    """
    default = model.default_heads.get(task.task, protocols.tasks.get(task.task).default_head)
    name = task.head.name if task.head else default
    try:
        found = get_type_hints(protocols.heads.get(name).forward).get("return")
    except NameError:
        found = None
    if not isinstance(found, type):
        raise ConfigError(
            f"{protocols.heads.named(name)} does not say what it answers: annotate its forward, such as "
            "`def forward(self, features: Features, modulate: Modulate) -> TagOutput`"
        )
    return found


def _structure(artifact: Artifact, task: str) -> type:
    return structure_of(artifact.config.tasks[task], artifact.config.model)
