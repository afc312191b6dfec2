# SPDX-License-Identifier: Apache-2.0
"""What every head promises, whatever it answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from unified.contracts import protocols
from unified.contracts.protocols import Head
from unified.contracts.structures import Features, FeatureSpec
from unified.testing.contract import SPEC, features, flat, identity, must, resolved, run, shaken, tensors

PLAIN = (bool, int, float, str)


@dataclass(frozen=True)
class HeadTrial:
    """A head to be tried."""

    cls: type[Head]
    spec: FeatureSpec = SPEC
    outputs: int = 5
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> Head:
        """A fresh one, whose weights are no zeros, for inference."""
        return shaken(self.cls(self.spec, self.outputs, **self.options)).eval()  # type: ignore[return-value]

    def features(self, head: Head, batch: int = 2, size: tuple[int, int] = (64, 96)) -> Features:
        """What the head is given: random maps of the levels it reads."""
        return features(self.spec, batch, size).only(head.reads)


def check_head(
    part: str | type[Head], *, spec: FeatureSpec = SPEC, outputs: int = 5, options: Mapping[str, Any] | None = None
) -> None:
    """Tries a head on random features.

    Args:
        part: its registered name, or the class.
        spec: the neck's levels.
        outputs: what its task asks for: classes, tags or the width of an embedding.
        options: of its constructor.

    Raises:
        ContractError: one line that names package and part.
        RegistryError: it cannot be imported, or is no head.
    """
    cls, who = resolved(protocols.heads, part)
    run(CHECKS, HeadTrial(cls, spec, outputs, options or {}), who)


def declares(trial: HeadTrial) -> None:
    """It declares its sites and reads levels that there are."""
    head = trial.make()
    sites = getattr(head, "sites", None)
    must(isinstance(sites, Mapping), "declares no sites; set self.sites in its constructor, {} for none")
    for level in head.reads:
        must(level in trial.spec.levels, f"reads level '{level}'; the neck has {', '.join(trial.spec.levels)}")
    assert sites is not None
    for site, channels in sites.items():
        must(isinstance(channels, int) and channels > 0, f"site '{site}' has {channels!r} channels; expected a number")


def reaches_sites(trial: HeadTrial) -> None:
    """The declared sites are those that are reached, with their width."""
    head, seen = trial.make(), Counter[str]()

    def watch(site: str, x: Tensor) -> Tensor:
        seen[site] += 1
        must(site in head.sites, f"calls modulate at site '{site}', which it does not declare")
        got = f"of shape {tuple(x.shape)}"
        must(x.dim() in (2, 4) and x.shape[0] == 2, f"site '{site}' is given a tensor {got}; expected (B, C[, H, W])")
        must(x.shape[1] == head.sites[site], f"site '{site}' has {x.shape[1]} channels and declares {head.sites[site]}")
        return x

    head(trial.features(head), watch)
    for site in head.sites:
        must(seen[site] > 0, f"declares site '{site}' and never calls modulate there")


def hears_sites(trial: HeadTrial) -> None:
    """What modulate returns is used."""
    head = trial.make()
    given = trial.features(head)
    plain = flat(head(given, identity))
    for site in head.sites:
        bent = flat(head(given, lambda at, x, site=site: x * 1.5 + 0.1 if at == site else x))
        must(not torch.equal(bent, plain), f"site '{site}': the answer is the same whatever modulate returns")


def hears_levels(trial: HeadTrial) -> None:
    """Every level that it reads and every weight that it has takes part."""
    head = trial.make().train()
    given = trial.features(head)
    maps = tuple(x.requires_grad_() for x in given.maps)
    flat(head(given.with_maps(maps), identity)).square().sum().backward()  # type: ignore[no-untyped-call]
    for level, x in zip(given.levels, maps, strict=True):
        must(x.grad is not None, f"does not use level '{level}'; say in `reads` which levels it wants")
        must(bool(x.grad.isfinite().all()), f"level '{level}' gets a gradient that is not finite")  # type: ignore[union-attr]
    for name, parameter in head.named_parameters():
        must(parameter.grad is not None, f"parameter '{name}' gets no gradient")
        must(bool(parameter.grad.isfinite().all()), f"parameter '{name}' gets a gradient that is not finite")  # type: ignore[union-attr]


@torch.inference_mode()
def answers_any_size(trial: HeadTrial) -> None:
    """Any image size and batch is answered."""
    head = trial.make()
    for batch, size in ((1, (32, 32)), (3, (96, 64))):
        words = f"the answer for {batch} of {size[0]} x {size[1]} pixels is not finite"
        must(bool(flat(head(trial.features(head, batch, size), identity)).isfinite().all()), words)


@torch.inference_mode()
def answers_by_weights(trial: HeadTrial) -> None:
    """The same weights give the same answer."""
    one, other = trial.make(), trial.make()
    given = trial.features(one)
    other.load_state_dict(one.state_dict())
    same = torch.equal(flat(one(given, identity)), flat(other(given, identity)))
    must(same, "two heads with the same state_dict answer differently; register what they hold, and draw no numbers")


@torch.inference_mode()
def answers_each_alone(trial: HeadTrial) -> None:
    """An image is answered as if it were alone."""
    head = trial.make()
    given = trial.features(head)
    both = flat(head(given, identity))
    other = given.with_maps(tuple(torch.cat([x[:1], torch.randn_like(x[1:])]) for x in given.maps))
    share = torch.isclose(both, flat(head(other, identity)), atol=1e-5).float().mean()
    must(bool(share > 0.3), "the answer for an image changes with the other images of its batch")
    must(bool(share < 0.97), "the answer does not depend on the image")


@torch.inference_mode()
def bears_half_precision(trial: HeadTrial) -> None:
    """Half precision is close."""
    head = trial.make()
    given = trial.features(head)
    full = flat(head(given, identity))
    with torch.autocast("cpu", torch.bfloat16):
        low = flat(head(given, identity))
    must(bool(low.isfinite().all()), "the answer in bfloat16 is not finite")
    off = float((low - full).abs().max() / full.abs().max().clamp(min=1e-6))
    must(off < 0.1, f"the answer in bfloat16 is off by {off:.0%} of the largest number")


def knows_neighbours(trial: HeadTrial) -> None:
    """Neighbours are layers of its own, and roles name every channel."""
    head = trial.make()
    own = set(head.modules())
    for site in (*head.sites, *(f"align.{level}" for level in trial.spec.levels), "pre.nowhere"):
        beside = head.neighbours(site)
        for port in (*beside.after, *([beside.before] if beside.before else [])):
            must(port.layer in own, f"neighbours('{site}') names a layer that is not its own")
            must(port.norm is None or port.norm in own, f"neighbours('{site}') names a norm that is not its own")
    for site, channels in head.sites.items():
        roles = head.roles(site)
        many = f"roles('{site}') names {len(roles or ())} of {channels} channels"
        must(roles is None or len(roles) == channels, many)


@torch.inference_mode()
def answers_a_structure(trial: HeadTrial) -> None:
    """Its answer is a dataclass of tensors and constants, so that it can leave an exported graph."""
    head = trial.make()
    output = head(trial.features(head), identity)
    kind = type(output).__name__
    must(is_dataclass(output), f"answers a {kind}; expected a frozen dataclass, so that it can be exported")
    for each in fields(output):
        value = getattr(output, each.name)
        plain = isinstance(value, PLAIN) or any(True for _ in tensors(value))
        plain |= isinstance(value, tuple) and all(isinstance(v, PLAIN) for v in value)
        must(plain, f"{kind}.{each.name} is a {type(value).__name__}; expected tensors, numbers or words")


CHECKS = (
    declares,
    reaches_sites,
    hears_sites,
    hears_levels,
    answers_any_size,
    answers_by_weights,
    answers_each_alone,
    bears_half_precision,
    knows_neighbours,
    answers_a_structure,
)
