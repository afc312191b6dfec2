# SPDX-License-Identifier: Apache-2.0
"""Implicit knowledge as a mixture of learned basis vectors (YOLOR eq. 8)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Latent


class FactorizedLatent(Latent):
    """mean + Z^T c: basis vectors Z and their coefficients c are both learned.

    Args:
        width: numbers in the answer.
        mean: value at which the operator is the identity, (width,) or one number.
        rank: number of basis vectors; None: twice the width, as in YOLOR's experiments.
        std: deviation of the initial answer around the mean; near zero, so that the network starts as the identity.
        nonnegative: Z and c enter by their absolute values, so that the answer never falls below the mean.

    Raises:
        ConfigError: a rank below 1.
    """

    mean: Tensor

    def __init__(
        self,
        width: int,
        mean: Tensor | float,
        rank: int | None = None,
        std: float = 0.02,
        nonnegative: bool = False,
    ) -> None:
        super().__init__()
        rank = 2 * width if rank is None else rank
        if rank < 1:
            raise ConfigError(f"latent 'factorized': rank must be at least 1, got {rank}")
        self.basis = nn.Parameter(std * torch.randn(rank, width))
        self.coefficients = nn.Parameter(torch.randn(rank) / rank**0.5)
        self.nonnegative = nonnegative
        self.register_buffer("mean", torch.as_tensor(mean).float().expand(width).clone(), persistent=False)

    def forward(self) -> Tensor:
        if self.nonnegative:
            return self.mean + self.coefficients.abs() @ self.basis.abs()
        return self.mean + self.coefficients @ self.basis
