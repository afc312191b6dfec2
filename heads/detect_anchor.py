# SPDX-License-Identifier: Apache-2.0
"""YOLOR's detection head: anchors at every cell, with a site on either side of the last convolution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Head, Modulate, Neighbours, Port
from unified.contracts.structures import AnchorBoxOutput, Features, FeatureSpec
from unified.model.layers.conv import Conv

Anchors = Sequence[Sequence[tuple[float, float]]]

# Widths and heights in pixels by number of levels: the published YOLOR networks of the 640 and the 1280 family.
PUBLISHED: dict[int, Anchors] = {
    3: (
        ((12, 16), (19, 36), (40, 28)),
        ((36, 75), (76, 55), (72, 146)),
        ((142, 110), (192, 243), (459, 401)),
    ),
    4: (
        ((19, 27), (44, 40), (38, 94)),
        ((96, 68), (86, 152), (180, 137)),
        ((140, 301), (303, 264), (238, 542)),
        ((436, 615), (739, 380), (925, 792)),
    ),
}


class DetectAnchor(Head):
    """Anchor-based detection head of YOLOR (Wang et al. 2021, section 4): a level is one 3x3 and one 1x1 convolution.

    Sites: ``pre.{level}`` in front of the 1x1 convolution (where YOLOR adds z) and ``post.{level}`` behind it (where
    YOLOR multiplies by z; channels run anchor by anchor: x, y, w, h, objectness, classes). With ``clusters`` the
    former are ``pre.{level}.a{i}`` (YOLOR's starred feature alignment).

    Args:
        spec: what the neck hands over.
        outputs: K classes.
        anchors: for every level the (width, height) in pixels of its anchors, as many on each level; None: the
            published ones of the 640 family (3 levels) or the 1280 family (4 levels).
        hidden: False leaves out the 3x3 convolution that doubles the channels.
        clusters: every anchor reads the features through a site of its own in front of its part of the last
            convolution. The weights are the same as without.
        objects: objects an image of 640 pixels is expected to hold before any training; sets the objectness bias.
    """

    anchors_wh: Tensor

    def __init__(
        self,
        spec: FeatureSpec,
        outputs: int,
        *,
        anchors: Anchors | None = None,
        hidden: bool = True,
        clusters: bool = False,
        objects: float = 8.0,
    ) -> None:
        super().__init__()
        table = torch.tensor(published(len(spec.levels)) if anchors is None else anchors, dtype=torch.float32)
        if table.dim() != 3 or table.shape[0] != len(spec.levels) or table.shape[2] != 2:
            raise ConfigError(
                f"detect_anchor: anchors have the shape {tuple(table.shape)}, expected "
                f"({len(spec.levels)} levels, anchors a cell, 2)"
            )
        self.outputs, self.count = outputs, table.shape[1]
        self.levels, self.clusters = spec.levels, clusters
        self.register_buffer("anchors_wh", table, persistent=False)
        widths = [2 * channels if hidden else channels for channels in spec.channels]
        rows = self.count * (5 + outputs)
        self.hidden = nn.ModuleList(
            Conv(channels, width, 3) if hidden else nn.Identity()
            for channels, width in zip(spec.channels, widths, strict=True)
        )
        self.out = nn.ModuleList(
            last_conv(width, self.count, outputs, stride, objects)
            for width, stride in zip(widths, spec.strides, strict=True)
        )
        self.sites: Mapping[str, int] = {
            **{site: width for i, width in enumerate(widths) for site in self._pre(i)},
            **{f"post.{level}": rows for level in spec.levels},
        }

    def forward(self, features: Features, modulate: Modulate) -> AnchorBoxOutput:
        """Features of the levels the head was built for -> maps (B, A, H, W, 5 + K), finest level first."""
        maps = []
        for i, (level, x) in enumerate(features):
            x = self.hidden[i](x)
            read = [modulate(site, x) for site in self._pre(i)]
            x = modulate(f"post.{level}", self._last(i, read))
            batch, _, height, width = x.shape
            x = x.reshape(batch, self.count, 5 + self.outputs, height, width)
            maps.append(x.permute(0, 1, 3, 4, 2))  # (B, A, H, W, 5 + K)
        return AnchorBoxOutput(maps=tuple(maps), anchors_wh=self.anchors_wh, strides=features.strides)

    def _pre(self, i: int) -> tuple[str, ...]:
        """The sites in front of a level's last convolution: one, or one for each anchor."""
        site = f"pre.{self.levels[i]}"
        return tuple(f"{site}.a{anchor}" for anchor in range(self.count)) if self.clusters else (site,)

    def _last(self, i: int, read: Sequence[Tensor]) -> Tensor:
        """The last convolution of a level: (B, width, H, W) -> (B, A * (5 + K), H, W).

        read: what it reads; several where every anchor reads its own, each x itself where no latent stands.
        """
        conv = self.out[i]
        if all(one is read[0] for one in read):
            return conv(read[0])  # type: ignore[no-any-return]
        weights, biases = conv.weight.chunk(self.count), conv.bias.chunk(self.count)  # type: ignore[union-attr,operator]
        return torch.cat([conv2d(*part) for part in zip(read, weights, biases, strict=True)], dim=1)

    def neighbours(self, site: str) -> Neighbours:
        place, _, where = site.partition(".")
        level, _, anchor = where.partition(".a")
        if level not in self.levels:
            return Neighbours()
        i = self.levels.index(level)
        hidden, last = self.hidden[i], Port(self.out[i])
        if place == "post":
            return Neighbours(before=last)
        if place == "pre":
            rows = slice(int(anchor) * (5 + self.outputs), (int(anchor) + 1) * (5 + self.outputs)) if anchor else None
            return Neighbours(after=(Port(self.out[i], rows=rows) if rows else last,))
        if isinstance(hidden, Conv):
            return Neighbours(after=(Port(hidden.conv, hidden.norm),))
        return Neighbours(after=(last,), through=self._pre(i))

    def roles(self, site: str) -> tuple[str, ...] | None:
        """Behind the last convolution: ``x y w h obj`` and ``cls`` for every class, anchor by anchor."""
        return self.count * ("x", "y", "w", "h", "obj", *("cls",) * self.outputs) if site.startswith("post.") else None


def last_conv(width: int, count: int, classes: int, stride: int, objects: float) -> nn.Conv2d:
    """The 1x1 convolution of a level, started so that few cells see an object and classes are rare (YOLOR's code)."""
    conv = nn.Conv2d(width, count * (5 + classes), 1)
    shift = torch.zeros(count, 5 + classes)
    shift[:, 4] = math.log(objects / (640 / stride) ** 2)
    shift[:, 5:] = math.log(0.6 / (classes - 0.99))
    conv.bias = nn.Parameter(shift.flatten() + (torch.zeros(()) if conv.bias is None else conv.bias.detach()))
    return conv


def published(levels: int) -> Anchors:
    """The published anchors for a number of levels.

    Raises:
        ConfigError: there are none for this number.
    """
    if levels not in PUBLISHED:
        raise ConfigError(
            f"detect_anchor knows anchors for 3 or 4 levels, got {levels} levels; give `anchors` yourself"
        )
    return PUBLISHED[levels]
