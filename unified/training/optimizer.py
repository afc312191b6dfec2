# SPDX-License-Identifier: Apache-2.0
"""The optimizer and its parameter groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from unified.contracts.config import TrainConfig
from unified.training.course import Setting, decay_scale
from unified.training.joint import JointModel
from unified.training.muon import Muon


def parameter_groups(model: JointModel, config: TrainConfig) -> list[dict[str, Any]]:
    """Groups of weights that decay, those that do not (norms, biases, proxies), and the latents.

    Biases, those of norms too, are a group apart where they warm up in their own way.
    z is never decayed: it would be pulled to zero, which is not its identity where it multiplies.
    """
    latents = {id(p) for p in model.network.bank.parameters()}
    proxies = {id(p) for p in model.tasks.parameters()}
    groups: dict[str, list[nn.Parameter]] = {"decay": [], "biases": [], "plain": [], "latents": []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in latents:
            groups["latents"].append(parameter)
        elif config.warmup_bias_lr is not None and name.rpartition(".")[2] == "bias" and id(parameter) not in proxies:
            groups["biases"].append(parameter)
        else:
            plain = parameter.ndim < 2 or id(parameter) in proxies
            groups["plain" if plain else "decay"].append(parameter)
    scale = {"latents": config.latent_lr}
    decay = {"decay": config.weight_decay * decay_scale(config)}
    return [
        {"params": parameters, "name": name, "scale": scale.get(name, 1.0), "weight_decay": decay.get(name, 0.0)}
        for name, parameters in groups.items()
        if parameters
    ]


def make_optimizer(model: JointModel, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW, SGD with Nesterov momentum, or Muon over :func:`parameter_groups`."""
    groups = parameter_groups(model, config)
    if config.optimizer == "muon":
        for group in groups:
            group["matrix"] = group["name"] == "decay"
            group["scale"] *= config.matrix_lr if group["matrix"] else 1.0
        return Muon(groups, lr=config.lr, betas=(config.momentum, 0.99))
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.99), fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float, bias_rate: float | None = None) -> None:
    """Gives every group its share of the rate, and the biases of their own where they are a group."""
    for group in optimizer.param_groups:
        own = bias_rate if group["name"] == "biases" and bias_rate is not None else rate
        group["lr"] = own * group["scale"]


def set_momentum(optimizer: torch.optim.Optimizer, momentum: float) -> None:
    """SGD's momentum, or the beta1 of AdamW's groups; Muon's own stays."""
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def steer(optimizer: torch.optim.Optimizer, setting: Setting) -> None:
    """Sets an optimizer for one step."""
    set_learning_rate(optimizer, setting.lr, setting.bias_lr)
    if setting.momentum is not None:
        set_momentum(optimizer, setting.momentum)
