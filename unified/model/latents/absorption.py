# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of folding: how a convolution or linear layer takes a constant affine map into its weights.

Everything is computed in double precision and written back in the layer's own type and memory layout.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unified.contracts.protocols import PixelMap, Port

KNOWN = (nn.Conv2d, nn.Linear)  # a subclass may use its weight in ways of its own


def is_full(change: PixelMap) -> bool:
    """Whether channels are mixed."""
    return change.matrix is not None and change.matrix.dim() == 2


def why_not_behind(port: Port, change: PixelMap) -> str | None:
    """Why the layer that makes x cannot take the change; None if it can, exactly."""
    if type(port.layer) not in KNOWN:
        return f"{type(port.layer).__name__} is no plain convolution or linear layer"
    if getattr(port.layer, "groups", 1) > 1 and is_full(change):
        return "the convolution in front of it is grouped"
    norm = _norm(port)
    if norm is not None and (is_full(change) or norm.weight is None or norm.bias is None):
        return "a norm stands between the convolution and the site"
    return None


def why_not_in_front(port: Port, change: PixelMap) -> str | None:
    """Why a layer that reads x cannot take the change; None if it can, exactly."""
    layer = port.layer
    if type(layer) not in KNOWN:
        return f"{type(layer).__name__} is no plain convolution or linear layer"
    if not isinstance(layer, nn.Conv2d):
        return None
    if change.shift is not None and layer.padding_mode == "zeros" and _pads(layer):
        side = "x".join(map(str, layer.kernel_size))
        return f"a shift in front of a zero-padded {side} convolution is not exact at the border"
    if layer.groups > 1 and (is_full(change) or port.rows != slice(None)):
        return "the convolution behind it is grouped"
    return None


def absorb_behind(port: Port, change: PixelMap) -> None:
    """W' = M W, b' = M b + t, for the layer that makes x (or for the norm behind it, which has the last word)."""
    weight, bias = _parameters(_norm(port) or port.layer)
    moved = bias[port.rows].double()
    if change.matrix is not None:
        matrix = change.matrix.double()
        weight[port.rows] = _times(matrix, weight[port.rows].double()).to(weight.dtype)
        moved = _times(matrix, moved)
    if change.shift is not None:
        moved = moved + change.shift.double()
    bias[port.rows] = moved.to(bias.dtype)


def absorb_in_front(port: Port, change: PixelMap) -> None:
    """W' = W M, b' = b + W t, for a layer that reads x."""
    weight: Tensor = port.layer.weight  # type: ignore[assignment]
    exact = weight[port.rows].double()
    if change.shift is not None:
        per_input = exact.flatten(2).sum(2) if exact.dim() > 2 else exact  # (rows, C / groups)
        _shift(port, _grouped_product(per_input, change.shift.double(), port.layer))
    if change.matrix is not None:
        weight[port.rows] = _columns(exact, change.matrix.double(), port.layer).to(weight.dtype)


def _norm(port: Port) -> nn.Module | None:
    return None if isinstance(port.norm, nn.Identity) else port.norm


def _pads(conv: nn.Conv2d) -> bool:
    if isinstance(conv.padding, str):
        return conv.padding == "same" and any(side > 1 for side in conv.kernel_size)
    return any(side > 0 for side in conv.padding)


def _shift(port: Port, change: Tensor) -> None:
    """Adds to what a layer puts out: to its bias, or away from the running mean of its batch norm."""
    norm = port.norm
    if isinstance(norm, _BatchNorm) and norm.running_mean is not None:
        mean = norm.running_mean
        mean[port.rows] = (mean[port.rows].double() - change).to(mean.dtype)
        return
    _, bias = _parameters(port.layer)
    bias[port.rows] = (bias[port.rows].double() + change).to(bias.dtype)


def _parameters(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer; one without a bias is given a zero one."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    if layer.bias is None:
        layer.bias = nn.Parameter(weight.new_zeros(len(weight)), requires_grad=False)
    return weight, layer.bias  # type: ignore[return-value]


def _times(matrix: Tensor, rows: Tensor) -> Tensor:
    """M W for a diagonal (C,) or full (C, C) matrix and a tensor (C, ...)."""
    if matrix.dim() == 1:
        return matrix.view(-1, *[1] * (rows.dim() - 1)) * rows
    return torch.einsum("oc,c...->o...", matrix, rows)


def _columns(weight: Tensor, matrix: Tensor, layer: nn.Module) -> Tensor:
    """W M for a weight (rows, C / groups, ...) and a matrix of the C input channels."""
    if matrix.dim() == 2:
        return torch.einsum("oc...,ci->oi...", weight, matrix)
    groups = getattr(layer, "groups", 1)
    scale = matrix.view(groups, 1, -1, *[1] * (weight.dim() - 2))
    return (weight.reshape(groups, -1, *weight.shape[1:]) * scale).reshape(weight.shape)


def _grouped_product(weight: Tensor, shift: Tensor, layer: nn.Module) -> Tensor:
    """W t for a weight (rows, C / groups) and a shift (C,) of the input: (rows,)."""
    groups = getattr(layer, "groups", 1)
    return (weight.reshape(groups, -1, weight.shape[1]) @ shift.view(groups, -1, 1)).flatten()
