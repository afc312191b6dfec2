# SPDX-License-Identifier: Apache-2.0
"""The losses of a query-based detector: class, L1 and GIoU of a set.

Legend: L decoder layers, B images, Q queries, K classes, T boxes, M matches of a query and a box.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unified.boxes import area_xyxy, cxcywh_to_xyxy, generalized_iou_xyxy
from unified.contracts.structures import LossTerm, QueryBoxOutput

from .matching import HungarianMatcher, QueryMatch, focal, normalised
from .targets import EVERY_CLASS, BoxTargets, FlatBoxes


@dataclass(frozen=True)
class SetCriterion:
    """Losses for :class:`QueryBoxOutput` (Carion et al. 2020, DETR, eq. 2 and section 3.1), added over the layers.

    Classes are learnt by the focal loss (Lin et al. 2017, eq. 5), a yes or a no for each class, and not by a softmax
    with a class "no object": such a class could not be right in an image where only some classes were looked for. All
    terms are counted by the labelled boxes of the batch.

    What is not known is not learnt: the class loss leaves out every class that is not known in an image, and an
    unmatched query most of whose box lies in an ignored box is not told that the box's class is absent (nor that any
    class is, where it is a crowd).
    """

    matcher: HungarianMatcher
    class_gain: float
    l1_gain: float
    giou_gain: float

    def __call__(self, output: QueryBoxOutput, targets: BoxTargets) -> dict[str, LossTerm]:
        match = self.matcher(output, targets.wanted)
        truth = targets.wanted.select(match.box)
        count = output.class_logits.new_tensor(len(targets.wanted), dtype=torch.float32)
        classes = class_loss(output.class_logits, scored(output, targets, match), match, truth.labels)
        distance, overlap = box_losses(output, match, truth.boxes_xyxy)
        return {
            "class": LossTerm(classes, count, self.class_gain),
            "l1": LossTerm(distance, count, self.l1_gain),
            "giou": LossTerm(overlap, count, self.giou_gain),
        }


def class_loss(logits: Tensor, mask: Tensor, match: QueryMatch, labels: Tensor) -> Tensor:
    """Focal loss summed over layers, queries and known classes; matched queries say yes to their box's class.

    logits: (L, B, Q, K); mask: bool that broadcasts to it; labels: (M,).
    """
    picked = logits[(*match.rows, labels)].float()
    absent = (focal(logits.float(), positive=False) * mask).sum()
    return absent + (focal(picked, positive=True) - focal(picked, positive=False)).sum()


def box_losses(output: QueryBoxOutput, match: QueryMatch, truth_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the matches of the L1 distance (of shares of the image) and of 1 - GIoU. truth_xyxy: (M, 4) pixels."""
    said = output.boxes_cxcywh[match.rows].float()
    truth = normalised(truth_xyxy, output.size)
    overlap = generalized_iou_xyxy(cxcywh_to_xyxy(said), cxcywh_to_xyxy(truth))
    return (said - truth).abs().sum(), (1 - overlap).sum()


@torch.no_grad()
def scored(output: QueryBoxOutput, targets: BoxTargets, match: QueryMatch) -> Tensor:
    """Where the class loss may look: bool, (1, B, 1, K), or (L, B, Q, K) where there are boxes to look away from."""
    mask = targets.known[None, :, None]
    if len(targets.ignored) == 0:
        return mask
    hidden = torch.zeros_like(output.class_logits, dtype=torch.bool)
    layer, box, query = (covered(output.boxes_xyxy(), targets.ignored) > 0.5).nonzero(as_tuple=True)
    image, label = targets.ignored.image[box], targets.ignored.labels[box]
    hidden[layer, image, query, label.clamp(min=0)] = True
    every = label == EVERY_CLASS
    hidden[layer[every], image[every], query[every]] = True
    hidden[match.rows] = False
    return mask & ~hidden


def covered(boxes_xyxy: Tensor, ignored: FlatBoxes) -> Tensor:
    """Share of each query's box that lies in each ignored box of its image: (L, B, Q, 4) -> (L, T, Q).

    The share of the query's own box, as COCO counts crowds: a region may hold many objects.
    """
    own = boxes_xyxy[:, ignored.image]  # (L, T, Q, 4)
    region = ignored.boxes_xyxy[:, None]
    low, high = torch.maximum(own[..., :2], region[..., :2]), torch.minimum(own[..., 2:], region[..., 2:])
    return (high - low).clamp(min=0).prod(-1) / area_xyxy(own).clamp(min=1e-9)
