# SPDX-License-Identifier: Apache-2.0
"""The embedding head: one vector an image, and a dense map from which the vector of any box is read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unified.contracts.protocols import Head, Modulate, Neighbours, Port
from unified.contracts.structures import EmbeddingOutput, Features, FeatureSpec
from unified.model.layers.conv import Conv


class EmbedHead(Head):
    """Fuses all levels on the finest one, where small objects still show their pattern and colours.

    Each level is reduced by a 1x1 convolution; from the coarsest on, the sum so far is enlarged to the next level's
    size and added to it. A depthwise-separable 3x3 convolution mixes the result: on the finest level, the dearest
    there is, it takes an eighth of the multiplications of a full one and tells identities apart as well. From it a 1x1
    convolution makes the dense map, and the mean and the maximum over all positions the image vector. Coarser levels
    start with a gain of zero: what tells identities apart is learned faster from the finest level first, and the
    others join as far as they help.

    Sites: ``pre.map`` (width) and ``post.map`` (outputs) around the dense map's convolution, ``pre.image`` (2 * width)
    and ``post.image`` (outputs) around the image vector's.

    Args:
        spec: the neck's levels.
        outputs: D, the width of the embedding.
        width: channels of the fused map.
    """

    sites: Mapping[str, int]

    def __init__(self, spec: FeatureSpec, outputs: int, *, width: int = 48) -> None:
        super().__init__()
        self.order = sorted(range(len(spec.strides)), key=lambda level: -spec.strides[level])  # the coarsest first
        self.stride = min(spec.strides)
        self.levels = spec.levels
        self.sites = {"pre.map": width, "post.map": outputs, "pre.image": 2 * width, "post.image": outputs}
        self.reduce = nn.ModuleList(Conv(channels, width, act=False) for channels in spec.channels)
        self.fuse = nn.Sequential(Conv(width, width, kernel=3, groups=width, act=False), Conv(width, width))
        self.to_map = nn.Conv2d(width, outputs, kernel_size=1)
        self.to_image = nn.Linear(2 * width, outputs)
        for level, conv in enumerate(self.reduce):
            nn.init.constant_(conv.norm.weight, float(level == self.order[-1]))  # type: ignore[union-attr,arg-type]

    def forward(self, features: Features, modulate: Modulate) -> EmbeddingOutput:
        fused = self.fuse(F.silu(self._sum_levels(features.maps)))  # (B, width, H, W)
        pooled = torch.cat([fused.mean(dim=(2, 3)), _peak(fused)], dim=1)  # (B, 2 * width)
        image = modulate("post.image", self.to_image(modulate("pre.image", pooled)))
        return EmbeddingOutput(
            image=F.normalize(image.float(), dim=1),
            map=modulate("post.map", self.to_map(modulate("pre.map", fused))),
            stride=self.stride,
        )

    def neighbours(self, site: str) -> Neighbours:
        kind, _, name = site.partition(".")
        if kind == "align" and name in self.levels:
            conv = self.reduce[self.levels.index(name)]
            return Neighbours(after=(Port(conv.conv, conv.norm),))  # type: ignore[arg-type]
        last = {"map": self.to_map, "image": self.to_image}.get(name)
        if last is None:
            return Neighbours()
        return Neighbours(after=(Port(last),)) if kind == "pre" else Neighbours(before=Port(last))

    def _sum_levels(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Every level, enlarged to the finest one's size: (B, width, H, W)."""
        coarsest, *finer = self.order
        total: Tensor = self.reduce[coarsest](maps[coarsest])
        for level in finer:
            x = self.reduce[level](maps[level])
            total = x + F.interpolate(total, size=x.shape[-2:], mode="nearest")
        return total


def _peak(x: Tensor) -> Tensor:
    """The maximum over all positions: (B, C, H, W) -> (B, C); four times as fast where nothing is to be learned.

    The pool's backward pass on CUDA is not deterministic, and gives a tie's gradient to one position alone.
    """
    return x.amax(dim=(2, 3)) if torch.is_grad_enabled() else F.adaptive_max_pool2d(x, 1).flatten(1)
