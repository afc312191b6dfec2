# SPDX-License-Identifier: Apache-2.0
"""What every trunk promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from unified.contracts import protocols
from unified.contracts.protocols import Backbone
from unified.contracts.structures import Features
from unified.testing.contract import must, resolved, run, shaken


@dataclass(frozen=True)
class BackboneTrial:
    """A trunk to be tried."""

    cls: type[Backbone]
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> Backbone:
        """A fresh one, for inference."""
        return shaken(self.cls(**self.options)).eval()  # type: ignore[return-value]

    def images(self, trunk: Backbone, batch: int = 2, units: tuple[int, int] = (1, 2)) -> Tensor:
        """Random images (batch, 3, H, W) in 0..1; H and W are ``units`` times the coarsest stride, 64 at least."""
        stride = max(64, *trunk.spec.strides)
        return torch.rand(batch, 3, units[0] * stride, units[1] * stride)


def check_backbone(part: str | type[Backbone], *, options: Mapping[str, Any] | None = None) -> None:
    """Tries a trunk on random images.

    Args:
        part: its registered name, or the class.
        options: of its constructor.

    Raises:
        ContractError: one line that names package and part.
        RegistryError: it cannot be imported, or is no backbone.
    """
    cls, who = resolved(protocols.backbones, part)
    run(CHECKS, BackboneTrial(cls, options or {}), who)


def declares(trial: BackboneTrial) -> None:
    """It says which levels it gives."""
    spec = getattr(trial.make(), "spec", None)
    must(spec is not None, "declares no spec; set self.spec = FeatureSpec(levels, channels, strides)")
    assert spec is not None
    counts = (len(spec.levels), len(spec.channels), len(spec.strides))
    must(len(set(counts)) == 1 and counts[0] > 0, f"spec has {counts} levels, channels and strides; expected as many")
    must(len(set(spec.levels)) == len(spec.levels), f"spec names a level twice: {', '.join(spec.levels)}")
    finer_first = all(b == 2 * a for a, b in pairwise(spec.strides))
    must(finer_first, f"spec has strides {spec.strides}; expected each twice the one before")


@torch.inference_mode()
def answers_as_declared(trial: BackboneTrial) -> None:
    """Its maps are those that it says, for any size that suits its strides."""
    trunk = trial.make()
    for batch, units in ((2, (1, 2)), (1, (2, 1))):
        images = trial.images(trunk, batch, units)
        found = trunk(images)
        must(isinstance(found, Features), f"answers a {type(found).__name__}; expected Features")
        must(found.levels == trunk.spec.levels, f"answers levels {found.levels}; its spec says {trunk.spec.levels}")
        must(
            found.strides == trunk.spec.strides, f"answers strides {found.strides}; its spec says {trunk.spec.strides}"
        )
        for level, x, channels, stride in zip(
            found.levels, found.maps, trunk.spec.channels, found.strides, strict=True
        ):
            expected = (batch, channels, images.shape[2] // stride, images.shape[3] // stride)
            must(tuple(x.shape) == expected, f"level '{level}' has shape {tuple(x.shape)}; expected {expected}")
            must(bool(x.isfinite().all()), f"level '{level}' is not finite")


def learns_whole(trial: BackboneTrial) -> None:
    """Every weight takes part, and belongs to one stage."""
    trunk = trial.make().train()
    sum(x.square().mean() for x in trunk(trial.images(trunk)).maps).backward()  # type: ignore[union-attr]
    for name, parameter in trunk.named_parameters():
        fine = parameter.grad is not None and bool(parameter.grad.isfinite().all())
        must(fine or not parameter.requires_grad, f"parameter '{name}' gets no finite gradient")
    counts = Counter(id(parameter) for stage in trunk.by_depth() for parameter in stage)
    for name, parameter in trunk.named_parameters():
        times = counts[id(parameter)]
        must(times == 1, f"by_depth() has parameter '{name}' {times} times; expected once")


@torch.inference_mode()
def answers_each_alone(trial: BackboneTrial) -> None:
    """An image is answered as if it were alone, and the same weights give the same answer."""
    trunk, other = trial.make(), trial.make()
    images = trial.images(trunk)
    both, alone = trunk(images).maps, trunk(images[:1]).maps
    for level, x, y in zip(trunk.spec.levels, both, alone, strict=True):
        close = torch.allclose(x[:1], y, atol=1e-4, rtol=1e-3)
        must(close, f"level '{level}' of an image changes with the other images of its batch")
    other.load_state_dict(trunk.state_dict())
    same = all(torch.equal(x, y) for x, y in zip(both, other(images).maps, strict=True))
    must(same, "two trunks with the same state_dict answer differently")


@torch.inference_mode()
def reaches_sites(trial: BackboneTrial) -> None:
    """The declared sites are those that are reached, and what modulate returns is used."""
    trunk, seen = trial.make(), Counter[str]()
    if not trunk.sites:
        return
    images = trial.images(trunk)

    def watch(site: str, x: Tensor) -> Tensor:
        seen[site] += 1
        must(site in trunk.sites, f"calls modulate at site '{site}', which it does not declare")
        must(
            x.shape[1] == trunk.sites[site], f"site '{site}' has {x.shape[1]} channels and declares {trunk.sites[site]}"
        )
        return x

    plain = trunk(images, watch).maps
    for site in trunk.sites:
        must(site.startswith("trunk."), f"site '{site}' of a trunk must be called trunk.NAME")
        must(seen[site] > 0, f"declares site '{site}' and never calls modulate there")
        bent = trunk(images, lambda at, x, site=site: 1.5 * x + 0.1 if at == site else x).maps
        moved = any(not torch.equal(x, y) for x, y in zip(plain, bent, strict=True))
        must(moved, f"site '{site}': the answer is the same whatever modulate returns")


CHECKS = (declares, answers_as_declared, learns_whole, answers_each_alone, reaches_sites)
