# SPDX-License-Identifier: Apache-2.0
"""An official file becomes a model like any other: network, task, words, and a folder to keep it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unified.checkpoint import Checkpoint, fit_state, save_checkpoint
from unified.contracts.config import DataConfig, PartConfig, RunConfig, TaskConfig, TrainConfig
from unified.contracts.document import load_model_config
from unified.contracts.errors import CheckpointError
from unified.contracts.structures import Vocabulary
from unified.inference.model import UnifiedModel
from unified.model.build import assemble
from unified.model.network import UnifiedNetwork
from unified.official.archive import LEGACY, ZIP, first_bytes, read_state
from unified.official.darknet import read_weights
from unified.official.design import DESIGNS, design_named
from unified.official.mapping import placed
from unified.official.names import class_names
from unified.official.recognise import Recognised, recognise
from unified.trained import Trained

TASK, HEAD = "det", "detect_anchor"
SELECTION = {"confidence": 0.001, "nms_iou": 0.65, "max_boxes": 300, "candidates": 30000, "multi_label": True}
"""How the paper selects boxes for its scores (Wang et al. 2021; the authors' test script)."""

Anchors = Sequence[Sequence[tuple[float, float]]]


def import_yolor(
    path: str | Path,
    names: Sequence[str] | str | Path | None = None,
    arch: str | None = None,
    anchors: Anchors | None = None,
    device: str = "cpu",
) -> UnifiedModel:
    """A model with the weights of an official YOLOR or Scaled-YOLOv4 file (main branch ``.pt``, DarkNet ``.weights``).

    The network is recognised from the tensors' names and shapes; every tensor is placed or nothing is loaded. Reading
    runs no code from the file.

    Args:
        path: the file.
        names: class names in order, or a file with one a line; by default COCO's for 80 classes, else numbers.
        arch: compare with this network only, such as ``yolor-p6``.
        anchors: for every level, finest first, the (width, height) in pixels of its anchors, where the network was
            trained with others than the published ones: the file does not hold them.
        device: where the network is placed.

    Raises:
        CheckpointError: damaged, holding code, of another network, or contradicting itself.
        ConfigError: names or an architecture that do not fit.
    """
    path = Path(path).expanduser()
    found, state = read_official(path, arch)
    vocabulary = Vocabulary(boxes=class_names(found.classes, names))
    config = _config(found, anchors)
    parts = assemble(config.model, config.tasks, vocabulary)
    fit_state(parts.network, placed(found, state, parts.network, TASK, str(path)), str(path))
    task = parts.task(TASK).eval()
    trained = Trained(parts.network.eval(), {TASK: task}, vocabulary, config, path.parent.resolve(), path)
    model = UnifiedModel(replace(trained, network=AsPublished.of(trained.network)), device)
    model.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return model


class AsPublished(UnifiedNetwork):
    """A network whose sums on a CPU run in their authors' order, so that its outputs can be compared closely.

    Vector libraries cut sums by the machine, its threads and the memory layout, and a side of a box of 1856 pixels then
    moves by up to 0.03 pixels. A model loaded from a folder is a plain network and leaves them their way.
    """

    @classmethod
    def of(cls, network: UnifiedNetwork) -> AsPublished:
        """The same parts, not copied."""
        heads = {task: network.heads[task] for task in network.tasks}
        return cls(network.backbone, network.neck, network.bank, heads).train(network.training)  # type: ignore[arg-type]

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Any]:
        """As of :class:`UnifiedNetwork`."""
        if images.is_cuda:
            return super().forward(images, tasks)
        with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):
            return super().forward(images.contiguous(), tasks)


def read_official(path: Path, arch: str | None = None) -> tuple[Recognised, Mapping[str, Tensor]]:
    """Which network a file is of, and its tensors by official name.

    Raises:
        CheckpointError: as of :func:`import_yolor`.
    """
    designs = tuple(DESIGNS.values()) if arch is None else (design_named(arch),)
    packed = first_bytes(path).startswith((ZIP, LEGACY))
    state = read_weights(path, designs) if path.suffix == ".weights" and not packed else read_state(path)
    return recognise(state, str(path), designs), state


def save_model(model: UnifiedModel, folder: Path) -> None:
    """Writes a model as a folder that every command takes: ``unified-predict``, ``unified-eval``, ``unified.load``.

    Raises:
        CheckpointError: the folder holds something already, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"--out {folder}: is there already and not empty; give a new folder")
    trained = model.trained
    state: dict[str, Any] = {
        "config": trained.config.model_dump(mode="json"),
        "base": str(trained.base),
        "vocabulary": {name: list(words) for name, words in vars(trained.vocabulary).items()},
        "origin": trained.source.name,
    }
    save_checkpoint(folder, Checkpoint({"ema": model.network.state_dict()}, state))


def _config(found: Recognised, anchors: Anchors | None) -> RunConfig:
    model = load_model_config(found.design.name)
    if anchors is not None:  # with the model, so that they travel to whatever is trained from it
        heads = {**model.heads, HEAD: {**model.heads.get(HEAD, {}), "anchors": anchors}}
        model = model.model_copy(update={"heads": heads})
    return RunConfig(
        model=model,
        tasks={TASK: TaskConfig(task="det", head=PartConfig(name=HEAD), options=SELECTION)},
        data=DataConfig(datasets={}),
        train=TrainConfig(size=found.design.size),
    )
