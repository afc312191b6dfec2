# SPDX-License-Identifier: Apache-2.0
"""Spatial pyramid pooling (He et al. 2015), in the serial form that costs one small pool three times."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unified.model.layers.conv import Conv, NormAct
from unified.model.layers.csp import branch_end


class SPP(nn.Module):
    """Concatenates x with its maxima over windows of 5, 9 and 13 and mixes them.

    Pooling by 5 once, twice and three times at stride 1 gives exactly the windows 5, 9 and 13.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.reduce = Conv(in_channels, hidden)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.fuse = Conv(4 * hidden, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        windows = [self.reduce(x)]
        for _ in range(3):
            windows.append(self.pool(windows[-1]))
        return self.fuse(torch.cat(windows, dim=1))  # type: ignore[no-any-return]


class PoolPyramid(nn.Module):
    """Maxima over windows of 13, 9 and 5, and x itself: the order in which the published networks concatenate them."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 C, H, W)."""
        windows = [x]
        for _ in range(3):
            windows.insert(0, self.pool(windows[0]))
        return torch.cat(windows, dim=1)


class SPPCSP(nn.Module):
    """Pooling inside one branch of a CSP block: the entry of the published necks (Scaled-YOLOv4, section 3.1).

    Args:
        in_channels, out_channels: channels of input and output; both branches are as wide as the output.
        depth: pairs of 1x1 and 3x3 behind the pools (YOLOv4-CSP-X has two, all others one).
        joint_norm: whether norm and activation follow the concatenation instead of each branch.
    """

    def __init__(self, in_channels: int, out_channels: int, depth: int = 1, joint_norm: bool = False) -> None:
        super().__init__()
        width = out_channels
        self.side = branch_end(in_channels, width, joint_norm)
        self.main = nn.Sequential(
            Conv(in_channels, width), Conv(width, width, 3), Conv(width, width), PoolPyramid(), Conv(4 * width, width)
        )
        for _ in range(depth - 1):
            self.main.extend([Conv(width, width, 3), Conv(width, width)])
        self.main.append(Conv(width, width, 3))
        self.join = NormAct(2 * width) if joint_norm else nn.Identity()
        self.fuse = Conv(2 * width, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return self.fuse(self.join(torch.cat([self.main(x), self.side(x)], dim=1)))  # type: ignore[no-any-return]
