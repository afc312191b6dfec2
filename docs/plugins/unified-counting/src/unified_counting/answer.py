# SPDX-License-Identifier: Apache-2.0
"""What the head answers, and what a person is told.

Legend: B images, K classes, H W height and width of the density map in cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unified.contracts.answer import Answer
from unified.contracts.structures import Frame

HEAT = (255, 92, 0)
INK, PAPER = (24, 26, 30), (250, 250, 250)


@dataclass(frozen=True)
class DensityOutput:
    """Objects a cell, by class; their sum over the map is the count."""

    density: Tensor  # (B, K, H, W), not negative
    stride: int  # pixels a cell

    @property
    def counts(self) -> Tensor:
        """(B, K) float32."""
        return self.density.float().sum(dim=(2, 3))


@dataclass(frozen=True)
class Counts(Answer):
    """How many objects of each class an image shows, and where they are dense."""

    counts: Tensor  # (K,) not negative
    names: tuple[str, ...]  # K
    density: Tensor | None = None  # (H, W) of all classes together; None of a known truth
    origin: tuple[float, float] = (0.0, 0.0)  # pixels: the map's corner, x and y
    cell: tuple[float, float] = (1.0, 1.0)  # pixels: width and height of a cell

    @property
    def total(self) -> float:
        """Objects of all classes."""
        return float(self.counts.sum())

    def in_frame(self, frame: Frame) -> Self:
        x, y = ((a - b) / s for a, b, s in zip(self.origin, frame.offset, frame.scale, strict=True))
        width, height = (side / s for side, s in zip(self.cell, frame.scale, strict=True))
        return replace(self, origin=(x, y), cell=(width, height))

    def to_dict(self) -> dict[str, Any]:
        """As JSON: the total, and each class of which there is half an object or more."""
        pairs = zip(self.names, self.counts.tolist(), strict=True)
        return {"total": round(self.total, 2), "counts": {name: round(n, 2) for name, n in pairs if n >= 0.5}}

    def caption(self) -> str:
        return f"{self.total:.1f} objects"

    def drawn_on(self, picture: Image.Image) -> Image.Image:
        """The density as heat over the picture, and the total in a corner."""
        drawn = picture.convert("RGB")
        if self.density is not None:
            drawn.paste(Image.new("RGB", drawn.size, HEAT), (0, 0), self._heat(drawn.size))
        ink = ImageDraw.Draw(drawn)
        font = ImageFont.load_default(max(11, round(max(drawn.size) / 26)))
        box = ink.textbbox((6, 4), self.caption(), font=font)
        ink.rectangle((box[0] - 4, box[1] - 3, box[2] + 4, box[3] + 3), fill=INK)
        ink.text((6, 4), self.caption(), fill=PAPER, font=font)
        return drawn

    def _heat(self, size: tuple[int, int]) -> Image.Image:
        """How strongly the heat covers each pixel, for a picture of ``size`` (width, height)."""
        assert self.density is not None
        values = self.density.float().cpu().numpy()
        levels = (170 * values / max(float(values.max()), 1e-6)).astype(np.uint8)
        rows, columns = values.shape
        sides = (max(1, round(columns * self.cell[0])), max(1, round(rows * self.cell[1])))
        mask = Image.new("L", size, 0)
        place = (round(self.origin[0]), round(self.origin[1]))
        mask.paste(Image.fromarray(levels).resize(sides, Image.Resampling.BICUBIC), place)
        return mask
