# SPDX-License-Identifier: Apache-2.0
"""A light anchor-free detection head: at every point of every level a box, as distributions, and class scores."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Head, Modulate, Neighbours, Port
from unified.contracts.structures import Features, FeatureSpec, PointBoxOutput
from unified.model.layers.conv import Conv


class Branch(nn.Module):
    """Convolutions of one level for one question, ended by a 1x1 convolution between two sites."""

    def __init__(self, width: int, depth: int, site: str, bias: Tensor) -> None:
        super().__init__()
        self.site = site
        self.convs = nn.Sequential(*(Conv(width, width, 3) for _ in range(depth)))
        self.out = nn.Conv2d(width, len(bias), 1)
        self.out.bias = nn.Parameter(bias.clone())

    def forward(self, x: Tensor, modulate: Modulate) -> Tensor:
        """(B, width, H, W) -> (B, H * W, outputs)."""
        x = modulate(f"pre.{self.site}", self.convs(x))
        x = modulate(f"post.{self.site}", self.out(x))
        return x.flatten(2).transpose(1, 2)


class DetectFree(Head):
    """Decoupled, anchor-free detection head over all levels of a neck, light enough to cost less than its trunk.

    Every level is first narrowed to ``width`` by a 1x1 convolution; two branches of ``depth`` 3x3 convolutions then
    answer where and what (decoupling: Ge et al. 2021, YOLOX, section 2.1; distances as distributions: Li et al. 2020,
    Generalized Focal Loss, eq. 3-5). Sites: ``pre.{level}.box`` and ``pre.{level}.cls`` (``width`` channels) in front
    of each branch's last 1x1 convolution, ``post.{level}.box`` and ``post.{level}.cls`` behind it.

    Args:
        spec: what the neck hands over.
        outputs: K classes.
        width: channels of the branches; None: half of the narrowest level's, at least 16.
        depth: 3x3 convolutions a branch.
        bins: categories of a side's distance, in strides: a side reaches at most ``bins - 1`` strides.
        reach: expected side distance in strides before any training; None: 3, or a quarter of the range if less.
        objects: objects an image is expected to hold before any training; sets the class bias (see :func:`prior`).
    """

    def __init__(
        self,
        spec: FeatureSpec,
        outputs: int,
        *,
        width: int | None = None,
        depth: int = 2,
        bins: int = 16,
        reach: float | None = None,
        objects: float = 5.0,
    ) -> None:
        super().__init__()
        reach = min(3.0, (bins - 1) / 4) if reach is None else reach
        if outputs < 1 or bins < 2 or not 0 < reach < (bins - 1) / 2:
            raise ConfigError(
                f"detect_free needs outputs >= 1, bins >= 2 and 0 < reach < (bins - 1) / 2; "
                f"got outputs={outputs}, bins={bins}, reach={reach}"
            )
        width = width or max(16, min(spec.channels) // 2)
        self.outputs, self.bins, self.levels = outputs, bins, spec.levels
        self.narrow = nn.ModuleList(Conv(channels, width, 1) for channels in spec.channels)
        sides = falling_logits(bins, reach).repeat(4)
        self.box = nn.ModuleList(Branch(width, depth, f"{level}.box", sides) for level in spec.levels)
        self.cls = nn.ModuleList(
            Branch(width, depth, f"{level}.cls", torch.full((outputs,), prior(objects, outputs, stride)))
            for level, stride in zip(spec.levels, spec.strides, strict=True)
        )
        self.sites: Mapping[str, int] = {
            f"{place}.{level}.{kind}": channels
            for level in spec.levels
            for place, kind, channels in (
                ("pre", "box", width),
                ("pre", "cls", width),
                ("post", "box", 4 * bins),
                ("post", "cls", outputs),
            )
        }

    def forward(self, features: Features, modulate: Modulate) -> PointBoxOutput:
        """Features of the levels the head was built for -> one box and K class logits at each of the P points."""
        sides, classes, points, strides = [], [], [], []
        for i, (x, stride) in enumerate(zip(features.maps, features.strides, strict=True)):
            x = self.narrow[i](x)
            sides.append(self.box[i](x, modulate))
            classes.append(self.cls[i](x, modulate))
            points.append(grid_points(x, stride))
            strides.append(points[-1].new_full((points[-1].shape[0],), stride))
        return PointBoxOutput(
            side_logits=torch.cat(sides, 1),
            class_logits=torch.cat(classes, 1),
            points_xy=torch.cat(points),
            strides=torch.cat(strides),
            bins=self.bins,
        )

    def neighbours(self, site: str) -> Neighbours:
        place, _, where = site.partition(".")
        level, _, kind = where.partition(".")
        if level not in self.levels:
            return Neighbours()
        i = self.levels.index(level)
        if place == "align":
            conv = self.narrow[i]
            return Neighbours(after=(Port(conv.conv, conv.norm),))  # type: ignore[arg-type]
        last = Port((self.box if kind == "box" else self.cls)[i].out)  # type: ignore[arg-type]
        return Neighbours(after=(last,)) if place == "pre" else Neighbours(before=last)

    def roles(self, site: str) -> tuple[str, ...] | None:
        """Behind the last convolutions: the side a bin of ``post.{level}.box`` speaks of, ``cls`` for class logits."""
        if not site.startswith("post."):
            return None
        if site.endswith(".box"):
            return tuple(side for side in ("left", "top", "right", "bottom") for _ in range(self.bins))
        return ("cls",) * self.outputs


def grid_points(x: Tensor, stride: int) -> Tensor:
    """Centres of the cells of a map (B, C, H, W) in pixels: (H * W, 2) float32, row by row."""
    height, width = x.shape[-2:]
    rows = (torch.arange(height, device=x.device, dtype=torch.float32) + 0.5) * stride
    columns = (torch.arange(width, device=x.device, dtype=torch.float32) + 0.5) * stride
    y, x_ = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x_, y], dim=-1).reshape(-1, 2)


def prior(objects: float, classes: int, stride: int) -> float:
    """Logit of a class at a point when an image of 640 pixels holds ``objects`` objects, one point each."""
    chance = min(objects / classes / (640 / stride) ** 2, 0.01)
    return math.log(chance / (1 - chance))


def falling_logits(bins: int, mean: float) -> Tensor:
    """(bins,) evenly falling logits whose softmax has this mean.

    A constant bias would start every box at (bins - 1) / 2 strides a side, far above the size at which a level's
    objects are learnt best, and the assigner would begin with poor overlaps.
    """
    steps = torch.arange(bins, dtype=torch.float64)
    low, high = 0.0, 20.0
    for _ in range(60):  # bisection: the mean falls as the slope grows
        slope = (low + high) / 2
        too_far = float(((-slope * steps).softmax(0) * steps).sum()) > mean
        low, high = (slope, high) if too_far else (low, slope)
    return (-slope * steps).float()
