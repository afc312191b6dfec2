# SPDX-License-Identifier: Apache-2.0
"""The registry of implicit latents: one z for each task and site."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from unified.contracts.protocols import Latent, Modulate, Operator


@dataclass(frozen=True)
class Entry:
    """A line of the bank's table."""

    task: str
    site: str
    latent: Latent
    operator: Operator


class Standing(nn.Module):
    """Latents standing at one site for one task, applied in the order they were placed."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.ModuleList()
        self.operators = nn.ModuleList()

    def place(self, latent: Latent, operator: Operator) -> None:
        self.latents.append(latent)
        self.operators.append(operator)

    def forward(self, x: Tensor) -> Tensor:
        for latent, operator in zip(self.latents, self.operators, strict=True):
            x = operator(x, latent())
        return x


class LatentBank(nn.Module):
    """Implicit knowledge of the whole network, by task and site. A site without a latent is the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks = nn.ModuleDict()

    def place(self, task: str, site: str, latent: Latent, operator: Operator) -> None:
        """Adds a latent at a site of a task, behind those that stand there already."""
        if task not in self.tasks:
            self.tasks[task] = nn.ModuleDict()
        sites: nn.ModuleDict = self.tasks[task]  # type: ignore[assignment]
        key = site.replace(".", "/")  # module names may not hold dots
        if key not in sites:
            sites[key] = Standing()
        standing: Standing = sites[key]  # type: ignore[assignment]
        standing.place(latent, operator)

    def modulate(self, task: str) -> Modulate:
        """``modulate(site, x)`` for one task."""
        sites: Any = self.tasks[task] if task in self.tasks else {}  # noqa: SIM401 (a ModuleDict has no get)

        def apply(site: str, x: Tensor) -> Tensor:
            key = site.replace(".", "/")
            return sites[key](x) if key in sites else x

        return apply

    def entries(self) -> Iterator[Entry]:
        """Every latent with its place, in order."""
        for task, sites in self.tasks.items():
            for key, standing in sites.items():  # type: ignore[operator]
                for latent, operator in zip(standing.latents, standing.operators, strict=True):
                    yield Entry(task, key.replace("/", "."), latent, operator)
