# SPDX-License-Identifier: Apache-2.0
"""Implicit knowledge as a plain vector (YOLOR eq. 6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unified.contracts.protocols import Latent


class VectorLatent(Latent):
    """z itself is learned; its numbers are independent of each other.

    Args:
        width: numbers in z.
        mean: value at which the operator is the identity: (width,) or one number.
        std: deviation of the initial values; near zero, so that the network starts as the identity.
    """

    def __init__(self, width: int, mean: Tensor | float, std: float = 0.02) -> None:
        super().__init__()
        self.z = nn.Parameter(mean + std * torch.randn(width))

    def forward(self) -> Tensor:
        return self.z
