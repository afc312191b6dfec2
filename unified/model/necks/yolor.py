# SPDX-License-Identifier: Apache-2.0
"""The neck of the published Scaled-YOLOv4 and YOLOR networks: SPP, then path aggregation, all cross-stage-partial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Neck
from unified.contracts.structures import Features, FeatureSpec
from unified.model.attention import LevelAttention
from unified.model.layers.conv import Conv
from unified.model.layers.csp import NeckCSPBlock
from unified.model.layers.down import DownC
from unified.model.layers.spp import SPPCSP


class YOLORNeck(Neck):
    """Top-down, then bottom-up (Liu et al. 2018, PANet), with CSP blocks (Wang et al. 2021, Scaled-YOLOv4, 3.1).

    Args:
        spec: levels of the backbone, fine to coarse.
        channels: output channels per level; None: half of the backbone's.
        depth: bottlenecks in each CSP block.
        spp_depth: pairs of convolutions behind the pools of the coarsest level.
        joint_norm: whether a CSP block normalises both branches together (YOLOR-E6, -D6).
        downc: whether levels are halved by a strided convolution and a pool (YOLOR-E6, -D6).
        attention: blocks behind chosen levels, such as ``{p5: nonlocal}``.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        channels: Sequence[int] | None = None,
        depth: int = 2,
        *,
        spp_depth: int = 1,
        joint_norm: bool = False,
        downc: bool = False,
        attention: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        out = tuple(channels or (c // 2 for c in spec.channels))
        if len(out) != len(spec.channels):
            raise ConfigError(f"neck: {len(out)} channels for {len(spec.channels)} levels; give one for each level")
        finer, coarser = out[:-1], out[1:]
        self.entry = SPPCSP(spec.channels[-1], out[-1], spp_depth, joint_norm)
        self.reduce = nn.ModuleList(Conv(c, f) for f, c in zip(finer, coarser, strict=True))
        self.lateral = nn.ModuleList(Conv(b, f) for b, f in zip(spec.channels, finer, strict=False))
        self.down_mix = nn.ModuleList(NeckCSPBlock(2 * f, f, depth, joint_norm) for f in finer)
        self.stride = nn.ModuleList(
            DownC(f, c) if downc else Conv(f, c, 3, stride=2) for f, c in zip(finer, coarser, strict=True)
        )
        self.up_mix = nn.ModuleList(NeckCSPBlock(2 * c, c, depth, joint_norm) for c in coarser)
        self.spec = FeatureSpec(spec.levels, out, spec.strides)
        self.attention = LevelAttention(dict(zip(spec.levels, out, strict=True)), attention)

    def forward(self, features: Features) -> Features:
        mixed = features.with_maps(self._bottom_up(self._top_down(features.maps)))
        return mixed.with_maps(tuple(self.attention.at(level, x) for level, x in mixed))

    def _top_down(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Every level told of the coarser ones; finest first."""
        mixed = [self.entry(maps[-1])]
        for i in reversed(range(len(maps) - 1)):
            up = interpolate(self.reduce[i](mixed[0]), size=maps[i].shape[-2:], mode="nearest")
            mixed.insert(0, self.down_mix[i](torch.cat([self.lateral[i](maps[i]), up], dim=1)))
        return mixed

    def _bottom_up(self, mixed: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Every level told of the finer ones; finest first."""
        out = [mixed[0]]
        for i, level in enumerate(mixed[1:]):
            out.append(self.up_mix[i](torch.cat([self.stride[i](out[-1]), level], dim=1)))
        return tuple(out)
