# SPDX-License-Identifier: Apache-2.0
"""What all layers of a model have in common: its norms and its activation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from unified.contracts.config import ModelConfig
from unified.model.layers.conv import Conv, NormAct
from unified.model.norms import GroupNorm, use_group_norms

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "silu": lambda: nn.SiLU(inplace=True),
    "mish": lambda: nn.Mish(inplace=True),
    "leaky": lambda: nn.LeakyReLU(0.1, inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
}


def restyle(module: nn.Module, model: ModelConfig) -> nn.Module:
    """Gives every batch norm and every activation of the blocks what the model says; what it leaves open stays.

    Group norms take the place of batch norms where it says so. Activations that a block leaves out on purpose, and
    those of parts from elsewhere (a timm trunk), stay too.
    """
    if model.norm.kind == "group":
        use_group_norms(module, model.norm.groups)
    for part in module.modules():
        if isinstance(part, GroupNorm):
            part.eps = part.eps if model.norm.eps is None else model.norm.eps
        elif isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
            part.eps = part.eps if model.norm.eps is None else model.norm.eps
            part.momentum = part.momentum if model.norm.momentum is None else model.norm.momentum
        elif isinstance(part, Conv | NormAct) and model.activation and not isinstance(part.act, nn.Identity):
            part.act = ACTIVATIONS[model.activation]()
    return module
