# SPDX-License-Identifier: Apache-2.0
"""Blocks in which the image itself says what to mix: over places (non-local) and over kernels (selective kernel).

Both keep the shape of what they are given, so that they can stand anywhere in a trunk or a neck.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, scaled_dot_product_attention

from unified.model.layers.conv import Conv


class NonLocal(nn.Module):
    """Every cell adds a mean over all cells, weighted by likeness: the embedded Gaussian (Wang et al. 2018, eq. 4, 6).

    The last norm starts at zero, so that a block put into a trained network changes nothing until it has learned to
    (section 3.3). The cost grows with the square of the cells: made for coarse maps.

    Args:
        channels: of input and output.
        pool: sides of the windows whose maximum stands for them among the cells looked at (section 3.3, subsampling);
            1 looks at every cell, 2 costs a quarter.
    """

    def __init__(self, channels: int, pool: int = 1) -> None:
        super().__init__()
        hidden = max(1, channels // 2)
        self.pool = pool
        self.query = nn.Conv2d(channels, hidden, 1)
        self.key = nn.Conv2d(channels, hidden, 1)
        self.value = nn.Conv2d(channels, hidden, 1)
        self.out = Conv(hidden, channels, act=False)
        nn.init.zeros_(self.out.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        seen = max_pool2d(x, self.pool, ceil_mode=True) if self.pool > 1 else x
        query, key, value = (y.flatten(2).transpose(1, 2) for y in (self.query(x), self.key(seen), self.value(seen)))
        mixed = scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=1.0)[:, 0]
        return x + self.out(mixed.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[-2:]))  # type: ignore[no-any-return]


class SelectiveKernel(nn.Module):
    """A small and a large kernel, mixed channel by channel as the whole image asks (Li et al. 2019, eq. 1-6).

    The branches are a 3x3 convolution and a 3x3 one of dilation 2, which sees 5x5 cells; a squeeze of their sum gives
    the softmax over the branches.

    Args:
        channels: of input and output.
        groups: of the convolutions; None: 32 as published, or as many of them as divide the channels.
        reduction, least: the squeeze has ``channels / reduction`` channels and at least ``least`` (eq. 4).
    """

    def __init__(self, channels: int, groups: int | None = None, reduction: int = 16, least: int = 32) -> None:
        super().__init__()
        groups = groups or math.gcd(channels, 32)
        hidden = max(channels // reduction, least)
        self.small = Conv(channels, channels, 3, groups=groups)
        self.large = Conv(channels, channels, 3, groups=groups, dilation=2)
        # Not a batch norm as published: one image would leave it a single value a channel to learn from.
        self.squeeze = nn.Sequential(nn.Linear(channels, hidden, bias=False), nn.LayerNorm(hidden), nn.ReLU())
        self.choose = nn.Linear(hidden, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        small: Tensor = self.small(x)
        large: Tensor = self.large(x)
        shares = self.shares(small + large)
        return shares[:, 0] * small + shares[:, 1] * large

    def shares(self, fused: Tensor) -> Tensor:
        """The branches' shares (B, 2, C, 1, 1), which add up to 1, from their sum (B, C, H, W)."""
        logits: Tensor = self.choose(self.squeeze(fused.mean(dim=(2, 3))))
        return logits.view(fused.shape[0], 2, -1).softmax(dim=1)[..., None, None]
