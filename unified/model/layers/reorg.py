# SPDX-License-Identifier: Apache-2.0
"""Space to depth: half the size, four times the channels, nothing lost."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ReOrg(nn.Module):
    """The four pixels of every 2x2 square side by side as channels.

    Blocks of C channels in the order of the published networks: (even row, even column), (odd, even), (even, odd),
    (odd, odd).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 C, H / 2, W / 2); H and W even."""
        return torch.cat([x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)], dim=1)


class Haar(nn.Module):
    """One step of the orthonormal Haar wavelet (Daubechies 1), kept in the range of the pixels.

    Low band halved, the three high bands halved and moved by one half: input in [0, 1] gives output in [0, 1]
    (YOLOR, appendix A, stems C and F). Blocks of C channels: average, difference of rows, of columns, of diagonals.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 C, H / 2, W / 2); H and W even."""
        a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
        high = torch.cat([a + b - c - d, a - b + c - d, a - b - c + d], dim=1)
        return torch.cat([(a + b + c + d) / 4, high / 4 + 0.5], dim=1)
