# SPDX-License-Identifier: Apache-2.0
"""Values of a map between its cells, by integer gathers alone, so that the gradient is deterministic on CUDA too."""

from __future__ import annotations

import torch
from torch import Tensor


def box_points(boxes_xyxy: Tensor, grid: int) -> Tensor:
    """(N, 4) boxes -> (N, grid², 2) the middles of equal parts."""
    steps = (torch.arange(grid, device=boxes_xyxy.device) + 0.5) / grid - 0.5
    offsets = torch.cartesian_prod(steps, steps)
    low, high = boxes_xyxy[:, None, :2], boxes_xyxy[:, None, 2:]
    return (low + high) / 2 + offsets * (high - low)


def sample(maps: Tensor, image: Tensor, cells_xy: Tensor) -> Tensor:
    """Bilinear values of maps (B, C, H, W) at cells_xy (N, S, 2) of images (N,) -> (N, S, C) float32; edges repeat."""
    height, width = maps.shape[-2:]
    rows = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1]).float()  # (B * H * W, C)
    # Not new_tensor, which a graph traced for any size would keep as it was for the example's size.
    last = {"dtype": cells_xy.dtype, "device": maps.device}
    limit = torch.stack([torch.full((), side - 1, **last) for side in (width, height)])  # type: ignore[call-overload]
    cells = torch.minimum(cells_xy.clamp(min=0), limit)
    low = cells.floor()
    high = torch.minimum(low + 1, limit)
    (fx, fy), (x0, y0), (x1, y1) = (t.unbind(-1) for t in (cells - low, low.long(), high.long()))
    start = (image * height)[:, None]
    values = torch.zeros(1, device=maps.device)
    for y, weight_y in ((y0, 1 - fy), (y1, fy)):
        for x, weight_x in ((x0, 1 - fx), (x1, fx)):
            values = values + rows[(start + y) * width + x] * (weight_x * weight_y)[..., None]
    return values
