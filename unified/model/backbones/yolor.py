# SPDX-License-Identifier: Apache-2.0
"""The trunks of the published Scaled-YOLOv4 and YOLOR networks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from unified.contracts.errors import ConfigError
from unified.model.backbones.staged import StagedBackbone
from unified.model.layers.conv import Conv
from unified.model.layers.csp import Bottleneck, CSPBlock
from unified.model.layers.down import DownC
from unified.model.layers.reorg import Haar, ReOrg


class YOLORBackbone(StagedBackbone):
    """A stem that may trade space for depth, then a stage for each stride: a halving convolution and a CSP block.

    Source: Wang et al. 2021, Scaled-YOLOv4, section 3; Wang et al. 2021, YOLOR, appendix A (stems A to F).

    Args:
        channels: of every stage's output; even.
        depths: bottlenecks of every stage; 0 is Darknet's single residual in place of the CSP block, the first stage
            of YOLOv4-CSP.
        levels: how many of the last stages the neck reads.
        stem: channels of the stem's 3x3 convolution; None leaves it out, and the first stage then does not halve.
        reorg: how many times the stem trades space for depth before that.
        haar: whether it does so by wavelets instead of sorting pixels.
        transition: whether a 1x1 follows the bottlenecks of a CSP block (YOLOv4; the P6 family of YOLOR has none).
        joint_norm: whether a CSP block normalises both branches together (YOLOR-E6, -D6).
        downc: whether stages are halved by a strided convolution and a pool (YOLOR-E6, -D6), not by the former alone.
        attention: blocks behind the stages of chosen levels, such as ``{p5: nonlocal}``.
    """

    def __init__(
        self,
        channels: Sequence[int],
        depths: Sequence[int],
        levels: int = 3,
        *,
        stem: int | None = 32,
        reorg: int = 0,
        haar: bool = False,
        transition: bool = False,
        joint_norm: bool = False,
        downc: bool = False,
        attention: Mapping[str, Any] | None = None,
    ) -> None:
        check_stages(channels, depths, levels)
        wide = 3 * 4**reorg
        shuffles: list[nn.Module] = [Haar() if haar else ReOrg() for _ in range(reorg)]
        convs = [Conv(wide, stem, 3)] if stem else []
        before, stages = stem or wide, list[nn.Module]()
        for i, (after, depth) in enumerate(zip(channels, depths, strict=True)):
            parts = OrderedDict[str, nn.Module]()
            if stem or i:
                parts["down"] = DownC(before, after) if downc else Conv(before, after, 3, stride=2)
            parts["block"] = block(after if parts else before, after, depth, transition, joint_norm)
            stages.append(nn.Sequential(parts))
            before = after
        first = reorg + bool(stem)
        strides = [2 ** (first + i) for i in range(len(stages))]
        super().__init__(nn.Sequential(*shuffles, *convs), stages, channels, strides, levels, attention)


def block(before: int, after: int, depth: int, transition: bool, joint_norm: bool) -> nn.Module:
    """What follows the halving: a CSP block, or at depth 0 one residual with half of the channels inside."""
    if depth:
        return CSPBlock(before, after, depth, transition=transition, joint_norm=joint_norm)
    return Bottleneck(after, hidden=after // 2)


def check_stages(channels: Sequence[int], depths: Sequence[int], levels: int) -> None:
    """Whether the numbers describe a trunk.

    Raises:
        ConfigError: unequal lengths, or more levels than stages.
    """
    if len(channels) != len(depths):
        raise ConfigError(f"backbone: {len(channels)} channels but {len(depths)} depths; give one of each for a stage")
    if not 1 <= levels <= len(channels):
        raise ConfigError(f"backbone: {levels} levels of {len(channels)} stages; expected 1 to {len(channels)}")
