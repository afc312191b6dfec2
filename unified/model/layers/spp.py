# SPDX-License-Identifier: Apache-2.0
"""Spatial pyramid pooling (He et al. 2015), in the serial form that costs one small pool three times."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unified.model.layers.conv import Conv


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
