# SPDX-License-Identifier: Apache-2.0
"""Non-maximum suppression and box vectors inside a graph, for whole batches and without a loop.

Legend: B images, P points, K classes, C candidates, N boxes shown, D embedding width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.ops import nms

from unified.contracts.exporting import Suppression
from unified.contracts.sampling import box_points, sample

GRID = 5  # points a side at which a box reads its vector


@torch.library.custom_op("unified::unrepeated", mutates_args=())
def unrepeated(boxes_xyxy: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Mask (B, C) of the boxes that repeat no better one of their image; those with a negative score are left out.

    A format gives it an operator of its own, which is why it is an operator here.

    Args:
        boxes_xyxy: (B, C, 4).
        scores: (B, C), best first.
        iou: what overlaps by more is a repeat.
    """
    kept = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    for mask, boxes, values in zip(kept, boxes_xyxy, scores, strict=True):
        shown = values >= 0
        rows = shown.nonzero()[:, 0]
        mask[rows[nms(boxes[shown], values[shown], iou)]] = True
    return kept


@unrepeated.register_fake
def _(boxes_xyxy: Tensor, scores: Tensor, iou: float) -> Tensor:
    return torch.empty(scores.shape, dtype=torch.bool, device=scores.device)


def shown(boxes_xyxy: Tensor, scores: Tensor, rule: Suppression) -> dict[str, Tensor]:
    """The boxes an image shows, best first, behind them rows of zeros.

    Args:
        boxes_xyxy: (B, P, 4) pixels.
        scores: (B, P, K) in 0..1.
        rule: which are shown.

    Returns:
        ``boxes_xyxy`` (B, N, 4), ``scores`` (B, N), ``labels`` (B, N) int64, ``count`` (B,) int64: rows that are boxes.
    """
    best, point, labels = _candidates(scores, rule)
    boxes = boxes_xyxy.gather(1, point[..., None].expand(-1, -1, 4))
    sure = best >= rule.confidence
    kept = sure if rule.nms_iou >= 1 else _suppressed(boxes, best, labels, sure, rule.nms_iou)
    rank = torch.where(kept, torch.arange(best.shape[1], 0, -1, device=best.device), 0)
    order = rank.topk(min(rule.max_boxes, rule.candidates), dim=1).indices
    is_box = kept.gather(1, order)
    return {
        "boxes_xyxy": boxes.gather(1, order[..., None].expand(-1, -1, 4)) * is_box[..., None],
        "scores": best.gather(1, order) * is_box,
        "labels": labels.gather(1, order) * is_box,
        "count": is_box.sum(1),
    }


def _candidates(scores: Tensor, rule: Suppression) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, points and labels (B, C) of the best, sorted. An image with fewer has rows of score -1."""
    classes = scores.shape[2]
    values, chosen = (scores.flatten(1), None) if rule.multi_label else scores.max(dim=2)
    spare = values.new_full((1, rule.candidates), -1.0).expand(values.shape[0], -1)
    best, index = torch.cat([values, spare], dim=1).topk(rule.candidates, dim=1)
    index = torch.where(best < 0, 0, index)
    if chosen is None:
        return best, index // classes, index % classes
    return best, index, chosen.gather(1, index)


def _suppressed(boxes: Tensor, best: Tensor, labels: Tensor, sure: Tensor, iou: float) -> Tensor:
    """Mask (B, C); classes are moved apart, so that none suppresses another."""
    low = torch.where(sure[..., None], boxes, 0.0).amin(dim=(1, 2))
    high = torch.where(sure[..., None], boxes, 0.0).amax(dim=(1, 2))
    apart = boxes + (labels * (high - low + 1)[:, None])[..., None]
    return unrepeated(apart, torch.where(sure, best, -1.0), iou)  # type: ignore[no-any-return]


def box_embeddings(output: Any, boxes_xyxy: Tensor) -> Tensor:
    """A unit vector (B, N, D) for every row of boxes (B, N, 4), as ``EmbeddingOutput.box_vectors`` reads them."""
    batch, count = boxes_xyxy.shape[:2]
    image = torch.arange(batch, device=boxes_xyxy.device)[:, None].expand(-1, count).reshape(-1)
    points = box_points(boxes_xyxy.reshape(-1, 4), GRID) / output.stride - 0.5
    vectors = sample(output.map, image, points).mean(dim=1)
    return normalize(vectors, dim=-1).view(batch, count, -1)
