# SPDX-License-Identifier: Apache-2.0
"""Cross-stage-partial blocks (Wang et al. 2020, CSPNet; Scaled-YOLOv4, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unified.model.layers.conv import Conv


class Bottleneck(nn.Module):
    """1x1 then 3x3, with a residual where ``residual`` is set."""

    def __init__(self, channels: int, residual: bool = True) -> None:
        super().__init__()
        self.reduce = Conv(channels, channels, 1)
        self.conv = Conv(channels, channels, 3)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(self.reduce(x))
        return x + y if self.residual else y


class CSPBlock(nn.Module):
    """Half of the channels take a short cut, half go through bottlenecks; both meet in a 1x1.

    Args:
        in_channels, out_channels: channels of input and output.
        depth: number of bottlenecks.
        residual: whether the bottlenecks add their input (backbones do, necks do not).
    """

    def __init__(self, in_channels: int, out_channels: int, depth: int, residual: bool = True) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.side = Conv(in_channels, hidden)
        self.main = nn.Sequential(Conv(in_channels, hidden), *(Bottleneck(hidden, residual) for _ in range(depth)))
        self.fuse = Conv(2 * hidden, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(torch.cat([self.main(x), self.side(x)], dim=1))  # type: ignore[no-any-return]
