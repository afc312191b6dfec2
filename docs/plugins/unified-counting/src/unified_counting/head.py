# SPDX-License-Identifier: Apache-2.0
"""The density head."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from unified.contracts.protocols import Head, Modulate, Neighbours, Port
from unified.contracts.structures import Features, FeatureSpec
from unified.model.layers.conv import Conv

from .answer import DensityOutput


class DensityHead(Head):
    """A density of objects for every class, on the finest level.

    Sites: ``pre.density`` (width) in front of the last convolution and ``post.density`` (outputs) behind it.

    Args:
        spec: the neck's levels; only the finest is read.
        outputs: K, the number of classes.
        width: channels of the two 3x3 convolutions before the last.
        start: objects a cell that the untrained head says.
    """

    protocol: ClassVar[int] = 1

    def __init__(self, spec: FeatureSpec, outputs: int, *, width: int = 64, start: float = 1e-3) -> None:
        super().__init__()
        finest = min(range(len(spec.strides)), key=lambda i: spec.strides[i])
        self.reads = (spec.levels[finest],)
        self.stride = spec.strides[finest]
        self.sites: Mapping[str, int] = {"pre.density": width, "post.density": outputs}
        self.first = Conv(spec.channels[finest], width, kernel=3)
        self.second = Conv(width, width, kernel=3)
        self.last = nn.Conv2d(width, outputs, kernel_size=1)
        nn.init.normal_(self.last.weight, std=0.01)
        nn.init.constant_(self.last.bias, math.log(math.expm1(start)))  # type: ignore[arg-type]

    def forward(self, features: Features, modulate: Modulate) -> DensityOutput:
        x = self.second(self.first(features.maps[0]))  # (B, width, H, W)
        x = modulate("post.density", self.last(modulate("pre.density", x)))  # (B, K, H, W)
        with torch.autocast(x.device.type, enabled=False):
            return DensityOutput(F.softplus(x.float()), self.stride)

    def neighbours(self, site: str) -> Neighbours:
        """All three layers are plain convolutions, so every z folds into them."""
        if site == f"align.{self.reads[0]}":
            return Neighbours(after=(Port(self.first.conv, self.first.norm),))  # type: ignore[arg-type]
        if site == "pre.density":
            return Neighbours(after=(Port(self.last),))
        return Neighbours(before=Port(self.last)) if site == "post.density" else Neighbours()
