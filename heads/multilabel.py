# SPDX-License-Identifier: Apache-2.0
"""The multilabel head: one logit a tag, from maps of evidence for every tag."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from unified.contracts.errors import ConfigError, suggestion
from unified.contracts.protocols import Head, Modulate, Neighbours, Port
from unified.contracts.structures import Features, FeatureSpec, TagOutput
from unified.model.layers.conv import Conv

POOLINGS = ("attention", "maxmean")


class MultilabelHead(Head):
    """Reads tags of small things and of whole scenes alike: each level makes a map of evidence per tag, then pools it.

    The mean over a map speaks for the whole scene but drowns an object of a few cells; each tag therefore adds a peak
    with a weight of its own. ``maxmean`` takes the maximum for it; ``attention`` the mean weighted by the softmax of
    the evidence itself (Zhu and Wu 2021, Residual Attention, eq. 3-5; T and lambda are learned here, one per tag).

    Sites: ``pre.<level>`` (width) in front of each level's map of evidence, ``post.tags`` (outputs) on the logits.

    Args:
        spec: the neck's levels.
        outputs: A, the number of tags.
        width: channels each level is reduced to.
        pooling: how the peak of a map is taken.
        prior: share of positives the untrained head predicts.

    Raises:
        ConfigError: unknown pooling, or a prior that is no share.
    """

    sites: Mapping[str, int]

    def __init__(
        self,
        spec: FeatureSpec,
        outputs: int,
        *,
        width: int = 64,
        pooling: Literal["attention", "maxmean"] = "maxmean",
        prior: float = 0.1,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ConfigError(f"multilabel head: unknown pooling '{pooling}'{suggestion(pooling, POOLINGS)}")
        if not 0 < prior < 1:
            raise ConfigError(f"multilabel head: prior must lie between 0 and 1, got {prior}")
        self.levels = spec.levels
        self.sites = {**{f"pre.{level}": width for level in spec.levels}, "post.tags": outputs}
        self.reduce = nn.ModuleList(Conv(channels, width) for channels in spec.channels)
        self.evidence = nn.ModuleList(_evidence(width, outputs) for _ in spec.levels)
        self.pools = nn.ModuleList(PeakPool(outputs, hard=pooling == "maxmean") for _ in spec.levels)
        self.bias = nn.Parameter(torch.full((outputs,), math.log(prior / (1 - prior))))

    def forward(self, features: Features, modulate: Modulate) -> TagOutput:
        logits = self.bias
        for (level, x), reduce, evidence, pool in zip(features, self.reduce, self.evidence, self.pools, strict=True):
            logits = logits + pool(evidence(modulate(f"pre.{level}", reduce(x))))
        return TagOutput(logits=modulate("post.tags", logits))

    def neighbours(self, site: str) -> Neighbours:
        """Behind the pools of ``post.tags`` stands only a bias: it takes what is added, nothing that multiplies."""
        if site == "post.tags":
            return Neighbours(bias=self.bias)
        kind, _, level = site.partition(".")
        if level not in self.levels or kind not in ("align", "pre"):
            return Neighbours()
        i = self.levels.index(level)
        conv = self.reduce[i]
        port = Port(conv.conv, conv.norm) if kind == "align" else Port(self.evidence[i])  # type: ignore[arg-type]
        return Neighbours(after=(port,))


def _evidence(width: int, outputs: int) -> nn.Conv2d:
    """A 1x1 convolution that says little before it has learned, so that the first scores are the prior."""
    conv = nn.Conv2d(width, outputs, 1, bias=False)
    nn.init.normal_(conv.weight, std=0.01)
    return conv


class PeakPool(nn.Module):
    """Mean plus weighted peak of every channel: (B, A, H, W) -> (B, A) float32.

    Args:
        channels: A.
        hard: the peak is the maximum; otherwise the softmax-weighted mean.
    """

    def __init__(self, channels: int, hard: bool) -> None:
        super().__init__()
        self.peak = nn.Parameter(torch.ones(channels))
        self.log_sharpness = None if hard else nn.Parameter(torch.full((channels,), math.log(4.0)))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.float().flatten(2)  # (B, A, H * W)
        return flat.mean(dim=2) + self.peak * self._peaks(flat)

    def _peaks(self, flat: Tensor) -> Tensor:
        if self.log_sharpness is None:
            return flat.amax(dim=2)
        weights = (self.log_sharpness.exp()[:, None] * flat).softmax(dim=2)
        return (weights * flat).sum(dim=2)
