# SPDX-License-Identifier: Apache-2.0
"""The caption head: what an image shows as one vector, gathered from vectors of all its parts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from unified.contracts.protocols import Head, Modulate, Neighbours, Port
from unified.contracts.structures import EmbeddingOutput, Features, FeatureSpec
from unified.model.layers.conv import Conv


class CaptionHead(Head):
    """Fuses all levels on the coarsest one, where the whole of things is seen, and looks where it matters.

    Each level is reduced by a 1x1 convolution, averaged down to the coarsest one and summed; a 3x3 convolution mixes
    the sum. A 1x1 convolution makes a vector at every position; the image's is their mean, weighted by attention.

    Sites: ``pre.map`` (width) and ``post.map`` (outputs) around the vectors' convolution.

    Args:
        spec: the neck's levels.
        outputs: D, the width of the text encoder's vectors.
        width: channels of the fused map.
    """

    sites: Mapping[str, int]

    def __init__(self, spec: FeatureSpec, outputs: int, *, width: int = 256) -> None:
        super().__init__()
        self.stride = max(spec.strides)
        self.shrink = [self.stride // stride for stride in spec.strides]
        self.levels = spec.levels
        self.sites = {"pre.map": width, "post.map": outputs}
        self.reduce = nn.ModuleList(Conv(channels, width, act=False) for channels in spec.channels)
        self.fuse = Conv(width, width, kernel=3)
        self.to_map = nn.Conv2d(width, outputs, kernel_size=1)
        self.to_weight = nn.Conv2d(width, 1, kernel_size=1)

    def forward(self, features: Features, modulate: Modulate) -> EmbeddingOutput:
        parts = zip(self.reduce, features.maps, self.shrink, strict=True)
        reduced = [F.avg_pool2d(reduce(x), times) if times > 1 else reduce(x) for reduce, x, times in parts]
        fused = self.fuse(F.silu(torch.stack(reduced).sum(dim=0)))  # (B, width, H, W)
        vectors = modulate("post.map", self.to_map(modulate("pre.map", fused)))  # (B, D, H, W)
        weights = self.to_weight(fused).float().flatten(2).softmax(dim=-1)  # (B, 1, H * W)
        image = (vectors.float().flatten(2) * weights).sum(dim=-1)
        return EmbeddingOutput(image=F.normalize(image, dim=1), map=vectors, stride=self.stride)

    def neighbours(self, site: str) -> Neighbours:
        kind, _, name = site.partition(".")
        if kind == "align" and name in self.levels:
            conv = self.reduce[self.levels.index(name)]
            return Neighbours(after=(Port(conv.conv, conv.norm),))  # type: ignore[arg-type]
        if name != "map":
            return Neighbours()
        return Neighbours(after=(Port(self.to_map),)) if kind == "pre" else Neighbours(before=Port(self.to_map))
