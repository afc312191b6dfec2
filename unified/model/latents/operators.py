# SPDX-License-Identifier: Apache-2.0
"""How implicit knowledge meets explicit features (YOLOR eq. 3: add, multiply, concatenate)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unified.contracts.protocols import Operator


def _as(z: Tensor, x: Tensor) -> Tensor:
    """z of shape (C,) in the shape and type that broadcasts over x: (1, C, 1, 1) or (1, C)."""
    return z.to(x.dtype).view(1, -1, *[1] * (x.dim() - 2))


class Add(Operator):
    """x + z: offset refinement, alignment."""

    identity = 0.0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.width = channels

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return x + _as(z, x)


class Mul(Operator):
    """x * z: anchor refinement, scaling."""

    identity = 1.0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.width = channels

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return x * _as(z, x)


class Concat(Operator):
    """[z, x] through a 1x1 that starts by passing x on: a pre-condition.

    Because z does not depend on the image, its part of the 1x1 is a learned bias; keeping z apart keeps its own
    learning rate and its own meaning.
    """

    identity = 0.0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.width = channels
        self.mix = nn.Linear(2 * channels, channels)
        with torch.no_grad():
            self.mix.weight[:, channels:] = torch.eye(channels)
            self.mix.bias.zero_()

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        pair = torch.cat([_as(z, x).expand_as(x), x], dim=1)
        return self.mix(pair.movedim(1, -1)).movedim(-1, 1)  # type: ignore[no-any-return]
