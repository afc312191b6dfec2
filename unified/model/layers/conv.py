# SPDX-License-Identifier: Apache-2.0
"""The convolution everything is made of."""

from __future__ import annotations

from torch import Tensor, nn


class Conv(nn.Module):
    """Convolution without bias, batch norm, SiLU; padded so that stride 1 keeps the size.

    Args:
        in_channels, out_channels: channels of input and output.
        kernel: side of the square kernel.
        stride: 1 keeps the size, 2 halves it (rounding up).
        groups: 1 for a full convolution, ``in_channels`` for a depthwise one.
        act: False leaves the activation out.
        dilation: cells from one tap of the kernel to the next.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        padding = kernel // 2 * dilation
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.1)
        self.act: nn.Module = nn.SiLU(inplace=True) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        return self.act(self.norm(self.conv(x)))  # type: ignore[no-any-return]


class NormAct(nn.Module):
    """What follows a convolution, alone: batch norm and SiLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.1)
        self.act: nn.Module = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return self.act(self.norm(x))  # type: ignore[no-any-return]
