# SPDX-License-Identifier: Apache-2.0
"""Task-aligned assignment: a box is learnt where the network already says both what and where it is.

Feng et al. 2021, TOOD, section 3.2.1. Legend: B images, P points, K classes, T boxes of the batch, M matches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unified.boxes import iou_xyxy

from .targets import FlatBoxes, inside


@dataclass(frozen=True)
class Assignment:
    """Which point learns which box, and how surely."""

    point: Tensor  # (M,) int64 index into the flattened (B, P), each at most once
    box: Tensor  # (M,) int64 index into the T boxes
    score: Tensor  # (M,) soft class target in [0, 1]


@dataclass(frozen=True)
class AlignedAssigner:
    """Gives every box the ``topk`` points inside it of the best alignment s^alpha * IoU^beta (TOOD eq. 3).

    s is the score of the box's class at the point, IoU that of the point's predicted box. A point that several boxes
    want goes to the one it overlaps most. The soft target is the alignment, scaled so that the best point of a box gets
    the box's best IoU. A box too small to hold a point gets the nearest one.
    """

    topk: int = 10
    alpha: float = 0.5
    beta: float = 6.0

    @torch.no_grad()
    def __call__(self, boxes_xyxy: Tensor, class_logits: Tensor, points_xy: Tensor, wanted: FlatBoxes) -> Assignment:
        """boxes_xyxy: (B, P, 4) predicted, pixels; class_logits: (B, P, K); points_xy: (P, 2) pixels."""
        points = len(points_xy)
        box, point = candidates(wanted.boxes_xyxy, points_xy).nonzero(as_tuple=True)
        flat = wanted.image[box] * points + point
        scores = class_logits.flatten(0, 1)[flat, wanted.labels[box]].float().sigmoid()
        overlap = iou_xyxy(boxes_xyxy.flatten(0, 1)[flat], wanted.boxes_xyxy[box])
        alignment = scores**self.alpha * overlap**self.beta
        best = self._best(box, point, alignment, shape=(len(wanted), points))
        box, flat, alignment, overlap = box[best], flat[best], alignment[best], overlap[best]
        won = uncontested(flat, box, overlap, places=boxes_xyxy.shape[0] * points)
        box, flat, alignment, overlap = box[won], flat[won], alignment[won], overlap[won]
        return Assignment(flat, box, normalised(box, alignment, overlap, len(wanted)))

    def _best(self, box: Tensor, point: Tensor, alignment: Tensor, shape: tuple[int, int]) -> Tensor:
        """Indices of the candidate pairs that are among the best of their box."""
        table = alignment.new_full(shape, -1.0)
        table[box, point] = alignment
        values, column = table.topk(min(self.topk, shape[1]), dim=1)
        row = torch.arange(shape[0], device=box.device)[:, None].expand_as(column)
        number = torch.full(shape, -1, dtype=torch.int64, device=box.device)
        number[box, point] = torch.arange(len(box), device=box.device)
        return number[row, column][values >= 0]


def candidates(boxes_xyxy: Tensor, points_xy: Tensor) -> Tensor:
    """Points a box may be learnt at: those inside or, where there is none, the nearest to its centre. (T, P) bool."""
    mask = inside(boxes_xyxy, points_xy)
    lonely = (~mask.any(dim=1)).nonzero().flatten()
    centers = (boxes_xyxy[lonely, :2] + boxes_xyxy[lonely, 2:]) / 2
    mask[lonely, torch.cdist(centers, points_xy).argmin(dim=1)] = True
    return mask


def uncontested(place: Tensor, box: Tensor, overlap: Tensor, places: int) -> Tensor:
    """Mask of the pairs (place, box) that keep their place: the largest overlap, and of equals the first box."""
    largest = overlap.new_full((places,), -1.0).scatter_reduce(0, place, overlap, "amax")
    keep = overlap == largest[place]
    first = box.new_full((places,), torch.iinfo(box.dtype).max).scatter_reduce(0, place[keep], box[keep], "amin")
    return keep & (box == first[place])


def normalised(box: Tensor, alignment: Tensor, overlap: Tensor, boxes: int) -> Tensor:
    """Alignment over the best alignment of the same box, times that box's best overlap (TOOD section 3.2.1)."""
    zeros = alignment.new_zeros(boxes)
    best_alignment = zeros.scatter_reduce(0, box, alignment, "amax")[box]
    best_overlap = zeros.scatter_reduce(0, box, overlap, "amax")[box]
    # An absolute epsilon would silence untrained boxes: IoU^6 of a poor start is far below any of the usual ones.
    return alignment / best_alignment.clamp(min=torch.finfo(alignment.dtype).tiny) * best_overlap
