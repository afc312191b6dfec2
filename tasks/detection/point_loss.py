# SPDX-License-Identifier: Apache-2.0
"""The losses of an anchor-free detector: class, box and distribution.

Legend: B images, P points, K classes, M matches of a point and a box.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unified.boxes import complete_iou_xyxy
from unified.contracts.structures import LossTerm, PointBoxOutput

from .aligned import AlignedAssigner, Assignment
from .targets import EVERY_CLASS, BoxTargets, inside


@dataclass(frozen=True)
class PointCriterion:
    """Losses for :class:`PointBoxOutput`, summed over the matches and counted by their soft targets (TOOD eq. 6, 8).

    What is not known is not learnt: the class loss leaves out every class that is not known in an image, and the points
    inside an ignored box for that box's class (for all classes where it is a crowd).
    """

    assigner: AlignedAssigner
    box_gain: float
    class_gain: float
    dfl_gain: float

    def __call__(self, output: PointBoxOutput, targets: BoxTargets) -> dict[str, LossTerm]:
        with torch.no_grad():
            boxes = output.boxes_xyxy()
        match = self.assigner(boxes, output.class_logits, output.points_xy, targets.wanted)
        truth = targets.wanted.select(match.box)
        chosen = select_points(output, match.point)
        count = match.score.sum()
        mask = scored(output, targets, match)
        return {
            "box": LossTerm(box_loss(chosen, truth.boxes_xyxy, match.score), count, self.box_gain),
            "class": LossTerm(class_loss(output.class_logits, mask, match, truth.labels), count, self.class_gain),
            "dfl": LossTerm(distribution_loss(chosen, truth.boxes_xyxy, match.score), count, self.dfl_gain),
        }


def select_points(output: PointBoxOutput, index: Tensor) -> PointBoxOutput:
    """Some points of a batch as an output of one image. index: (M,) into the flattened (B, P)."""
    point = index % len(output.points_xy)
    return PointBoxOutput(
        side_logits=output.side_logits.flatten(0, 1)[index][None],
        class_logits=output.class_logits.flatten(0, 1)[index][None],
        points_xy=output.points_xy[point],
        strides=output.strides[point],
        bins=output.bins,
    )


def scored(output: PointBoxOutput, targets: BoxTargets, match: Assignment) -> Tensor:
    """Where the class loss may look: bool, (B, 1, K), or (B, P, K) where there are boxes to look away from."""
    mask = targets.known[:, None]
    ignored = targets.ignored
    if len(ignored) == 0:
        return mask
    batch, points, classes = output.class_logits.shape
    box, point = inside(ignored.boxes_xyxy, output.points_xy).nonzero(as_tuple=True)
    image, label = ignored.image[box], ignored.labels[box]
    hidden = mask.new_zeros(batch, points, classes)
    hidden[image, point, label.clamp(min=0)] = True
    every = label == EVERY_CLASS
    hidden[image[every], point[every]] = True
    hidden.view(-1, classes)[match.point] = False
    return mask & ~hidden


def class_loss(logits: Tensor, mask: Tensor, match: Assignment, labels: Tensor) -> Tensor:
    """Binary cross-entropy with soft targets, summed. logits: (B, P, K); labels: (M,) of the matches.

    log(1 + e^x) - t x needs no dense table of targets, which are zero nearly everywhere.
    """
    picked = logits.flatten(0, 1)[match.point, labels].float()
    return (F.softplus(logits.float()) * mask).sum() - (picked * match.score).sum()


def box_loss(chosen: PointBoxOutput, truth_xyxy: Tensor, weight: Tensor) -> Tensor:
    """1 - CIoU of the decoded boxes, weighted and summed. truth_xyxy: (M, 4) pixels; weight: (M,)."""
    return ((1 - complete_iou_xyxy(chosen.boxes_xyxy()[0], truth_xyxy)) * weight).sum()


def distribution_loss(chosen: PointBoxOutput, truth_xyxy: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy towards the two bins around each true distance, mean of four sides, weighted and summed.

    Li et al. 2020, Generalized Focal Loss, eq. 6. truth_xyxy: (M, 4) pixels; weight: (M,).
    """
    sides = torch.cat([chosen.points_xy - truth_xyxy[:, :2], truth_xyxy[:, 2:] - chosen.points_xy], dim=-1)
    distances = (sides / chosen.strides[:, None]).clamp(0, chosen.bins - 1 - 1e-2)  # (M, 4)
    low = distances.floor()
    high_share = distances - low
    logs = chosen.side_logits[0].float().view(-1, 4, chosen.bins).log_softmax(-1)
    pair = torch.stack([low, low + 1], dim=-1).long()  # (M, 4, 2)
    share = torch.stack([1 - high_share, high_share], dim=-1)
    return -((logs.gather(-1, pair) * share).sum(-1).mean(-1) * weight).sum()
