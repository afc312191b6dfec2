# SPDX-License-Identifier: Apache-2.0
"""Boxes as a detector would give them: near the truth, never on it."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor


def jittered(boxes_xyxy: Tensor, amount: float, key: str) -> Tensor:
    """Boxes (N, 4) whose centres are moved and whose sides are stretched by up to ``amount`` of their sides.

    A pure function of its arguments: the draw is seeded by ``key`` and the boxes themselves. The same image gets the
    same jitter in any batch and on any rank, and another one whenever augmentation moved its boxes.
    """
    if amount == 0 or len(boxes_xyxy) == 0:
        return boxes_xyxy
    boxes = boxes_xyxy.detach().cpu().float().contiguous()
    generator = torch.Generator().manual_seed(zlib.crc32(boxes.numpy().tobytes(), zlib.crc32(key.encode())))
    draw = (torch.rand(len(boxes), 4, generator=generator) * 2 - 1) * amount
    low, high = boxes[:, :2], boxes[:, 2:]
    centers = (low + high) / 2 + draw[:, :2] * (high - low)
    half = (high - low) / 2 * (1 + draw[:, 2:])
    return torch.cat([centers - half, centers + half], dim=1).to(boxes_xyxy)
