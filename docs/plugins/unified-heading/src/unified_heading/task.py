# SPDX-License-Identifier: Apache-2.0
"""The heading task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from unified.contracts.extras import Keypoints
from unified.contracts.protocols import Labels, Task
from unified.contracts.structures import Annotations, Batch, LabelState, LossTerm, Prediction, Vocabulary

from .answer import HeadingOutput, Headings
from .metric import HeadingMetric


class HeadingTask(Task):
    """Which way the object in a box points: from one of its key points to another.

    Args:
        name: the task's name.
        vocabulary: of the run; not needed.
        tail, tip: the names of the two key points.
        shortest: pixels of the input; points that lie closer together say nothing of a direction.
    """

    protocol: ClassVar[int] = 1
    labels: ClassVar[Labels] = "boxes"
    learns_from: ClassVar[tuple[str, ...]] = ("keypoints",)
    default_head: ClassVar[str] = "heading"
    uses: ClassVar[tuple[str, ...]] = ("boxes_xyxy",)
    primary: ClassVar[str] = "Acc30"
    scores: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "Acc30": "share of true boxes whose direction is less than 30 degrees off",
            "MedErr": "median error of the direction in degrees",
        }
    )
    lower: ClassVar[frozenset[str]] = frozenset({"MedErr"})

    def __init__(
        self, name: str, vocabulary: Vocabulary, *, tail: str = "centre", tip: str = "head", shortest: float = 2.0
    ) -> None:
        super().__init__()
        self.name = name
        self.vocabulary = vocabulary
        self.outputs = 2
        self.tail, self.tip, self.shortest = tail, tip, shortest

    def loss(self, output: HeadingOutput, batch: Batch) -> Mapping[str, LossTerm]:
        """``turn``: one minus the cosine of the error, summed over the boxes whose direction is known."""
        told = [self.known(each) for each in batch.annotations]
        said = output.at([boxes for boxes, _ in told])
        true = torch.cat([vectors for _, vectors in told]).to(said.device)
        total = (1 - (said * true).sum(dim=1)).sum() + 0 * output.map.sum()
        return {"turn": LossTerm(total, torch.tensor(float(len(true)), device=said.device))}

    def known(self, annotations: Annotations) -> tuple[Tensor, Tensor]:
        """Boxes (N, 4) and unit vectors (N, 2) of the objects whose direction is known."""
        points = annotations.extras.get("keypoints")
        if annotations.states.get(self.name) is None or not isinstance(points, Keypoints) or not len(points.points):
            return torch.zeros(0, 4), torch.zeros(0, 2)
        if self.tail not in points.names or self.tip not in points.names:
            return torch.zeros(0, 4), torch.zeros(0, 2)
        tail, tip = (points.points[:, points.names.index(name)] for name in (self.tail, self.tip))
        way = tip[:, :2] - tail[:, :2]
        labelled = (tail[:, 2] > 0) & (tip[:, 2] > 0) & (way.norm(dim=1) >= self.shortest)
        labelled &= annotations.box_states == LabelState.POSITIVE
        return annotations.boxes_xyxy[labelled], F.normalize(way[labelled], dim=1)

    def predict(self, output: HeadingOutput, predictions: Sequence[Prediction], **options: Any) -> list[Prediction]:
        """Adds :class:`Headings` under the task's name where boxes were found."""
        empty = output.map.new_zeros(0, 4)
        boxes = [empty if p.boxes_xyxy is None else p.boxes_xyxy.to(empty) for p in predictions]
        vectors = output.at(boxes).detach().split([len(each) for each in boxes])
        return [
            p if p.boxes_xyxy is None else replace(p, extras={**p.extras, self.name: Headings(v, b)})
            for p, v, b in zip(predictions, vectors, boxes, strict=True)
        ]

    def metric(self) -> HeadingMetric:
        return HeadingMetric(self.known)

    def truth(self, annotations: Annotations) -> Headings | None:
        boxes, vectors = self.known(annotations)
        return Headings(vectors, boxes) if len(boxes) else None
