# SPDX-License-Identifier: Apache-2.0
"""What stands at a site in the place of a latent that no convolution could take: plain numbers, nothing to learn."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import linear

from unified.contracts.protocols import Operator, PixelMap


class Constant(nn.Module):
    """x' = M x + t, whatever the latent and the operator were that said so."""

    matrix: Tensor | None
    shift: Tensor | None

    def __init__(self, change: PixelMap) -> None:
        super().__init__()
        self.register_buffer("matrix", None if change.matrix is None else change.matrix.detach().clone())
        self.register_buffer("shift", None if change.shift is None else change.shift.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        shift = None if self.shift is None else self.shift.to(x.dtype)
        if self.matrix is not None and self.matrix.dim() == 2:
            return linear(x.movedim(1, -1), self.matrix.to(x.dtype), shift).movedim(-1, 1)
        over = (1, -1, *[1] * (x.dim() - 2))
        x = x if self.matrix is None else x * self.matrix.to(x.dtype).view(over)
        return x if shift is None else x + shift.view(over)


class Frozen(nn.Module):
    """The z of an operator that is no affine map of x, met by the same operator."""

    z: Tensor

    def __init__(self, z: Tensor, operator: Operator) -> None:
        super().__init__()
        self.register_buffer("z", z.detach().clone())
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        return self.operator(x, self.z)  # type: ignore[no-any-return]
