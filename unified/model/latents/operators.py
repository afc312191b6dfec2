# SPDX-License-Identifier: Apache-2.0
"""How implicit knowledge meets explicit features (YOLOR eq. 3: add, multiply, concatenate)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Operator, PixelMap


def _as(z: Tensor, x: Tensor) -> Tensor:
    """z of shape (C,) in the shape and type that broadcasts over x: (1, C, 1, 1) or (1, C)."""
    return z.to(x.dtype).view(1, -1, *[1] * (x.dim() - 2))


class Add(Operator):
    """x + z: offset refinement, alignment."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.width = channels

    def identity(self) -> Tensor:
        return torch.zeros(self.width)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return x + _as(z, x)

    def affine(self, z: Tensor) -> PixelMap:
        return PixelMap(None, z)


class Mul(Operator):
    """x * z: anchor refinement, scaling."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.width = channels

    def identity(self) -> Tensor:
        return torch.ones(self.width)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return x * _as(z, x)

    def affine(self, z: Tensor) -> PixelMap:
        return PixelMap(z, None)


class Affine(Operator):
    """x * z_1 + z_2, with z = [z_1, z_2]: scaling and offset at once."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.width = 2 * channels

    def identity(self) -> Tensor:
        return torch.cat([torch.ones(self.width // 2), torch.zeros(self.width // 2)])

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        scale, shift = z.chunk(2)
        return x * _as(scale, x) + _as(shift, x)

    def affine(self, z: Tensor) -> PixelMap:
        scale, shift = z.chunk(2)
        return PixelMap(scale, shift)


class Select(Operator):
    """gain * sigmoid(z) * x: feature selection, a gate for every channel.

    Args:
        channels: C.
        gain: 2 starts as the identity at z = 0 and lets a channel grow to twice its value. The paper's plain form is
            1: a gate that only closes; no z makes it the identity, it starts by halving every channel.
    """

    def __init__(self, channels: int, gain: float = 2.0) -> None:
        super().__init__()
        if gain < 1:
            raise ConfigError(f"operator 'select': gain must be at least 1, got {gain}")
        self.width, self.gain = channels, gain

    def identity(self) -> Tensor:
        start = torch.tensor(1 / self.gain if self.gain > 1 else 0.5).logit()
        return start.expand(self.width).clone()

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return x * _as(self.gain * z.sigmoid(), x)

    def affine(self, z: Tensor) -> PixelMap:
        return PixelMap(self.gain * z.sigmoid(), None)


class Concat(Operator):
    """[z, x] through a 1x1 that starts by passing x on: a pre-condition.

    Because z does not depend on the image, its part of the 1x1 is a learned bias; keeping z apart keeps its own
    learning rate and its own meaning.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.width = channels
        self.mix = nn.Linear(2 * channels, channels)
        with torch.no_grad():
            self.mix.weight[:, channels:] = torch.eye(channels)
            self.mix.bias.zero_()

    def identity(self) -> Tensor:
        return torch.zeros(self.width)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        pair = torch.cat([_as(z, x).expand_as(x), x], dim=1)
        weight, bias = self.mix.weight.to(x.dtype), self.mix.bias.to(x.dtype)
        return linear(pair.movedim(1, -1), weight, bias).movedim(-1, 1)

    def affine(self, z: Tensor) -> PixelMap:
        of_z, of_x = self.mix.weight[:, : self.width], self.mix.weight[:, self.width :]
        return PixelMap(of_x, of_z @ z.to(of_z.dtype) + self.mix.bias)


class Only(Operator):
    """Any operator on some of a site's channels; the others pass (YOLOR's starred multiply: width and height only).

    Args:
        inner: the operator, built for ``len(index)`` channels.
        index: the channels it acts on.
        channels: C, all channels of the site.
    """

    index: Tensor

    def __init__(self, inner: Operator, index: Sequence[int], channels: int) -> None:
        super().__init__()
        self.inner, self.channels, self.width = inner, channels, inner.width
        self.register_buffer("index", torch.tensor(index, dtype=torch.int64), persistent=False)

    def identity(self) -> Tensor:
        return self.inner.identity()

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        part = self.inner(x.index_select(1, self.index), z)
        return x.index_copy(1, self.index, part.to(x.dtype))

    def affine(self, z: Tensor) -> PixelMap | None:
        part = self.inner.affine(z)
        if part is None:
            return None
        shift = (
            None if part.shift is None else part.shift.new_zeros(self.channels).index_copy(0, self.index, part.shift)
        )
        return PixelMap(None if part.matrix is None else self._widened(part.matrix), shift)

    def _widened(self, matrix: Tensor) -> Tensor:
        """The matrix of all channels, with ones on the diagonal where the operator does not act."""
        if matrix.dim() == 1:
            return matrix.new_ones(self.channels).index_copy(0, self.index, matrix)
        whole = torch.eye(self.channels, dtype=matrix.dtype, device=matrix.device)
        whole[self.index[:, None], self.index] = matrix
        return whole
