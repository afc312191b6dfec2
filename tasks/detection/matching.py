# SPDX-License-Identifier: Apache-2.0
"""Bipartite matching: every box is given to one query, so that together they cost least.

Carion et al. 2020, DETR, eq. 1. Legend: L decoder layers, B images, Q queries, K classes, T boxes of the batch, M
matches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from unified.boxes import cxcywh_to_xyxy, generalized_iou_xyxy, xyxy_to_cxcywh
from unified.contracts.structures import QueryBoxOutput

from .targets import FlatBoxes

FOCAL_SHARE, FOCAL_POWER = 0.25, 2.0  # alpha and gamma (Lin et al. 2017, Focal Loss, eq. 5)


@dataclass(frozen=True)
class QueryMatch:
    """Which query learns which box, in which layer."""

    layer: Tensor  # (M,) int64
    image: Tensor  # (M,) int64
    query: Tensor  # (M,) int64, each at most once in a layer and an image
    box: Tensor  # (M,) int64 index into the T boxes

    @property
    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Indices into (L, B, Q, ...)."""
        return self.layer, self.image, self.query


@dataclass(frozen=True)
class HungarianMatcher:
    """Matches each layer and image on its own by class, L1 and GIoU costs (DETR eq. 1, section 3.1).

    The class cost is the focal loss a query saves by saying yes (Zhu et al. 2021, Deformable DETR, appendix A.3), since
    scores here are sigmoids and not shares of a softmax. Where an image holds more boxes than there are queries, those
    that fit worst go without.
    """

    class_cost: float = 2.0
    l1_cost: float = 5.0
    giou_cost: float = 2.0

    @torch.no_grad()
    def __call__(self, output: QueryBoxOutput, wanted: FlatBoxes) -> QueryMatch:
        """wanted: boxes of the batch in pixels of the output's ``size``."""
        numbers = [(wanted.image == i).nonzero().flatten() for i in range(output.class_logits.shape[1])]
        costs = [self.costs(output, i, wanted.select(index)) for i, index in enumerate(numbers)]
        found = [
            (layer, image, query, int(index[box]))
            for image, (cost, index) in enumerate(zip(to_cpu(costs), [n.cpu() for n in numbers], strict=True))
            for layer, table in enumerate(cost)
            for query, box in assign(table)
        ]
        columns = torch.tensor(found, dtype=torch.int64).reshape(-1, 4).to(wanted.image.device).unbind(1)
        return QueryMatch(*columns)

    def costs(self, output: QueryBoxOutput, image: int, wanted: FlatBoxes) -> Tensor:
        """(L, Q, T') cost of giving each of an image's T' boxes to each query."""
        logits = output.class_logits[:, image][..., wanted.labels].float()  # (L, Q, T')
        said = output.boxes_cxcywh[:, image, :, None].float()  # (L, Q, 1, 4)
        truth = normalised(wanted.boxes_xyxy, output.size)
        overlap = generalized_iou_xyxy(cxcywh_to_xyxy(said), cxcywh_to_xyxy(truth))
        distance = (said - truth).abs().sum(-1)
        saved = focal(logits, positive=True) - focal(logits, positive=False)
        return self.class_cost * saved + self.l1_cost * distance - self.giou_cost * overlap


def assign(costs: Tensor) -> list[tuple[int, int]]:
    """Pairs (row, column) of a cost table (Q, T) with the least sum; min(Q, T) of them.

    Numbers of a network that has diverged count as very dear, so that its loss, and not the matching, tells of it.
    """
    rows, columns = linear_sum_assignment(costs.nan_to_num(nan=1e9, posinf=1e9, neginf=-1e9).numpy())
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def to_cpu(tables: list[Tensor]) -> list[Tensor]:
    """Tables of any shapes on the CPU, by one transfer."""
    flat = torch.split(torch.cat([t.flatten() for t in tables]).cpu(), [t.numel() for t in tables])
    return [values.view(table.shape) for values, table in zip(flat, tables, strict=True)]


def normalised(boxes_xyxy: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (T, 4) in pixels -> cxcywh (T, 4) as shares of an image of ``size`` (height, width)."""
    height, width = size
    return xyxy_to_cxcywh(boxes_xyxy) / boxes_xyxy.new_tensor([width, height, width, height])


def focal(logits: Tensor, positive: bool) -> Tensor:
    """Focal loss of a yes or a no, element by element (Lin et al. 2017, eq. 5)."""
    if positive:
        return FOCAL_SHARE * (-logits).sigmoid() ** FOCAL_POWER * F.softplus(-logits)
    return (1 - FOCAL_SHARE) * logits.sigmoid() ** FOCAL_POWER * F.softplus(logits)
