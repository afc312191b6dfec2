# SPDX-License-Identifier: Apache-2.0
"""The native trunk: CSP stages of any width and depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from unified.model.backbones.staged import StagedBackbone
from unified.model.layers.conv import Conv
from unified.model.layers.csp import CSPBlock
from unified.model.layers.spp import SPP

CHANNELS = (64, 128, 256, 384, 640, 768)  # strides 2, 4, 8, 16, 32, 64 at width 1
DEPTHS = (3, 6, 6, 3, 3)  # bottlenecks at strides 4, 8, 16, 32, 64 at depth 1


def scaled_channels(width: float, levels: int) -> tuple[int, ...]:
    """Channels at strides 2, 4, 8, ... for ``levels`` output levels: CHANNELS * width, in steps of 8."""
    return tuple(max(8, round(c * width / 8) * 8) for c in CHANNELS[: levels + 2])


def scaled_depths(depth: float, levels: int) -> tuple[int, ...]:
    """Bottlenecks at strides 4, 8, ...: DEPTHS * depth, at least one."""
    return tuple(max(1, round(d * depth)) for d in DEPTHS[: levels + 1])


class CSPBackbone(StagedBackbone):
    """A stem at stride 2, then a stage for each stride from 4 on: a strided 3x3 and a CSP block; SPP ends the last.

    Args:
        width, depth: one rule for all sizes: channels are ``CHANNELS * width`` and bottlenecks ``DEPTHS * depth``.
        levels: 3 for strides 8, 16, 32; 4 adds stride 64.
        channels, depths: explicit numbers instead of the rule.
        attention: blocks behind the stages of chosen levels, such as ``{p5: nonlocal}``.
    """

    def __init__(
        self,
        width: float = 0.25,
        depth: float = 0.33,
        levels: int = 3,
        channels: Sequence[int] | None = None,
        depths: Sequence[int] | None = None,
        attention: Mapping[str, Any] | None = None,
    ) -> None:
        stem, *widths = channels or scaled_channels(width, levels)
        first = Conv(3, stem, 3, stride=2)
        stages = []
        before = stem
        for i, (after, n) in enumerate(zip(widths, depths or scaled_depths(depth, levels), strict=True)):
            blocks = [Conv(before, after, 3, stride=2), CSPBlock(after, after, n)]
            if i == len(widths) - 1:
                blocks.append(SPP(after, after))
            stages.append(nn.Sequential(*blocks))
            before = after
        super().__init__(first, stages, widths, [4 * 2**i for i in range(len(widths))], levels, attention)
