# SPDX-License-Identifier: Apache-2.0
"""What every registered head promises, whatever it answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

import unified  # noqa: F401
from unified.contracts.protocols import Head, heads
from unified.contracts.structures import Features, FeatureSpec

SPEC = FeatureSpec(("p3", "p4", "p5"), (32, 48, 64), (8, 16, 32))
OUTPUTS = 5
OWN = [name for name in heads.names() if heads.source(name) == "unified-networks"]
every_head = pytest.mark.parametrize("name", OWN)


def make(name: str) -> Head:
    return heads.get(name)(SPEC, OUTPUTS).eval()


def features(batch: int = 2, size: tuple[int, int] = (64, 96)) -> Features:
    pairs = zip(SPEC.channels, SPEC.strides, strict=True)
    maps = tuple(torch.randn(batch, c, size[0] // s, size[1] // s) for c, s in pairs)
    return Features(maps, SPEC.levels, SPEC.strides)


def identity(_: str, x: Tensor) -> Tensor:
    return x


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from tensors(each)
    elif hasattr(value, "__dataclass_fields__"):
        for field in fields(value):
            yield from tensors(getattr(value, field.name))


def flat(output: Any) -> Tensor:
    return torch.cat([x.flatten().float() for x in tensors(output)])


def test_the_heads_that_come_with_the_package_are_all_here() -> None:
    assert {"detect_anchor", "detect_free", "detr", "embed", "multilabel"} <= set(OWN)


@every_head
def test_the_declared_sites_are_those_that_are_reached(name: str) -> None:
    head, seen = make(name), Counter[str]()

    def watch(site: str, x: Tensor) -> Tensor:
        seen[site] += 1
        assert x.shape[:2] == (2, head.sites[site])
        assert x.dim() in (2, 4)  # what operators know
        return x

    head(features(), watch)
    assert set(seen) == set(head.sites)


@every_head
def test_the_output_hears_of_every_site(name: str) -> None:
    head, given = make(name), features()
    plain = flat(head(given, identity))
    for site in head.sites:
        bent = flat(head(given, lambda at, x, site=site: x * 1.5 + 0.1 if at == site else x))
        assert not torch.equal(bent, plain), site


@every_head
def test_the_output_hears_of_every_level(name: str) -> None:
    head, given = make(name).train(), features()
    maps = tuple(x.requires_grad_() for x in given.maps)
    flat(head(given.with_maps(maps), identity)).square().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in maps)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@every_head
@torch.inference_mode()
def test_any_image_size_and_batch_is_answered(name: str) -> None:
    head = make(name)
    for batch, size in ((1, (32, 32)), (3, (96, 64))):
        assert flat(head(features(batch, size), identity)).isfinite().all()


@every_head
@torch.inference_mode()
def test_the_same_weights_give_the_same_answer(name: str) -> None:
    one, other, given = make(name), make(name), features()
    assert not torch.equal(flat(one(given, identity)), flat(other(given, identity)))
    other.load_state_dict(one.state_dict())
    assert torch.equal(flat(one(given, identity)), flat(other(given, identity)))


@every_head
@torch.inference_mode()
def test_an_image_is_answered_as_if_it_were_alone(name: str) -> None:
    head, given = make(name), features()
    both = flat(head(given, identity))
    swapped = head(given.with_maps(tuple(x.flip(0) for x in given.maps)), identity)
    again = head(given.with_maps(tuple(x.flip(0) for x in given.maps)), identity)
    assert torch.equal(flat(swapped), flat(again))
    other = given.with_maps(tuple(torch.cat([x[:1], torch.randn_like(x[1:])]) for x in given.maps))
    changed = flat(head(other, identity))
    same = torch.isclose(both, changed, atol=1e-5)
    assert 0.3 < same.float().mean() < 0.9  # about half of the numbers are the first image's, and stay


@every_head
@torch.inference_mode()
def test_half_precision_is_close(name: str) -> None:
    head, given = make(name), features()
    full = flat(head(given, identity))
    with torch.autocast("cpu", torch.bfloat16):
        low = flat(head(given, identity))
    assert low.isfinite().all()
    assert (low - full).abs().max() < 0.05 * full.abs().max()


@every_head
def test_neighbours_are_layers_of_the_head(name: str) -> None:
    head = make(name)
    own = set(head.modules())
    sites = [*head.sites, *(f"align.{level}" for level in SPEC.levels)]
    for site in sites:
        beside = head.neighbours(site)
        for port in (*beside.after, *([beside.before] if beside.before else [])):
            assert port.layer in own
            assert port.norm is None or port.norm in own
    assert any(head.neighbours(site).after for site in sites)
    assert head.neighbours("pre.nowhere").after == () and head.neighbours("align.p9").after == ()


@every_head
def test_roles_name_every_channel(name: str) -> None:
    head = make(name)
    for site, channels in head.sites.items():
        roles = head.roles(site)
        assert roles is None or len(roles) == channels
