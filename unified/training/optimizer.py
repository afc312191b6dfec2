# SPDX-License-Identifier: Apache-2.0
"""The optimizer, its parameter groups and the law of its learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from unified.contracts.config import TrainConfig
from unified.training.joint import JointModel
from unified.training.muon import Muon


def parameter_groups(model: JointModel, config: TrainConfig) -> list[dict[str, Any]]:
    """Three groups: weights that decay, those that do not (norms, biases, proxies), and the latents.

    z is never decayed: it would be pulled to zero, which is not its identity where it multiplies.
    """
    latents = {id(p) for p in model.network.bank.parameters()}
    proxies = {id(p) for p in model.tasks.parameters()}
    groups: dict[str, list[nn.Parameter]] = {"decay": [], "plain": [], "latents": []}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in latents:
            groups["latents"].append(parameter)
        else:
            plain = parameter.ndim < 2 or id(parameter) in proxies
            groups["plain" if plain else "decay"].append(parameter)
    scale = {"latents": config.latent_lr}
    decay = {"decay": config.weight_decay}
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


def learning_rate(progress: float, config: TrainConfig) -> float:
    """Linear warm-up over the first ``warmup`` of the run, then a cosine down to ``lr * lr_final``.

    progress: share of the run behind us, 0..1.
    """
    if progress < config.warmup:
        return config.lr * max(progress / config.warmup, 0.01)
    part = min(1.0, (progress - config.warmup) / (1 - config.warmup))
    cosine = (1 + math.cos(math.pi * part)) / 2
    return config.lr * (config.lr_final + (1 - config.lr_final) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every group its share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
