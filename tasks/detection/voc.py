# SPDX-License-Identifier: Apache-2.0
"""Average precision as PASCAL VOC measures it (Everingham et al. 2010, section 4.2), for one class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor


def voc_ap(
    truths: Sequence[Tensor],
    detections: Sequence[Tensor],
    scores: Sequence[Tensor],
    *,
    iou: float = 0.5,
    points: Literal["every", "eleven"] = "every",
    inclusive: bool = False,
) -> float | None:
    """AP in [0, 1] of one class, or None where there is no truth.

    Args:
        truths: boxes xyxy (N, 4) in pixels, one tensor an image.
        detections: boxes xyxy (M, 4) in pixels, one tensor an image.
        scores: (M,), one tensor an image.
        iou: the least overlap of a hit. A detection is held against the box it overlaps most; a second one is a miss.
        points: ``every`` recall (VOC since 2010) or the ``eleven`` recalls 0, .1 .. 1 (VOC 2007).
        inclusive: True counts both border pixels (+1 on every side), as the official VOC code does.
    """
    total = sum(len(boxes) for boxes in truths)
    if total == 0:
        return None
    rows = [hits(t, d, s, iou, inclusive) for t, d, s in zip(truths, detections, scores, strict=True)]
    order = torch.cat([torch.as_tensor(s, dtype=torch.float64) for s in scores]).argsort(descending=True, stable=True)
    correct = torch.cat(rows)[order].double().cumsum(0)
    recall = correct / total
    precision = correct / torch.arange(1, len(correct) + 1, dtype=torch.float64)
    # The best precision at this or any higher recall.
    envelope = precision.flip(0).cummax(0).values.flip(0) if len(precision) else precision
    if points == "eleven":
        return sum(_at(recall, envelope, step / 10) for step in range(11)) / 11
    return float((envelope * torch.diff(recall, prepend=recall.new_zeros(1))).sum())


def hits(truth: Tensor, detections: Tensor, scores: Tensor, iou: float, inclusive: bool) -> Tensor:
    """Which detections (M, 4) of one image hit a truth (N, 4) that no better-scored one has taken. (M,) bool."""
    correct = torch.zeros(len(detections), dtype=torch.bool)
    if len(truth) == 0:
        return correct
    overlap, best = overlaps(detections, truth, float(inclusive)).max(dim=1)
    taken: set[int] = set()
    for i in scores.argsort(descending=True, stable=True).tolist():
        target = int(best[i])
        if overlap[i] >= iou and target not in taken:
            taken.add(target)
            correct[i] = True
    return correct


def overlaps(a: Tensor, b: Tensor, border: float) -> Tensor:
    """IoU (M, N) of boxes (M, 4) and (N, 4) whose sides are longer by ``border`` pixels."""
    a, b = a.double()[:, None], b.double()[None]
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2]) + border).clamp(min=0)
    area_a, area_b = ((box[..., 2:] - box[..., :2] + border).prod(-1) for box in (a, b))
    return shared.prod(-1) / (area_a + area_b - shared.prod(-1))


def _at(recall: Tensor, envelope: Tensor, level: float) -> float:
    reached = envelope[recall >= level]
    return float(reached[0]) if len(reached) else 0.0
