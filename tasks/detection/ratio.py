# SPDX-License-Identifier: Apache-2.0
"""Assignment by the ratio of sides: an anchor learns a box whose shape it resembles, in the cells around its centre.

Legend: B images, A anchors a cell, T boxes of the batch, M matches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .targets import FlatBoxes


@dataclass(frozen=True)
class Match:
    """Cells of one level that learn a box."""

    image: Tensor  # (M,) int64
    anchor: Tensor  # (M,) int64
    row: Tensor  # (M,) int64
    column: Tensor  # (M,) int64
    box: Tensor  # (M,) int64 index into the T boxes

    @property
    def cells(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Index into a map (B, A, H, W, ...)."""
        return self.image, self.anchor, self.row, self.column

    def cell_xy(self) -> Tensor:
        """(M, 2) column and row as numbers."""
        return torch.stack([self.column, self.row], dim=-1).float()

    def last(self, shape: torch.Size) -> Tensor:
        """Mask (M,) of the matches no later match shares its cell with. shape: of a map (B, A, H, W).

        The published loss lets the later of two boxes in one cell set the objectness; said like this the outcome is the
        same on every device.
        """
        _, anchors, height, width = shape
        place = ((self.image * anchors + self.anchor) * height + self.row) * width + self.column
        number = torch.arange(len(place), device=place.device)
        return number == number.new_full((shape.numel(),), -1).scatter_reduce(0, place, number, "amax")[place]


@dataclass(frozen=True)
class RatioAssigner:
    """Matches an anchor with every box whose width and height differ from its own by a factor below ``limit``.

    Each match stands in the cell of the box's centre and in the nearest neighbour in x and in y, as far as they exist
    (YOLOR's training recipe). Levels match independently, so a box may be learnt on several.
    """

    limit: float = 4.0

    @torch.no_grad()
    def __call__(self, size: tuple[int, int], stride: int, anchors_wh: Tensor, wanted: FlatBoxes) -> Match:
        """size: (H, W) of the level; anchors_wh: (A, 2) pixels."""
        low, high = wanted.boxes_xyxy[:, :2], wanted.boxes_xyxy[:, 2:]
        ratio = (high - low) / anchors_wh[:, None]  # (A, T, 2)
        anchor, box = (torch.maximum(ratio, 1 / ratio).amax(-1) < self.limit).nonzero(as_tuple=True)
        centers = ((low + high) / 2 / stride)[box]  # in cells
        limit = centers.new_tensor([size[1], size[0]])
        pair, cell = cells_around(centers, limit)
        return Match(
            image=wanted.image[box[pair]], anchor=anchor[pair], row=cell[:, 1], column=cell[:, 0], box=box[pair]
        )


def cells_around(centers_xy: Tensor, limit_xy: Tensor) -> tuple[Tensor, Tensor]:
    """The cell of each centre, then its nearest neighbours left, up, right and down within the map.

    centers_xy: (N, 2) in cells; limit_xy: (2,) columns and rows. Returns indices (M,) into N, and cells (M, 2) int64.
    """
    back = limit_xy - centers_xy  # the same, counted from the right and the bottom
    near_low = (centers_xy % 1 < 0.5) & (centers_xy > 1)
    near_high = (back % 1 < 0.5) & (back > 1)
    stands = torch.cat([torch.ones_like(near_low[:, :1]), near_low, near_high], dim=1).T  # (5, N)
    shifts = centers_xy.new_tensor([[0, 0], [-0.5, 0], [0, -0.5], [0.5, 0], [0, 0.5]])
    direction, index = stands.nonzero(as_tuple=True)
    cell = (centers_xy[index] + shifts[direction]).long()
    return index, torch.minimum(cell.clamp(min=0), limit_xy.long() - 1)
