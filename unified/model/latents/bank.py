# SPDX-License-Identifier: Apache-2.0
"""The registry of implicit latents: one z for each task and site."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from unified.contracts.protocols import Latent, Modulate, Operator

TRUNK = "trunk."  # sites inside the trunk begin so; a task that has a z there needs a trunk pass of its own


@dataclass(frozen=True)
class Entry:
    """A line of the bank's table."""

    task: str
    site: str
    latent: Latent
    operator: Operator
    words: tuple[str, str]  # latent and operator as a configuration names them


class Standing(nn.Module):
    """Latents standing at one site for one task, applied in the order they were placed."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.ModuleList()
        self.operators = nn.ModuleList()
        self.words: list[tuple[str, str]] = []

    def place(self, latent: Latent, operator: Operator, words: tuple[str, str]) -> None:
        self.latents.append(latent)
        self.operators.append(operator)
        self.words.append(words)

    def forward(self, x: Tensor) -> Tensor:
        for latent, operator in zip(self.latents, self.operators, strict=True):
            x = operator(x, latent())
        return x


class LatentBank(nn.Module):
    """Implicit knowledge of the whole network, by task and site. A site without a latent is the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks = nn.ModuleDict()

    def place(
        self, task: str, site: str, latent: Latent, operator: Operator, words: tuple[str, str] | None = None
    ) -> None:
        """Adds a latent at a site of a task, behind those that stand there already."""
        if task not in self.tasks:
            self.tasks[task] = nn.ModuleDict()
        sites: nn.ModuleDict = self.tasks[task]  # type: ignore[assignment]
        if _key(site) not in sites:
            sites[_key(site)] = Standing()
        standing: Standing = sites[_key(site)]  # type: ignore[assignment]
        standing.place(latent, operator, words or (type(latent).__name__, type(operator).__name__))

    def replace(self, task: str, site: str, constant: nn.Module | None) -> None:
        """Puts a module without a latent in the place of what stands at a site, or clears the site."""
        sites: nn.ModuleDict = self.tasks[task]  # type: ignore[assignment]
        if constant is None:
            del sites[_key(site)]
        else:
            sites[_key(site)] = constant

    def modulate(self, task: str) -> Modulate:
        """``modulate(site, x)`` for one task."""
        sites: Any = self.tasks[task] if task in self.tasks else {}  # noqa: SIM401 (a ModuleDict has no get)

        def apply(site: str, x: Tensor) -> Tensor:
            key = _key(site)
            return sites[key](x) if key in sites else x

        return apply

    def in_trunk(self, task: str) -> bool:
        """Whether something stands inside the trunk for this task, so that it needs a trunk pass of its own."""
        sites: Any = self.tasks[task] if task in self.tasks else {}  # noqa: SIM401
        return any(key.startswith(_key(TRUNK)) for key in sites)

    def entries(self) -> Iterator[Entry]:
        """Every latent with its place, in order."""
        for task, sites in self.tasks.items():
            for key, standing in sites.items():  # type: ignore[operator]
                if isinstance(standing, Standing):
                    for latent, operator, words in zip(
                        standing.latents, standing.operators, standing.words, strict=True
                    ):
                        yield Entry(task, key.replace("/", "."), latent, operator, words)  # type: ignore[arg-type]


def _key(site: str) -> str:
    """Module names may not hold dots."""
    return site.replace(".", "/")
