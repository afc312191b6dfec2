# SPDX-License-Identifier: Apache-2.0
"""The losses of an anchor-based detector as YOLOR trains it: box, objectness and class.

Legend: B images, A anchors a cell, K classes, M matches of a cell and a box.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unified.boxes import complete_iou_xyxy, cxcywh_to_xyxy
from unified.contracts.structures import AnchorBoxOutput, LossTerm

from .ratio import Match, RatioAssigner
from .targets import BoxTargets, inside


@dataclass(frozen=True)
class AnchorCriterion:
    """Losses for :class:`AnchorBoxOutput`.

    YOLOR's loss is made of means: over the matches of each level (box), over their known classes (class) and over all
    cells of each level (objectness, weighted by ``balance``), added over the levels. A mean cannot be taken apart into
    (sum, count), so each term is returned as (mean * images, images), images being those of which anything is known:
    dividing one by the other gives the published loss, and ranks and steps are weighted by their images. The factor
    "times batch size" belongs to the learning rate of the recipe and is left out.

    The objectness of a cell without a match is learnt only in images where every class is known: elsewhere an object of
    an unlabelled class may stand there. The same holds for cells inside ignored boxes. Where no image is fully labelled
    only the matched cells are learnt, with their IoU as the target.
    """

    assigner: RatioAssigner
    box_gain: float
    class_gain: float
    object_gain: float
    balance: tuple[float, ...]

    def __call__(self, output: AnchorBoxOutput, targets: BoxTargets) -> dict[str, LossTerm]:
        sums = [self._level(i, output, targets) for i in range(len(output.maps))]
        box, object_, class_ = (torch.stack(terms).sum() for terms in zip(*sums, strict=True))
        images = targets.known.any(dim=1).sum().float()
        scale = 3 / len(sums)
        crowded = 1.4 if len(sums) >= 4 else 1.0
        classes = targets.known.shape[1]
        return {
            "box": LossTerm(box * images, images, self.box_gain * scale),
            "object": LossTerm(object_ * images, images, self.object_gain * scale * crowded),
            "class": LossTerm(class_ * images, images, self.class_gain * classes / 80 * scale),
        }

    def _level(self, i: int, output: AnchorBoxOutput, targets: BoxTargets) -> tuple[Tensor, Tensor, Tensor]:
        """Means of 1 - CIoU, balanced objectness and class loss of one level."""
        raw, anchors, stride = output.maps[i], output.anchors_wh[i], output.strides[i]
        size = (raw.shape[2], raw.shape[3])
        match = self.assigner(size, stride, anchors, targets.wanted)
        truth = targets.wanted.select(match.box)
        rows = raw[match.cells].float()  # (M, 5 + K)
        overlap = overlaps(rows, match, anchors, stride, truth.boxes_xyxy)
        mask = object_mask(raw, stride, targets, match)
        return (
            mean(1 - overlap),
            object_loss(raw, match, overlap.detach().clamp(min=0), mask) * self.balance[min(i, len(self.balance) - 1)],
            class_loss(rows[:, 5:], truth.labels, targets.known[match.image]),
        )


def overlaps(rows: Tensor, match: Match, anchors_wh: Tensor, stride: int, truth_xyxy: Tensor) -> Tensor:
    """(M,) CIoU of matched rows (M, 5 + K) and their boxes (M, 4) in pixels.

    Seen from the cell and in strides: far from the origin the sides of a tiny box would drown in rounding.
    """
    unit = rows[:, :4].sigmoid()
    sizes = (unit[:, 2:] * 2) ** 2 * anchors_wh[match.anchor] / stride
    boxes = cxcywh_to_xyxy(torch.cat([unit[:, :2] * 2 - 0.5, sizes], dim=-1))
    return complete_iou_xyxy(boxes, truth_xyxy / stride - match.cell_xy().repeat(1, 2))


def object_mask(raw: Tensor, stride: int, targets: BoxTargets, match: Match) -> Tensor:
    """(B, A, H, W) bool: the cells whose objectness is known."""
    batch, count, height, width = raw.shape[:4]
    mask = targets.known.all(dim=1)[:, None, None].repeat(1, height, width)  # (B, H, W)
    if len(targets.ignored):
        rows = torch.arange(height, device=raw.device) + 0.5
        columns = torch.arange(width, device=raw.device) + 0.5
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        centers = torch.stack([x, y], dim=-1).reshape(-1, 2) * stride
        box, cell = inside(targets.ignored.boxes_xyxy, centers).nonzero(as_tuple=True)
        mask.view(batch, -1)[targets.ignored.image[box], cell] = False
    mask = mask[:, None].repeat(1, count, 1, 1)
    mask[match.cells] = True
    return mask


def object_loss(raw: Tensor, match: Match, overlap: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy of the objectness of known cells; the target of a matched cell is its overlap, (M,)."""
    logits = raw[..., 4].float()
    target = torch.zeros_like(logits)
    last = match.last(logits.shape)
    target[tuple(index[last] for index in match.cells)] = overlap[last]
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (losses * mask).sum() / mask.sum().clamp(min=1)


def class_loss(logits: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """Mean cross-entropy over the known classes of the matches. logits: (M, K); labels: (M,); known: (M, K)."""
    truth = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def mean(values: Tensor) -> Tensor:
    """The mean, or a zero that still touches the graph where there is nothing."""
    return values.sum() / max(len(values), 1)
