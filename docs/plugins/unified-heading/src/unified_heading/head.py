# SPDX-License-Identifier: Apache-2.0
"""The heading head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Head, Modulate, Neighbours, Port
from unified.contracts.structures import Features, FeatureSpec
from unified.model.layers.conv import Conv

from .answer import HeadingOutput


class HeadingHead(Head):
    """A direction at every place of the finest level.

    Sites: ``pre.map`` (width) in front of the last convolution and ``post.map`` (2) behind it.

    Args:
        spec: the neck's levels; only the finest is read.
        outputs: 2, the coordinates of a direction.
        width: channels of the two 3x3 convolutions before the last.

    Raises:
        ConfigError: a task that asks for anything but a direction.
    """

    protocol: ClassVar[int] = 1

    def __init__(self, spec: FeatureSpec, outputs: int, *, width: int = 64) -> None:
        super().__init__()
        if outputs != 2:
            raise ConfigError(f"heading head: gives directions (2 numbers), the task asks for {outputs}")
        finest = min(range(len(spec.strides)), key=lambda i: spec.strides[i])
        self.reads = (spec.levels[finest],)
        self.stride = spec.strides[finest]
        self.sites: Mapping[str, int] = {"pre.map": width, "post.map": outputs}
        self.first = Conv(spec.channels[finest], width, kernel=3)
        self.second = Conv(width, width, kernel=3)
        self.last = nn.Conv2d(width, outputs, kernel_size=1)

    def forward(self, features: Features, modulate: Modulate) -> HeadingOutput:
        x = self.second(self.first(features.maps[0]))  # (B, width, H, W)
        return HeadingOutput(modulate("post.map", self.last(modulate("pre.map", x))), self.stride)

    def neighbours(self, site: str) -> Neighbours:
        """All three layers are plain convolutions, so every z folds into them."""
        if site == f"align.{self.reads[0]}":
            return Neighbours(after=(Port(self.first.conv, self.first.norm),))  # type: ignore[arg-type]
        if site == "pre.map":
            return Neighbours(after=(Port(self.last),))
        return Neighbours(before=Port(self.last)) if site == "post.map" else Neighbours()
