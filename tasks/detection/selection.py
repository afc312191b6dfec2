# SPDX-License-Identifier: Apache-2.0
"""From a box and scores at every point to the few boxes that are shown."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms


@dataclass(frozen=True)
class Selection:
    """Keeps confident boxes and suppresses repeats of a class.

    Args:
        confidence: the least score shown.
        nms_iou: a box that overlaps a better one of its class by more than this is a repeat; 1 or more lets all pass.
        max_boxes: boxes an image may show.
        candidates: best-scored boxes of an image that enter the suppression.
        multi_label: True lets one point answer with several classes; False takes its best one.
    """

    confidence: float = 0.05
    nms_iou: float = 0.65
    max_boxes: int = 300
    candidates: int = 1000
    multi_label: bool = True

    @torch.no_grad()
    def __call__(self, boxes_xyxy: Tensor, scores: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """boxes_xyxy: (B, P, 4); scores: (B, P, K).

        Returns boxes (N, 4), scores (N,) and labels (N,) of each image, best first, on the CPU.
        """
        best, point, label = self._best(scores)
        boxes = boxes_xyxy.gather(1, point[..., None].expand(-1, -1, 4)).float().cpu()
        rows = zip(boxes, best.float().cpu(), label.cpu(), strict=True)
        return [self._suppress(*row) for row in rows]

    def _best(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best candidates of each image, sorted: scores, points and labels, each (B, candidates)."""
        classes = scores.shape[2]
        if self.multi_label:
            best, index = top(scores.flatten(1), self.candidates)
            return best, index // classes, index % classes
        highest, labels = scores.max(dim=2)
        best, index = top(highest, self.candidates)
        return best, index, labels.gather(1, index)

    def _suppress(self, boxes_xyxy: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        confident = int((scores >= self.confidence).sum())  # sorted, so these are the first ones
        boxes_xyxy, scores, labels = boxes_xyxy[:confident], scores[:confident], labels[:confident]
        if self.nms_iou >= 1:
            return boxes_xyxy[: self.max_boxes], scores[: self.max_boxes], labels[: self.max_boxes]
        keep = batched_nms(boxes_xyxy, scores, labels, self.nms_iou)[: self.max_boxes]
        return boxes_xyxy[keep], scores[keep], labels[keep]


def top(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of each row, sorted, with their columns. values: (B, N)."""
    best, index = values.topk(min(count, values.shape[1]), dim=1)
    return best, index
