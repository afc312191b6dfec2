# SPDX-License-Identifier: Apache-2.0
"""Halving the size in two ways at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unified.model.layers.conv import Conv


class DownC(nn.Module):
    """A strided convolution and a pool, each for half of the output's channels (YOLOR-E6 and -D6).

    Args:
        in_channels, out_channels: channels of input and output; the output's are even.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.main = nn.Sequential(Conv(in_channels, in_channels), Conv(in_channels, half, 3, stride=2))
        self.side = nn.Sequential(nn.MaxPool2d(2), Conv(in_channels, half))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / 2, W / 2); H and W even."""
        return torch.cat([self.main(x), self.side(x)], dim=1)
