# SPDX-License-Identifier: Apache-2.0
"""Path aggregation (Liu et al. 2018, PANet) with CSP blocks: top-down, then bottom-up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate

from unified.contracts.protocols import Neck
from unified.contracts.structures import Features, FeatureSpec
from unified.model.attention import LevelAttention
from unified.model.layers.conv import Conv
from unified.model.layers.csp import CSPBlock


class PANNeck(Neck):
    """Every level sees every other. Channels stay as the backbone's, unless ``channels`` says otherwise.

    Args:
        spec: levels of the backbone, fine to coarse.
        depth: bottlenecks in each CSP block.
        channels: output channels per level.
        attention: blocks behind chosen levels, such as ``{p5: nonlocal}``.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        depth: int = 1,
        channels: tuple[int, ...] | None = None,
        attention: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        out = tuple(channels or spec.channels)
        pairs = range(len(out) - 1)
        self.entry = Conv(spec.channels[-1], out[-1]) if out[-1] != spec.channels[-1] else nn.Identity()
        self.reduce = nn.ModuleList(Conv(out[i + 1], out[i]) for i in pairs)
        self.down_mix = nn.ModuleList(CSPBlock(spec.channels[i] + out[i], out[i], depth, residual=False) for i in pairs)
        self.stride = nn.ModuleList(Conv(out[i], out[i], 3, stride=2) for i in pairs)
        self.up_mix = nn.ModuleList(CSPBlock(2 * out[i], out[i + 1], depth, residual=False) for i in pairs)
        self.spec = FeatureSpec(spec.levels, out, spec.strides)
        self.attention = LevelAttention(dict(zip(spec.levels, out, strict=True)), attention)

    def forward(self, features: Features) -> Features:
        maps = self._top_down(list(features.maps))
        mixed = features.with_maps(tuple(self._bottom_up(*maps)))
        return mixed.with_maps(tuple(self.attention.at(level, x) for level, x in mixed))

    def _top_down(self, maps: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        x = self.entry(maps[-1])
        mixed: list[torch.Tensor] = [x]
        reduced: list[torch.Tensor] = []
        for i in reversed(range(len(maps) - 1)):
            x = self.reduce[i](x)
            reduced.insert(0, x)
            up = interpolate(x, size=maps[i].shape[-2:], mode="nearest")
            x = self.down_mix[i](torch.cat([maps[i], up], dim=1))
            mixed.insert(0, x)
        return mixed, reduced

    def _bottom_up(self, mixed: list[torch.Tensor], reduced: list[torch.Tensor]) -> list[torch.Tensor]:
        out = [mixed[0]]
        for i, lateral in enumerate(reduced):
            out.append(self.up_mix[i](torch.cat([self.stride[i](out[-1]), lateral], dim=1)))
        return out
