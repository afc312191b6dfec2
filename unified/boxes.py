# SPDX-License-Identifier: Apache-2.0
"""Box geometry: pure functions on tensors. The form of the coordinates is in every name; units are pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """(..., 4) corners -> (..., 4) centre, width, height."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """(..., 4) centre, width, height -> (..., 4) corners."""
    centers, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat([centers - half, centers + half], dim=-1)


def area_xyxy(boxes_xyxy: Tensor) -> Tensor:
    """(..., 4) -> (...) area; zero for a box turned inside out."""
    return (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0).prod(dim=-1)


def iou_xyxy(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes that broadcast against each other: (..., 4), (..., 4) -> (...)."""
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    overlap = (high - low).clamp(min=0).prod(dim=-1)
    return overlap / (area_xyxy(a) + area_xyxy(b) - overlap).clamp(min=1e-9)


def generalized_iou_xyxy(a: Tensor, b: Tensor) -> Tensor:
    """GIoU of boxes that broadcast against each other, (..., 4), (..., 4) -> (...), in (-1, 1].

    IoU less the share of the enclosing box that neither fills (Rezatofighi et al. 2019, algorithm 1).
    """
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    overlap = sides.clamp(min=0).prod(dim=-1)
    union = area_xyxy(a) + area_xyxy(b) - overlap
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(dim=-1)
    return overlap / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)


def complete_iou_xyxy(a: Tensor, b: Tensor) -> Tensor:
    """CIoU of boxes that broadcast against each other, (..., 4), (..., 4) -> (...), in (-2, 1].

    IoU less the squared centre distance over the enclosing diagonal, less the weighted difference of aspect ratios;
    the weight carries no gradient (Zheng et al. 2020, Distance-IoU Loss, eq. 7-11).
    """
    iou = iou_xyxy(a, b)
    size_a, size_b = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    centers = ((a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2).square().sum(-1)
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    diagonal = hull.square().sum(-1).clamp(min=1e-9)
    angle_a = torch.atan2(size_a[..., 0], size_a[..., 1].clamp(min=1e-9))
    angle_b = torch.atan2(size_b[..., 0], size_b[..., 1].clamp(min=1e-9))
    aspect = (4 / math.pi**2) * (angle_a - angle_b).square()
    with torch.no_grad():
        weight = aspect / (1 - iou + aspect).clamp(min=1e-9)
    return iou - centers / diagonal - weight * aspect


def clip_xyxy(boxes_xyxy: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) clipped to an image of ``size`` (height, width)."""
    height, width = size
    limit = boxes_xyxy.new_tensor([width, height, width, height])
    return torch.minimum(boxes_xyxy.clamp(min=0), limit)
