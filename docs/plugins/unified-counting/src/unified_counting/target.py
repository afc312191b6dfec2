# SPDX-License-Identifier: Apache-2.0
"""From boxes to densities (Lempitsky and Zisserman 2010, Learning To Count Objects in Images, section 2).

Legend: N boxes, K classes, H W height and width of the map in cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unified.contracts.structures import Annotations, LabelState, known


def counted(annotations: Annotations, task: str, classes: int) -> tuple[Tensor, Tensor]:
    """True counts (K,) float32, and which of them are known (K,) bool.

    A class is known where its state is, and no ignored box (a crowd, a difficult object) may hold more of it.
    """
    states = annotations.states.get(task)
    if states is None:
        return torch.zeros(classes), torch.zeros(classes, dtype=torch.bool)
    sure = annotations.box_states == LabelState.POSITIVE
    counts = torch.bincount(annotations.box_labels[sure], minlength=classes).float()
    unsure = torch.bincount(annotations.box_labels[~sure], minlength=classes) > 0
    return counts, known(states) & ~unsure


def density(annotations: Annotations, classes: int, shape: tuple[int, int], stride: int, spread: float) -> Tensor:
    """(K, H, W) float32: each object a bell of sum 1 over its box's middle, as wide as ``spread`` times the box."""
    sure = annotations.box_states == LabelState.POSITIVE
    boxes, labels = annotations.boxes_xyxy[sure], annotations.box_labels[sure]
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2 / stride - 0.5  # cells
    sigma = (spread * (boxes[:, 2:] - boxes[:, :2]) / stride).clamp(min=0.5)
    rows = _bells(middles[:, 1], sigma[:, 1], shape[0])  # (N, H)
    columns = _bells(middles[:, 0], sigma[:, 0], shape[1])  # (N, W)
    target = torch.zeros(classes, *shape)
    return target.index_add_(0, labels, rows[:, :, None] * columns[:, None, :])


def _bells(middle: Tensor, sigma: Tensor, cells: int) -> Tensor:
    """(N, cells), each row of sum 1: what lies beyond the map's border belongs to the cells inside."""
    away = (torch.arange(cells) - middle.clamp(0, cells - 1)[:, None]) / sigma[:, None]
    return (-0.5 * away.square()).softmax(dim=1)
