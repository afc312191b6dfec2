# SPDX-License-Identifier: Apache-2.0
"""Transformer layers over the cells of a map: an encoder layer, and a decoder layer whose queries know a place.

Vaswani et al. 2017, with the norm in front of every step, which learns without a long warm-up (Xiong et al. 2020).
Legend: B batch, Q queries, S cells, D width.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from unified.contracts.errors import ConfigError


def split(x: Tensor, heads: int) -> Tensor:
    """(B, N, D) -> (B, heads, N, D / heads)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of split heads, joined again: (B, heads, Q, E), (B, heads, S, E), (B, heads, S, F) -> (B, Q, D)."""
    return scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class MLP(nn.Sequential):
    """Linear layers with ReLU between them: widths (in, hidden, ..., out)."""

    def __init__(self, *widths: int) -> None:
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(widths)):
            layers += [nn.ReLU()] if i else []
            layers.append(nn.Linear(before, after))
        super().__init__(*layers)


class SelfAttention(nn.Module):
    """Everything looks at everything; places help to find, and are not handed on (Carion et al. 2020, appendix A.3)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"attention: width {width} is no multiple of its {heads} heads")
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        """x: (B, N, D); place: (B, N, D) or (N, D). Returns (B, N, D)."""
        placed = x + place
        parts = (split(y, self.heads) for y in (self.query(placed), self.key(placed), self.value(x)))
        return self.out(attend(*parts))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Queries look at cells by what they hold and, apart from it, by where they are (Meng et al. 2021, eq. 3).

    Content and place are laid side by side in every head, so that the weight is the softmax of the sum of a content and
    a place product.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"attention: width {width} is no multiple of its {heads} heads")
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.query_place, self.key_place = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, x_place: Tensor, memory: Tensor, memory_place: Tensor) -> Tensor:
        """x, x_place: (B, Q, D); memory: (B, S, D); memory_place: (S, D). Returns (B, Q, D)."""
        place = split(self.key_place(memory_place)[None], self.heads).expand(memory.shape[0], -1, -1, -1)
        query = torch.cat([split(self.query(x), self.heads), split(self.query_place(x_place), self.heads)], dim=-1)
        key = torch.cat([split(self.key(memory), self.heads), place], dim=-1)
        return self.out(attend(query, key, split(self.value(memory), self.heads)))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Cells look at each other, then think alone."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = SelfAttention(width, heads)
        self.think = MLP(width, hidden, width)

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        """x: (B, S, D); place: (S, D). Returns (B, S, D)."""
        x = x + self.attention(self.norms[0](x), place)
        return x + self.think(self.norms[1](x))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Queries agree among themselves who takes what, look at the cells, then think alone (Carion et al. 2020, 3.2)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.agree = SelfAttention(width, heads)
        self.look = CrossAttention(width, heads)
        self.think = MLP(width, hidden, width)

    def forward(self, x: Tensor, place: Tensor, gaze: Tensor, memory: Tensor, memory_place: Tensor) -> Tensor:
        """x: (B, Q, D); place, gaze: (B, Q, D), where a query stands and where it looks; memory: (B, S, D)."""
        x = x + self.agree(self.norms[0](x), place)
        x = x + self.look(self.norms[1](x), gaze, memory, memory_place)
        return x + self.think(self.norms[2](x))  # type: ignore[no-any-return]
