# SPDX-License-Identifier: Apache-2.0
"""Networks of one level and a few channels, with any head and any latent; for tests of latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from unified.heads.detect_anchor import DetectAnchor
from unified.heads.detect_free import DetectFree
from unified.heads.detr import Detr
from unified.heads.embed import EmbedHead
from unified.heads.multilabel import MultilabelHead

import unified  # noqa: F401
from unified.contracts.config import LatentConfig, PartConfig
from unified.contracts.protocols import Backbone, Head, Modulate
from unified.contracts.structures import Features, FeatureSpec
from unified.model.build import build_bank
from unified.model.layers.conv import Conv
from unified.model.necks.identity import IdentityNeck
from unified.model.network import UnifiedNetwork

LATENTS = ("vector", "neural", "factorized")
OPERATORS = ("add", "mul", "concat", "affine", "select", "lowrank")
SPEC = FeatureSpec(("p3",), (6,), (8,))
ANCHORS = [[(12, 16), (40, 28)]]

HEADS: Mapping[str, Callable[[], Head]] = {
    "detect_free": lambda: DetectFree(SPEC, 3, width=8, depth=1, bins=4),
    "detect_anchor": lambda: DetectAnchor(SPEC, 2, anchors=ANCHORS),
    "detect_anchor clusters": lambda: DetectAnchor(SPEC, 2, anchors=ANCHORS, clusters=True),
    "detect_anchor flat": lambda: DetectAnchor(SPEC, 2, anchors=ANCHORS, hidden=False),
    "multilabel": lambda: MultilabelHead(SPEC, 4, width=8),
    "multilabel attention": lambda: MultilabelHead(SPEC, 4, width=8, pooling="attention"),
    "detr": lambda: Detr(SPEC, 2, queries=3, width=16, heads=2, decoder=1),
    "embed": lambda: EmbedHead(SPEC, 5, width=8),
}


class TinyTrunk(Backbone):
    """One convolution, then a site."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv(3, 6, 3, stride=8)
        self.sites = {"trunk.s8": 6}
        self.spec = SPEC
        self.passes = 0

    def forward(self, images: Tensor, modulate: Modulate | None = None) -> Features:
        self.passes += 1
        x = self.conv(images)
        return Features((modulate("trunk.s8", x) if modulate else x,), SPEC.levels, SPEC.strides)


def built(heads: Mapping[str, str], *rules: LatentConfig) -> UnifiedNetwork:
    """A network in eval mode with a head for each task: ``{"det": "detect_free"}``."""
    parts = {task: HEADS[head]() for task, head in heads.items()}
    trunk = TinyTrunk()
    return UnifiedNetwork(trunk, IdentityNeck(SPEC), build_bank(rules, parts, SPEC, trunk.sites), parts).eval()


def rule(site: str, operator: str = "add", latent: str = "vector", **more: Any) -> LatentConfig:
    return LatentConfig(site=site, operator=PartConfig(name=operator), latent=PartConfig(name=latent), **more)


def places() -> list[tuple[str, str]]:
    """Every (head, site), the trunk's and the alignment's included."""
    return [(h, site) for h, make in HEADS.items() for site in ("trunk.s8", "align.p3", *make().sites)]


def tensors(answer: Any) -> list[Tensor]:
    """Every floating tensor of a head's output that depends on the image, in order."""
    values = [
        getattr(answer, field.name) for field in fields(answer) if not field.name.startswith(("anchors", "points"))
    ]
    flat = [v for value in values for v in (value if isinstance(value, tuple) else (value,))]
    return [value for value in flat if isinstance(value, Tensor)]


@torch.no_grad()
def shaken(network: UnifiedNetwork, much: float = 0.5) -> UnifiedNetwork:
    """Latents and batch norm statistics far from where they start."""
    for parameter in network.bank.parameters():
        parameter += much * torch.randn_like(parameter)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.5)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.5)
    return network


@torch.no_grad()
def difference(a: UnifiedNetwork, b: UnifiedNetwork, images: Tensor) -> float:
    """The largest difference of any answer, relative to the answer's largest value."""
    first, second = a(images), b(images)
    pairs = [pair for task in first for pair in zip(tensors(first[task]), tensors(second[task]), strict=True)]
    assert pairs
    assert all(x.isfinite().all() for pair in pairs for x in pair)
    return max(((x - y).abs().max() / x.abs().max()).item() for x, y in ((x.double(), y.double()) for x, y in pairs))
