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

KINDS = ("decay", "biases", "plain", "latents")


def parameter_groups(model: JointModel, config: TrainConfig) -> list[dict[str, Any]]:
    """Groups by kind and, within a kind, by :func:`rate_factors`.

    The kinds: weights that decay, those that do not (norms, biases, proxies), and the latents. Biases, those of norms
    too, are a kind apart where they warm up in their own way. z is never decayed: it would be pulled to zero, which is
    not its identity where it multiplies.
    """
    kinds, factors = _kinds(model, config), rate_factors(model, config)
    found: dict[tuple[str, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            found.setdefault((kinds[id(parameter)], factors.get(id(parameter), 1.0)), []).append(parameter)
    scale = {"latents": config.latent_lr}
    decay = {"decay": config.weight_decay * decay_scale(config)}
    return [
        {
            "params": found[kind, factor],
            "name": kind if factor == 1 else f"{kind} x{factor:.6g}",
            "kind": kind,
            "scale": scale.get(kind, 1.0) * factor,
            "weight_decay": decay.get(kind, 0.0),
        }
        for kind, factor in sorted(found, key=lambda key: KINDS.index(key[0]))
    ]


def _kinds(model: JointModel, config: TrainConfig) -> dict[int, str]:
    """The kind of every parameter, by its id."""
    latents = {id(p) for p in model.network.bank.parameters()}
    proxies = {id(p) for p in model.tasks.parameters()}
    kinds: dict[int, str] = {}
    for name, parameter in model.named_parameters():
        key = id(parameter)
        plain = parameter.ndim < 2 or key in proxies
        own_bias = config.warmup_bias_lr is not None and name.rpartition(".")[2] == "bias" and key not in proxies
        kinds[key] = "latents" if key in latents else "biases" if own_bias else "plain" if plain else "decay"
    return kinds


def rate_factors(model: JointModel, config: TrainConfig) -> dict[int, float]:
    """What multiplies the learning rate of a parameter, by its id; 1 where it is missing.

    The part's own rate, that of the task alone that uses it, and inside the trunk ``layer_decay`` once for every stage
    from there to the trunk's end, the parameter's own included (Howard and Ruder 2018, discriminative fine-tuning;
    Clark et al. 2020, ELECTRA).
    """
    network = model.network
    factors: dict[int, float] = {}
    for part, rate in ((network.neck, config.neck_lr), (network.heads, config.head_lr)):
        factors |= {id(p): rate for p in part.parameters()}
    stages = network.backbone.by_depth()
    for depth, stage in enumerate(stages):
        factor = config.backbone_lr * config.layer_decay ** (len(stages) - depth)
        factors |= {id(p): factor for p in stage}
    for task, rate in model.rates.items():
        factors |= {id(p): rate * factors.get(id(p), 1.0) for p in model.parameters_of(task)}
    return factors


def make_optimizer(model: JointModel, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW, SGD with Nesterov momentum, or Muon over :func:`parameter_groups`."""
    groups = parameter_groups(model, config)
    if config.optimizer == "muon":
        for group in groups:
            group["matrix"] = group["kind"] == "decay"
            group["scale"] *= config.matrix_lr if group["matrix"] else 1.0
        return Muon(groups, lr=config.lr, betas=(config.momentum, 0.99))
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.99), fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float, bias_rate: float | None = None) -> None:
    """Gives every group its share of the rate, and the biases of their own where they are a group."""
    for group in optimizer.param_groups:
        own = bias_rate if group["kind"] == "biases" and bias_rate is not None else rate
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
