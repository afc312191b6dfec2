# SPDX-License-Identifier: Apache-2.0
"""Implicit knowledge as a small turn of the features: a change of low rank."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Operator, PixelMap


class LowRank(Operator):
    """x + U (z * (V x)) at every position: where scale and shift are too little (Hu et al. 2022, LoRA, between layers).

    V reads ``rank`` directions of the features, z says how much of each is added, U says where to. At z = 0 it changes
    nothing. It costs 2 * rank * C numbers.

    Args:
        channels: C.
        rank: directions; at most C are of use.

    Raises:
        ConfigError: a rank below 1.
    """

    def __init__(self, channels: int, rank: int = 8) -> None:
        super().__init__()
        if rank < 1:
            raise ConfigError(f"operator 'lowrank': rank must be at least 1, got {rank}")
        self.width = rank
        self.down = nn.Parameter(torch.randn(rank, channels) / channels**0.5)
        self.up = nn.Parameter(torch.randn(channels, rank) / rank**0.5)

    def identity(self) -> Tensor:
        return torch.zeros(self.width)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        read = linear(x.movedim(1, -1), self.down.to(x.dtype)) * z.to(x.dtype)  # (B, H, W, rank)
        return x + linear(read, self.up.to(x.dtype)).movedim(-1, 1)

    def affine(self, z: Tensor) -> PixelMap:
        turn = (self.up * z.to(self.up.dtype)) @ self.down
        return PixelMap(torch.eye(len(turn), dtype=turn.dtype, device=turn.device) + turn, None)
