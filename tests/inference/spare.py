# SPDX-License-Identifier: Apache-2.0
"""A small model with fresh weights, without a training run; for tests of what surrounds the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from unified.contracts.config import DataConfig, PartConfig, RunConfig, TaskConfig, TrainConfig
from unified.contracts.structures import Vocabulary
from unified.inference.model import UnifiedModel
from unified.model.build import assemble
from unified.pretrained import Provenance
from unified.trained import Trained

BOXES = ("cat", "dog", "hat")
TAGS = ("indoor", "night", "rain", "snow")
KINDS = {"det": "det", "cls": "cls", "emb": "emb"}
SIZE = 64


def run_config(tasks: dict[str, str] | None = None) -> RunConfig:
    """Tasks by name and kind over a network of a few thousand weights."""
    options = {"emb": {"dim": 16}}
    model = {
        "name": "spare",
        "backbone": {"name": "csp", "channels": [8, 8, 16, 16, 16], "depths": [1, 1, 1, 1]},
        "neck": {"name": "pan", "depth": 1},
        "latents": [{"site": "align.*", "operator": "mul"}, {"site": "pre.*"}, {"site": "post.map"}],
        "heads": {"embed": {"width": 16}, "multilabel": {"width": 16}},
    }
    tasks = KINDS if tasks is None else tasks
    return RunConfig(
        model=model,  # type: ignore[arg-type]
        tasks={name: TaskConfig(task=kind, options=options.get(kind, {})) for name, kind in tasks.items()},
        data=DataConfig(datasets={}),
        train=TrainConfig(size=SIZE),
        balance=PartConfig(name="fixed"),
    )


def spare_model(tasks: dict[str, str] | None = None, seed: int = 0) -> UnifiedModel:
    """A model on the CPU in float32 whose heads and norms have seen noise, so that no two pictures look alike."""
    torch.manual_seed(seed)
    config = run_config(tasks)
    vocabulary = Vocabulary(boxes=BOXES, tags=TAGS)
    parts = assemble(config.model, config.tasks, vocabulary, partial=tasks is not None)
    network = parts.network.train()
    for norm in (each for each in network.modules() if isinstance(each, torch.nn.BatchNorm2d)):
        norm.momentum = None  # what was seen counts in full: with the usual share the signal fades from norm to norm
        norm.reset_running_stats()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
        network(torch.stack([torch.from_numpy(noise(SIZE, SIZE, k)).permute(2, 0, 1) for k in range(12)]) / 255)
    tasks_by_name = {name: parts.task(name).eval() for name in config.tasks}
    provenance = Provenance(data={"pets": {"format": "coco", "labelled": {"det": "all"}}}, metrics={"det/AP": 0.25})
    trained = Trained(network.eval(), tasks_by_name, vocabulary, config, Path(), Path("spare"), provenance)
    return UnifiedModel(trained, device="cpu", precision="fp32")


def noise(height: int = 48, width: int = 80, seed: int = 0) -> NDArray[np.uint8]:
    """A picture (H, W, 3) RGB of coloured noise in blocks."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return small.repeat(8, axis=0).repeat(8, axis=1)[:height, :width].copy()
