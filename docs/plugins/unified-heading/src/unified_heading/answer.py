# SPDX-License-Identifier: Apache-2.0
"""What the head answers, and what a person is told.

Legend: B images, N boxes of an image, H W height and width of the map. An angle of 0 points right, 90 points down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from unified.contracts.answer import Answer
from unified.contracts.sampling import box_points, sample
from unified.contracts.structures import Frame

ARROW, HALO = (240, 228, 66), (24, 26, 30)
GRID = 3  # parts of a box's side at whose middles the map is read


@dataclass(frozen=True)
class HeadingOutput:
    """A direction at every place, of any length."""

    map: Tensor  # (B, 2, H, W): x and y
    stride: int  # pixels a cell

    def at(self, boxes_xyxy: Sequence[Tensor]) -> Tensor:
        """Unit vectors (N, 2) float32 of all boxes, image after image, with gradients to the map.

        boxes_xyxy: for each image (N_i, 4) pixels of the input.
        """
        boxes = torch.cat([each.to(self.map.device, torch.float32) for each in boxes_xyxy])
        counts = torch.tensor([len(each) for each in boxes_xyxy])
        image = torch.repeat_interleave(torch.arange(len(counts)), counts).to(self.map.device)
        read = sample(self.map, image, box_points(boxes, GRID) / self.stride - 0.5)  # (N, GRID², 2)
        return F.normalize(read.mean(dim=1), dim=1)


@dataclass(frozen=True)
class Headings(Answer):
    """A direction for every box of an image."""

    vectors: Tensor  # (N, 2) unit length: x to the right, y down
    boxes_xyxy: Tensor  # (N, 4) pixels

    @property
    def degrees(self) -> Tensor:
        """(N,) in -180..180."""
        return torch.rad2deg(torch.atan2(self.vectors[:, 1], self.vectors[:, 0]))

    def in_frame(self, frame: Frame) -> Self:
        """A picture stretched more one way than the other turns what it shows."""
        stretched = self.vectors / self.vectors.new_tensor(frame.scale)
        return replace(self, vectors=F.normalize(stretched, dim=1), boxes_xyxy=frame.to_original(self.boxes_xyxy))

    def select(self, index: Tensor) -> Self:
        return replace(self, vectors=self.vectors[index], boxes_xyxy=self.boxes_xyxy[index])

    def to_dict(self) -> dict[str, Any]:
        """As JSON: an angle for each box, in their order."""
        return {"degrees": [round(value, 1) for value in self.degrees.tolist()]}

    def caption(self) -> str:
        return ", ".join(f"{value:.0f}°" for value in self.degrees.tolist()[:6])

    def drawn_on(self, picture: Image.Image) -> Image.Image:
        """An arrow in the middle of every box."""
        drawn = picture.convert("RGB")
        ink = ImageDraw.Draw(drawn)
        for box, (dx, dy) in zip(self.boxes_xyxy.tolist(), self.vectors.tolist(), strict=True):
            half = 0.4 * min(box[2] - box[0], box[3] - box[1])
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            _arrow(ink, (x - half * dx, y - half * dy), (x + half * dx, y + half * dy), max(1, round(half / 8)))
        return drawn


def _arrow(ink: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], width: int) -> None:
    angle, barb = math.atan2(end[1] - start[1], end[0] - start[0]), 4.0 * width + 2
    ends = [(end[0] - barb * math.cos(angle + a), end[1] - barb * math.sin(angle + a)) for a in (0.5, -0.5)]
    for color, wide in ((HALO, width + 2), (ARROW, width)):
        for line in ((start, end), (ends[0], end), (ends[1], end)):
            ink.line(line, fill=color, width=wide)
