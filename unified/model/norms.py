# SPDX-License-Identifier: Apache-2.0
"""Other norms in the place of batch norms, under the same names: group norms, synchronised ones, ones that stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from unified.contracts.errors import ConfigError
from unified.model.network import UnifiedNetwork

LEAST = 4  # channels of a group: of fewer too little is left once their mean is taken away


class GroupNorm(nn.GroupNorm):
    """Group norm (Wu and He 2018), and what a batch norm with its own activation does behind it."""

    def __init__(self, norm: _BatchNorm, groups: int) -> None:
        super().__init__(groups_of(norm.num_features, groups), norm.num_features, norm.eps)
        self.weight, self.bias = norm.weight, norm.bias
        self.drop, self.act = _behind(norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        return self.act(self.drop(super().forward(x)))  # type: ignore[no-any-return]


class SyncedNorm(nn.SyncBatchNorm):
    """Batch norm over the images of all ranks, on CPUs too, and what stands behind it."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.drop, self.act = _behind(norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        if x.device.type != "cpu":
            y = super().forward(x)
        elif self.training and distributed.is_initialized() and distributed.get_world_size() > 1:
            y = self._of_all(x)
        else:
            y = _BatchNorm.forward(self, x)
        return self.act(self.drop(y))  # type: ignore[no-any-return]

    def _of_all(self, x: Tensor) -> Tensor:
        """Mean and variance by two sums over all ranks (Ioffe and Szegedy 2015, algorithm 1)."""
        dims, shape = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
        count = x.numel() // x.shape[1] * distributed.get_world_size()
        mean = _over_ranks(x.sum(dims)) / count
        centred = x - mean.view(shape)
        variance = _over_ranks(centred.square().sum(dims)) / count
        self._remember(mean.detach(), variance.detach() * (count / max(count - 1, 1)))
        y: Tensor = centred * (variance + self.eps).rsqrt().view(shape)
        return y * self.weight.view(shape) + self.bias.view(shape) if self.affine else y

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def _over_ranks(total: Tensor) -> Tensor:
    """The sum over all ranks, gradients too."""
    return all_reduce(total)  # type: ignore[no-untyped-call,no-any-return]


def groups_of(channels: int, most: int) -> int:
    """The largest number of equal groups, ``most`` at most, of at least four channels each (or of all there are)."""
    least = min(LEAST, channels)
    return max(n for n in range(1, most + 1) if channels % n == 0 and channels // n >= least)


def use_group_norms(module: nn.Module, groups: int) -> None:
    """Puts group norms in the place of all batch norms; scales and shifts stay, statistics are no more."""
    _replace(module, lambda norm: GroupNorm(norm, groups))


def settle_norms(
    network: UnifiedNetwork,
    how: Literal["own", "sync", "frozen", "frozen-statistics"],
    where: Literal["backbone", "network"] = "backbone",
    fresh: bool = True,
) -> None:
    """How batch norms learn: ``train.batch_norm``.

    ``own``: from the images of their rank. ``sync``: of all ranks. ``frozen-statistics``: mean and variance stand
    still, scale and shift learn. ``frozen``: all of it stands still.

    Args:
        where: the norms that are frozen.
        fresh: whether the weights are those that training begins with, so that statistics must be there already.

    Raises:
        ConfigError: norms are to stand still that have seen no image yet.
    """
    if how == "sync":
        _replace(network, SyncedNorm)
    if not how.startswith("frozen"):
        return
    norms = list(_norms(network.backbone if where == "backbone" else network))
    if fresh and (not norms or not all(map(_knows, norms))):
        what = f"{sum(map(_knows, norms))} of the {len(norms)} batch norms of the {where}"
        raise ConfigError(
            f"train.batch_norm {how}: {what} know statistics; begin with weights (--from, or a pretrained trunk), "
            f"or choose own{' or train.frozen_norms backbone' if where == 'network' else ''}"
        )
    network.standing += tuple(norms)
    for norm in norms if how == "frozen" else ():
        norm.requires_grad_(False)
    network.train(network.training)


def _norms(module: nn.Module) -> Iterator[_BatchNorm]:
    yield from (part for part in module.modules() if isinstance(part, _BatchNorm))


def _knows(norm: _BatchNorm) -> bool:
    """Whether a norm has other statistics than those it was born with."""
    mean, variance = norm.running_mean, norm.running_var
    return mean is not None and variance is not None and bool(mean.any() or (variance != 1).any())


def _behind(norm: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The dropout and the activation that timm's batch norms bring with them."""
    return getattr(norm, "drop", None) or nn.Identity(), getattr(norm, "act", None) or nn.Identity()


def _replace(module: nn.Module, made: Callable[[_BatchNorm], nn.Module]) -> None:
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, made(child).train(child.training))
