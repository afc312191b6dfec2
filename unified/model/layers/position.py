# SPDX-License-Identifier: Apache-2.0
"""Sine encodings of places, by which attention knows where a feature stands.

Vaswani et al. 2017, section 3.5, for continuous places in [0, 1]. Legend: D channels of an encoding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 20.0  # of boxes and maps (Liu et al. 2022, DAB-DETR, section 4.4); 10000 was made for words in a text


def sine(places: Tensor, width: int, temperature: float = TEMPERATURE) -> Tensor:
    """Sines and cosines of places (...) in [0, 1] at ``width / 2`` frequencies: (..., width) float32.

    A place's channels are sin(2 pi p / t^(2i / width)) and, in the second half, the cosines; ``width`` must be even.
    """
    half = width // 2
    steps = torch.arange(half, device=places.device, dtype=torch.float32) / half
    angles = places.float()[..., None] * (2 * math.pi) / temperature**steps
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def sine_xy(points: Tensor, width: int) -> Tensor:
    """Places (..., 2) as x, y in [0, 1] -> (..., width): y in the first half of the channels, x in the second."""
    return torch.cat([sine(points[..., 1], width // 2), sine(points[..., 0], width // 2)], dim=-1)


def sine_boxes(boxes_cxcywh: Tensor, width: int) -> Tensor:
    """Boxes (..., 4) in [0, 1] -> (..., 2 * width): centre, then size (Liu et al. 2022, DAB-DETR, eq. 3)."""
    return torch.cat([sine_xy(boxes_cxcywh[..., :2], width), sine_xy(boxes_cxcywh[..., 2:], width)], dim=-1)


def cells_xy(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Middles of the cells of a map as x, y in [0, 1], row by row: (height * width, 2) float32."""
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows], dim=-1).reshape(-1, 2)
