# SPDX-License-Identifier: Apache-2.0
"""A query-based detection head: learned queries look at all levels and answer with a set of boxes, without NMS."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Head, Modulate, Neighbours, Port
from unified.contracts.structures import Features, FeatureSpec, QueryBoxOutput
from unified.model.layers.position import cells_xy, sine_boxes, sine_xy
from unified.model.layers.transformer import MLP, DecoderLayer, EncoderLayer

SIDES = ("x", "y", "w", "h")


class Answer(nn.Module):
    """The end of a question: hidden layers, then a 1x1 convolution over queries between two sites."""

    def __init__(self, width: int, hidden: int, site: str, bias: Tensor, std: float) -> None:
        super().__init__()
        self.site = site
        layers = [part for _ in range(hidden) for part in (nn.Linear(width, width), nn.ReLU())]
        self.hidden = nn.Sequential(*layers)
        self.out = nn.Conv2d(width, len(bias), 1)
        nn.init.normal_(self.out.weight, std=std)
        self.out.bias = nn.Parameter(bias.clone())

    def forward(self, x: Tensor, modulate: Modulate) -> Tensor:
        """(B, Q, width) -> (B, Q, outputs); at the sites queries stand as a map of (B, C, Q, 1)."""
        x = modulate(f"pre.{self.site}", self.hidden(x).transpose(1, 2)[..., None])
        x = modulate(f"post.{self.site}", self.out(x))
        return x.squeeze(-1).transpose(1, 2)


class Memory(nn.Module):
    """All levels of a neck as one list of cells that know their place and their level.

    The cells of the coarsest level first look at each other: few enough to be cheap, and wide enough to see the whole
    image (Zhao et al. 2023, RT-DETR, section 4.2).
    """

    def __init__(self, spec: FeatureSpec, width: int, heads: int, hidden: int, encoder: int) -> None:
        super().__init__()
        self.width = width
        self.entry = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in spec.channels)
        self.norm = nn.LayerNorm(width)
        self.encoder = nn.ModuleList(EncoderLayer(width, heads, hidden) for _ in range(encoder))
        self.level = nn.ParameterList(nn.Parameter(torch.randn(width) * 0.1) for _ in spec.levels)

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        """Cells (B, S, width) and their places (S, width), levels one after another."""
        cells, places = [], []
        for entry, level, x in zip(self.entry, self.level, features.maps, strict=True):
            cells.append(self.norm(entry(x).flatten(2).transpose(1, 2)) + level)
            cells_at = cells_xy(x.shape[-2], x.shape[-1], x.device)
            places.append(sine_xy(cells_at, self.width).to(cells[-1].dtype))
        for layer in self.encoder:
            cells[-1] = layer(cells[-1], places[-1])
        return torch.cat(cells, dim=1), torch.cat(places)


class Detr(Head):
    """Set prediction (Carion et al. 2020, DETR) with boxes as queries (Liu et al. 2022, DAB-DETR).

    Each of ``queries`` learned queries owns a box to start from. A decoder layer turns the box into the place the query
    looks from, with a gaze as wide and as high as the box (DAB-DETR eq. 6), and then moves the box; every layer answers
    with box and classes, so that each is trained. Where DETR's queries must learn from nothing where to look, these
    know it from the first step.

    Sites, all seen as (B, C, Q, 1): ``pre.cls`` and ``pre.box`` (``width`` channels) in front of the last linear
    layers, ``post.cls`` (K) and ``post.box`` (4) behind them. All decoder layers share these layers, and so the sites.

    Args:
        spec: what the neck hands over.
        outputs: K classes.
        queries: Q, more than an image is ever expected to hold.
        width: channels of queries and cells; None: the narrowest level's, in steps of 32 and at least 64.
        heads: attention heads; None: one for 32 channels.
        decoder: decoder layers.
        encoder: layers in which the coarsest level's cells look at each other.
        objects: objects an image is expected to hold before any training; sets the class bias.

    Raises:
        ConfigError: numbers that make no head.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        outputs: int,
        *,
        queries: int = 100,
        width: int | None = None,
        heads: int | None = None,
        decoder: int = 3,
        encoder: int = 1,
        objects: float = 5.0,
    ) -> None:
        super().__init__()
        width = width or max(64, min(spec.channels) // 32 * 32)
        heads = heads or max(1, width // 32)
        _check(outputs=outputs, queries=queries, width=width, heads=heads, decoder=decoder, encoder=encoder)
        self.outputs, self.queries, self.width, self.levels = outputs, queries, width, spec.levels
        self.memory = Memory(spec, width, heads, 4 * width, encoder)
        self.content = nn.Parameter(torch.randn(queries, width) * 0.02)
        self.start = nn.Parameter(spread_boxes(queries).logit().flatten())  # one dimension: no recipe may decay places
        self.place = MLP(2 * width, width, width)
        self.gaze = MLP(width, width, width)
        self.shape = MLP(width, width, 2)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, 4 * width) for _ in range(decoder))
        self.norm = nn.LayerNorm(width)
        self.box = Answer(width, 2, "box", torch.zeros(4), std=1e-3)
        chance = min(objects / queries / outputs, 0.01)
        self.cls = Answer(width, 0, "cls", torch.full((outputs,), math.log(chance / (1 - chance))), std=0.01)
        self.sites: Mapping[str, int] = {"pre.cls": width, "pre.box": width, "post.cls": outputs, "post.box": 4}

    def forward(self, features: Features, modulate: Modulate) -> QueryBoxOutput:
        """Features of the levels the head was built for -> Q boxes and K class logits of every decoder layer."""
        memory, places = self.memory(features)
        x = self.content.expand(memory.shape[0], -1, -1)
        box = self.start.view(self.queries, 4).float().sigmoid().expand(memory.shape[0], -1, -1)
        boxes, classes = [], []
        for layer in self.layers:
            encoded = sine_boxes(box, self.width).to(x.dtype)
            x = layer(x, self.place(encoded), self._gaze(x, box, encoded), memory, places)
            said = self.norm(x)
            boxes.append((box.logit(eps=1e-4) + self.box(said, modulate).float()).sigmoid())
            classes.append(self.cls(said, modulate))
            box = boxes[-1].detach()  # a layer learns to correct the box it is given
        return QueryBoxOutput(torch.stack(classes), torch.stack(boxes), input_size(features))

    def _gaze(self, x: Tensor, box: Tensor, encoded: Tensor) -> Tensor:
        """Where queries look: their centres, scaled by content and as wide as their boxes (DAB-DETR eq. 2 and 6)."""
        wanted = self.shape(x).float().sigmoid()  # (B, Q, 2) width and height
        scale = (wanted / box[..., 2:].clamp(min=1e-2)).flip(-1)  # as the encoding has it: y, then x
        scale = scale.repeat_interleave(self.width // 2, dim=-1).to(x.dtype)
        return encoded[..., : self.width] * scale * self.gaze(x)  # type: ignore[no-any-return]

    def neighbours(self, site: str) -> Neighbours:
        place, _, name = site.partition(".")
        if place == "align" and name in self.levels:
            return Neighbours(after=(Port(self.memory.entry[self.levels.index(name)]),))
        if site not in self.sites:
            return Neighbours()
        last = Port((self.box if name == "box" else self.cls).out)
        return Neighbours(after=(last,)) if place == "pre" else Neighbours(before=last)

    def roles(self, site: str) -> tuple[str, ...] | None:
        return {"post.box": SIDES, "post.cls": ("cls",) * self.outputs}.get(site)


def _check(**numbers: int) -> None:
    """Raises ConfigError where the numbers make no head."""
    least = {"encoder": 0}
    small = [name for name, value in numbers.items() if value < least.get(name, 1)]
    if small or numbers["width"] % numbers["heads"] or numbers["width"] % 8:
        got = ", ".join(f"{name}={value}" for name, value in numbers.items())
        raise ConfigError(
            f"detr needs outputs, queries, width, heads and decoder >= 1, encoder >= 0 and a width that its heads "
            f"and 8 divide; got {got}"
        )


def input_size(features: Features) -> tuple[int, int]:
    """(height, width) in pixels of the images that the features were made of."""
    height, width = features.maps[0].shape[-2:]
    return height * features.strides[0], width * features.strides[0]


def spread_boxes(count: int) -> Tensor:
    """Boxes (count, 4) cxcywh in [0, 1], spread evenly over places and over sizes from 0.05 to 0.6.

    By the additive sequence R3 (Roberts 2018), which fills a cube evenly at any count; a random draw leaves holes.
    """
    root = 1.2207440846057596  # of x^4 = x + 1
    steps = torch.arange(1, count + 1, dtype=torch.float64)[:, None]
    cube = (0.5 + steps * torch.tensor([root**-1, root**-2, root**-3], dtype=torch.float64)) % 1
    side = 0.05 * (0.6 / 0.05) ** cube[:, 2:]
    return torch.cat([0.02 + 0.96 * cube[:, :2], side, side], dim=1).float()
