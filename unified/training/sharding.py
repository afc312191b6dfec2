# SPDX-License-Identifier: Apache-2.0
"""One network over several ranks: each keeps a part of weights, gradients, moments and moving average (FSDP2).

Accelerate's plugin lays out what torch's ``fully_shard`` does (Rajbhandari et al. 2020, ZeRO; Zhao et al. 2023, PyTorch
FSDP). Network and losses are one group: its weights are brought together once a step, before the forward pass, and its
gradients are parted once, behind the backward pass. So ranks still agree on memory that is too short in between, and
what a step sees is what it would see without.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from unified.contracts.config import RunConfig
from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Balancer, GradientBalancer
from unified.contracts.structures import LossTerm
from unified.hardware import Hardware

if TYPE_CHECKING:
    from accelerate.utils import FullyShardedDataParallelPlugin

    from unified.training.ema import MovingAverage
    from unified.training.joint import JointModel

_SWITCH = "ACCELERATE_USE_FSDP"


def wanted(config: RunConfig) -> bool:
    """Whether a run's network is to be parted: asked for, and there is more than one rank."""
    return config.train.shard and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def plugged(config: RunConfig) -> Iterator[FullyShardedDataParallelPlugin | None]:
    """Accelerate's plugin for a run whose network is to be parted, else None.

    Accelerate tells itself of a plugin by an environment variable, which must not outlive the run.
    """
    if not wanted(config):
        yield None
        return
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import MixedPrecisionPolicy

    before = os.environ.get(_SWITCH)
    try:
        # autocast decides on precision; weights and gradients travel as they are
        yield FullyShardedDataParallelPlugin(fsdp_version=2, mixed_precision_policy=MixedPrecisionPolicy())
    finally:
        os.environ.pop(_SWITCH, None)
        os.environ.update({} if before is None else {_SWITCH: before})


def accept(accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin | None) -> None:
    """Has accelerate part networks on CPUs too; there it leaves a plugin aside, though torch can."""
    if plugin is not None and accelerator.distributed_type == DistributedType.MULTI_CPU:
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin


def check(config: RunConfig, balancer: Balancer, hardware: Hardware) -> None:
    """Whether a run can do with parts.

    Raises:
        ConfigError: it asks for something that needs whole weights or gradients.
    """
    if not wanted(config):
        return
    train, reasons = config.train, list[str]()
    if train.optimizer == "muon":
        reasons.append("optimizer: muon needs whole matrices; take adamw or sgd")
    if isinstance(balancer, GradientBalancer) and len(config.tasks) > 1:
        reasons.append(f"balance: {config.balance.name} compares whole gradients; take one that weighs losses")
    if train.diagnostics.every is not None:
        reasons.append("diagnostics compare whole gradients; leave them out")
    if train.compile:
        reasons.append("compile has not been tried with it; leave it out")
    if config.growth.distill:
        reasons.append("distilled growth has not been tried with it; freeze the trunk instead")
    if hardware.precision == "fp16":
        reasons.append("precision: fp16 has not been tried with it; take bf16 or fp32")
    if reasons:
        raise ConfigError(f"train.shard: {'; '.join(reasons)}; or leave shard out")


def layout(accelerator: Accelerator) -> int | str:
    """How many ranks there are and, where each has only a part, that: both decide about bits."""
    return f"{accelerator.num_processes}, sharded" if accelerator.is_fsdp2 else accelerator.num_processes


class Shards:
    """A model that ranks share: with a copy on each, or in parts.

    To be made before anything is parted, and before an optimizer is given weights: parts must lie in plain order.
    """

    def __init__(self, model: JointModel, accelerator: Accelerator, hardware: Hardware) -> None:
        self.model, self.accelerator, self.hardware = model, accelerator, hardware
        self._whole: nn.Module | None = None
        if accelerator.is_fsdp2:
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            self._whole = copy.deepcopy(model.network).cpu().requires_grad_(False)

    def prepare(self, optimizer: torch.optim.Optimizer, average: MovingAverage | None) -> tuple[Any, Any]:
        """Model and optimizer as ranks share them; of a model in parts the average gets the same parts."""
        wrapped, optimizer = self.accelerator.prepare(self.model, optimizer)
        if self._whole is not None:
            _known_to_graphs()
            self.model.forward = _plain(self.model.forward, self.hardware)  # type: ignore[method-assign]
            if average:
                _part(average.network, dict(self.model.network.named_parameters()))
        return wrapped, optimizer

    @torch.no_grad()
    def whole(self, network: nn.Module) -> nn.Module:
        """A network as one, to be evaluated; of one in parts always the same object. Every rank must call it."""
        if self._whole is None:
            return network
        self._whole.load_state_dict(whole(network.state_dict()))
        return self.hardware.place(self._whole)


def _part(network: nn.Module, references: Mapping[str, Tensor]) -> None:
    """Replaces the parameters of a network by parts like those of others of their names."""
    for name, parameter in [*network.named_parameters()]:
        place, _, own = name.rpartition(".")
        parted = nn.Parameter(spread(parameter.detach(), references[name]), requires_grad=False)
        network.get_submodule(place)._parameters[own] = parted


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as they are without ranks; those in parts are brought together, for which every rank must call.

    They come by name: where tensors were read from a file, the order is another one in every process.
    """
    return {name: joined(tensors[name]) for name in sorted(tensors)}


def joined(tensor: Tensor) -> Tensor:
    """A tensor as it is without ranks."""
    return tensor.full_tensor() if parted(tensor) else tensor  # type: ignore[attr-defined,no-any-return]


def parted(tensor: Tensor) -> bool:
    """Whether this rank has only a part of a tensor."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """This rank's part; what is whole stays as it is."""
    return tensor.to_local() if parted(tensor) else tensor  # type: ignore[attr-defined,no-any-return]


@torch.no_grad()
def spread(value: Tensor, like: Tensor) -> Tensor:
    """A copy of a value in the memory layout of a tensor of its shape, and in its parts; any other as it is."""
    if value.shape != like.shape:
        return value
    if not parted(like):
        return torch.empty_like(like).copy_(value)
    from torch.distributed.tensor import distribute_tensor

    mesh: Any = like.device_mesh  # type: ignore[attr-defined]
    placed = value.to(like.device, like.dtype)
    return distribute_tensor(placed, mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]


def fitted(tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """A checkpoint's tensors as a module in parts takes them; of other names and shapes as they are."""
    own = module.state_dict()
    return {n: spread(t, own[n]) if n in own and parted(own[n]) else t for n, t in tensors.items()}


@torch.no_grad()
def forget_gradients(model: Any) -> None:
    """No gradient remains, neither of parts nor of whole weights whose gradients have not been parted yet.

    Every rank must call it.
    """
    model.unshard()
    model.zero_grad(set_to_none=True)
    model.reshard()
    model.zero_grad(set_to_none=True)


@cache
def _known_to_graphs() -> None:
    """Torch looks for tensors in what a forward pass returns, and must know what a loss term is made of."""
    torch.export.register_dataclass(LossTerm)


def _plain(forward: Callable[..., Any], hardware: Hardware) -> Callable[..., Any]:
    """A forward pass in the run's precision, whose terms stand in dictionaries, in which torch finds them."""

    def told(batch: Any) -> dict[str, dict[str, LossTerm]]:
        with hardware.autocast():
            return {task: dict(terms) for task, terms in forward(batch).items()}

    return told
