# SPDX-License-Identifier: Apache-2.0
"""Implicit knowledge as the answer of a small network to a learned prior (YOLOR eq. 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unified.contracts.errors import ConfigError, suggestion
from unified.contracts.protocols import Latent

HIDDEN: Mapping[str, Callable[[Tensor], Tensor]] = {  # each is 0 at 0, so that a zero prior gives the mean
    "silu": F.silu,
    "gelu": F.gelu,
    "relu": F.relu,
    "tanh": torch.tanh,
    "none": lambda x: x,
}


class NeuralLatent(Latent):
    """W z + b, or deeper: the numbers of the answer depend on each other through a shared prior z.

    At inference it is a constant like any other latent, whatever its depth and width.

    Args:
        width: numbers in the answer.
        mean: value at which the operator is the identity, (width,) or one number; b starts there.
        prior: numbers in z; None: twice the width, as in YOLOR's experiments.
        depth: linear layers; all but the last are as wide as the prior and followed by ``hidden``.
        hidden: silu, gelu, relu, tanh or none.
        std: deviation of the initial prior; near zero, so that the network starts as the identity.

    Raises:
        ConfigError: an unknown ``hidden``, or a depth or prior below 1.
    """

    def __init__(
        self,
        width: int,
        mean: Tensor | float,
        prior: int | None = None,
        depth: int = 1,
        hidden: str = "silu",
        std: float = 0.02,
    ) -> None:
        super().__init__()
        prior = 2 * width if prior is None else prior
        if hidden not in HIDDEN:
            raise ConfigError(f"latent 'neural': unknown hidden '{hidden}'{suggestion(hidden, HIDDEN)}")
        if depth < 1 or prior < 1:
            raise ConfigError(f"latent 'neural': depth and prior must be at least 1, got {depth} and {prior}")
        self.z = nn.Parameter(std * torch.randn(prior))
        self.layers = nn.ModuleList(nn.Linear(prior, prior) for _ in range(depth - 1))
        self.out = nn.Linear(prior, width)
        self.hidden = hidden
        with torch.no_grad():
            for layer in self.layers:
                layer.bias.zero_()  # type: ignore[union-attr,operator]
            self.out.bias.copy_(torch.as_tensor(mean).expand(width))

    def forward(self) -> Tensor:
        h: Tensor = self.z
        for layer in self.layers:
            h = HIDDEN[self.hidden](layer(h))
        return self.out(h)  # type: ignore[no-any-return]
