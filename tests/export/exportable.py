# SPDX-License-Identifier: Apache-2.0
"""Small networks with fresh weights as folders that can be exported, without a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unified.contracts.config import DataConfig, PartConfig, RunConfig, TaskConfig, TrainConfig
from unified.contracts.structures import Vocabulary
from unified.inference.model import UnifiedModel
from unified.inference.results import Result
from unified.model.build import assemble
from unified.trained import Trained

BOXES = ("cat", "dog", "hat")
TAGS = ("indoor", "night", "rain", "snow")
SIZE = 64
LATENTS = [{"site": "align.*", "operator": "mul"}, {"site": "pre.*"}]
MODEL: dict[str, Any] = {
    "name": "exportable",
    "backbone": {"name": "csp", "channels": [8, 8, 8, 16, 16], "depths": [1, 1, 1, 1], "levels": 2},
    "neck": {"name": "pan", "depth": 1},
    "latents": LATENTS,
    "heads": {"embed": {"width": 16}, "multilabel": {"width": 16}, "detect_free": {"width": 16, "depth": 1}},
}


def apart(a: Result, b: Result) -> float:
    """How far two results are apart: pixels, scores and coordinates. Boxes of like score may have changed places."""
    assert (a.boxes is None) == (b.boxes is None) and len(a.boxes or ()) == len(b.boxes or ())
    found = [0.0]
    for name in ("tag_scores", "embedding"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None)
        found.append(0.0 if x is None else float((x - y).abs().max()))
    if a.boxes is not None and len(a.boxes):
        rows = [_rows(each) for each in (a, b)]
        found.append(float(torch.cdist(*rows, p=float("inf")).min(dim=1).values.max()))
    return max(found)


def _rows(result: Result) -> Tensor:
    """Everything that is said of each box: (N, ...)."""
    assert result.boxes_xyxy is not None and result.scores is not None and result.labels is not None
    columns = [result.boxes_xyxy, result.scores[:, None], result.labels[:, None].float()]
    return torch.cat([*columns, *([] if result.box_embeddings is None else [result.box_embeddings])], dim=1)


def make(
    folder: Path, head: str | None = None, tasks: str = "det,cls,emb", boxes: tuple[str, ...] = BOXES, **model: Any
) -> Path:
    """A model handed on, whose heads and norms have seen noise, so that no two pictures look alike.

    Args:
        folder: where it is written.
        head: of the detection task; the kind's own if not given.
        tasks: their kinds.
        boxes: names of the classes.
        model: other parts than :data:`MODEL` has.
    """
    torch.manual_seed(0)
    kinds = tasks.split(",")
    options: dict[str, dict[str, Any]] = {"emb": {"dim": 8}}
    heads = {"det": PartConfig(name=head)} if head else {}
    config = RunConfig(
        model={**MODEL, **model},  # type: ignore[arg-type]
        tasks={kind: TaskConfig(task=kind, head=heads.get(kind), options=options.get(kind, {})) for kind in kinds},
        data=DataConfig(datasets={}),
        train=TrainConfig(size=SIZE),
        balance=PartConfig(name="fixed"),
    )
    vocabulary = Vocabulary(boxes=boxes, tags=TAGS)
    parts = assemble(config.model, config.tasks, vocabulary, fetch=False, partial=True)
    network = parts.network.train()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        for _ in range(3):
            network(torch.rand(4, 3, SIZE, SIZE))
    named = {name: parts.task(name).eval() for name in config.tasks}
    trained = Trained(network.eval(), named, vocabulary, config, Path(), Path("exportable"))
    return UnifiedModel(trained, device="cpu", precision="fp32").save_pretrained(folder)
