# SPDX-License-Identifier: Apache-2.0
"""Cross-stage-partial blocks (Wang et al. 2020, CSPNet; Wang et al. 2021, Scaled-YOLOv4, section 3).

Two branches meet in a 1x1 convolution. The published networks differ in where the two are normalised: each by its own
last convolution (the default), or both together once they are concatenated (``joint_norm``). Both exist as released
weights, and the second has a few parameters more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unified.model.layers.conv import Conv, NormAct


class Bottleneck(nn.Module):
    """1x1 then 3x3, with a residual where ``residual`` is set.

    Args:
        channels: of input and output.
        residual: whether the input is added to the output.
        hidden: channels between the two convolutions; None: as many.
    """

    def __init__(self, channels: int, residual: bool = True, hidden: int | None = None) -> None:
        super().__init__()
        self.reduce = Conv(channels, hidden or channels, 1)
        self.conv = Conv(hidden or channels, channels, 3)
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
        transition: whether a 1x1 follows the bottlenecks (YOLOv4-CSP has it; the P6 family fuses first).
        joint_norm: whether norm and activation follow the concatenation instead of each branch.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int,
        residual: bool = True,
        transition: bool = False,
        joint_norm: bool = False,
    ) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.side = branch_end(in_channels, hidden, joint_norm)
        self.main = nn.Sequential(Conv(in_channels, hidden), *(Bottleneck(hidden, residual) for _ in range(depth)))
        if transition:
            self.main.append(branch_end(hidden, hidden, joint_norm))
        self.join = NormAct(2 * hidden) if joint_norm else nn.Identity()
        self.fuse = Conv(2 * hidden, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return self.fuse(self.join(torch.cat([self.main(x), self.side(x)], dim=1)))  # type: ignore[no-any-return]


class NeckCSPBlock(nn.Module):
    """A 1x1 in front of the split, so that both branches read the reduced map; no residuals (Scaled-YOLOv4, CSP-PAN).

    Args:
        in_channels, out_channels: channels of input and output; both branches are as wide as the output.
        depth: number of bottlenecks.
        joint_norm: whether norm and activation follow the concatenation instead of each branch.
    """

    def __init__(self, in_channels: int, out_channels: int, depth: int, joint_norm: bool = False) -> None:
        super().__init__()
        self.entry = Conv(in_channels, out_channels)
        self.side = branch_end(out_channels, out_channels, joint_norm)
        self.main = nn.Sequential(*(Bottleneck(out_channels, residual=False) for _ in range(depth)))
        self.join = NormAct(2 * out_channels) if joint_norm else nn.Identity()
        self.fuse = Conv(2 * out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        x = self.entry(x)
        return self.fuse(self.join(torch.cat([self.main(x), self.side(x)], dim=1)))  # type: ignore[no-any-return]


def branch_end(in_channels: int, out_channels: int, joint_norm: bool) -> nn.Module:
    """The 1x1 that ends a branch: bare where norm and activation wait behind the concatenation."""
    return nn.Conv2d(in_channels, out_channels, 1, bias=False) if joint_norm else Conv(in_channels, out_channels)
