# SPDX-License-Identifier: Apache-2.0
"""What a network holds: its latents one by one, its free sites, its parameters by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from unified.model.build import sites
from unified.model.latents.fold import verdicts
from unified.model.network import UnifiedNetwork


@dataclass(frozen=True)
class LatentLine:
    """One latent. ``reason`` says why it cannot be folded into a convolution; None: it can, exactly."""

    task: str
    site: str
    latent: str
    operator: str
    shape: tuple[int, ...]  # of z as the operator meets it
    parameters: int  # of the latent and its operator
    reason: str | None


@dataclass(frozen=True)
class FreeSite:
    """A site where no latent stands."""

    task: str
    site: str
    channels: int


@dataclass(frozen=True)
class Inventory:
    """A network's latents, free sites and numbers of parameters."""

    latents: tuple[LatentLine, ...]
    free: tuple[FreeSite, ...]
    parameters: Mapping[str, int]  # by part, in the order of the features
    trunk_passes: int  # to answer all tasks

    @property
    def total(self) -> int:
        return sum(self.parameters.values())


def inventory(network: UnifiedNetwork) -> Inventory:
    """Takes stock of a network."""
    lines = tuple(
        LatentLine(
            verdict.entry.task,
            verdict.entry.site,
            *verdict.entry.words,
            shape=tuple(verdict.entry.latent().shape),
            parameters=_count(verdict.entry.latent) + _count(verdict.entry.operator),
            reason=verdict.reason,
        )
        for verdict in verdicts(network)
    )
    parts = {"backbone": network.backbone, "neck": network.neck, "latents": network.bank}
    heads = {f"head of {task}": head for task, head in network.heads.items()}
    return Inventory(
        lines, _free(network), {n: _count(m) for n, m in {**parts, **heads}.items()}, network.trunk_passes()
    )


def _free(network: UnifiedNetwork) -> tuple[FreeSite, ...]:
    taken = {(entry.task, entry.site) for entry in network.bank.entries()}
    every = (
        FreeSite(task, site, channels)
        for task, head in network.heads.items()
        for site, channels in sites(head, network.neck.spec, network.backbone.sites).items()  # type: ignore[arg-type]
    )
    return tuple(free for free in every if (free.task, free.site) not in taken)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
