# SPDX-License-Identifier: Apache-2.0
"""A trunk as a row of stages, each half the size of the one before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from unified.contracts.protocols import Backbone, Modulate
from unified.contracts.structures import Features, FeatureSpec
from unified.model.attention import LevelAttention


class StagedBackbone(Backbone):
    """A stem, then stages; the last ``levels`` of them are handed on, as p3, p4, ... by the logarithm of the stride.

    Sites: ``trunk.s{stride}`` behind every stage. A latent there belongs to one task, so each task with one needs a
    trunk pass of its own.

    Args:
        stem: images to the input of the first stage.
        stages: in the order of their strides.
        channels, strides: of every stage's output.
        levels: how many of the last stages the neck reads.
        attention: blocks behind the stages of chosen levels, see :class:`LevelAttention`.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        channels: Sequence[int],
        strides: Sequence[int],
        levels: int,
        attention: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.strides = tuple(strides)
        self.sites: Mapping[str, int] = {f"trunk.s{s}": c for s, c in zip(strides, channels, strict=True)}
        names = tuple(f"p{int(math.log2(s))}" for s in strides)
        self.spec = FeatureSpec(names[-levels:], tuple(channels)[-levels:], self.strides[-levels:])
        self.attention = LevelAttention(dict(zip(names, channels, strict=True)), attention)

    def forward(self, images: Tensor, modulate: Modulate | None = None) -> Features:
        """images (B, 3, H, W) -> the last levels; ``modulate`` meets the output of every stage on its way."""
        x = self.stem(images)
        maps = []
        for stride, stage in zip(self.strides, self.stages, strict=True):
            x = self.attention.at(f"p{int(math.log2(stride))}", stage(x))
            x = modulate(f"trunk.s{stride}", x) if modulate else x
            maps.append(x)
        return Features(tuple(maps[-len(self.spec.levels) :]), self.spec.levels, self.spec.strides)

    def by_depth(self) -> tuple[tuple[nn.Parameter, ...], ...]:
        """The stem, then every stage with the attention behind it."""
        behind = {name: tuple(block.parameters()) for name, block in self.attention.named_children()}
        stages = [tuple(self.stem.parameters())]
        for stride, stage in zip(self.strides, self.stages, strict=True):
            stages.append((*stage.parameters(), *behind.get(f"p{int(math.log2(stride))}", ())))
        return tuple(stage for stage in stages if stage)
