# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from unified.heads.multilabel import MultilabelHead, PeakPool

from unified.contracts.errors import ConfigError
from unified.contracts.structures import Features, FeatureSpec

SPEC = FeatureSpec(("p3", "p4", "p5"), (48, 96, 160), (8, 16, 32))
POOLINGS = ("attention", "maxmean")


def plain(site: str, x: Tensor) -> Tensor:
    return x


def features(batch: int = 2, size: int = 160) -> Features:
    maps = tuple(torch.randn(batch, c, size // s, size // s) for c, s in zip(SPEC.channels, SPEC.strides, strict=True))
    return Features(maps, SPEC.levels, SPEC.strides)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_one_logit_a_tag_and_every_parameter_learns(pooling: str) -> None:
    head = MultilabelHead(SPEC, 7, pooling=pooling)
    logits = head(features(), plain).logits
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    idle = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_untrained_predictions_start_at_the_prior() -> None:
    for prior in (0.02, 0.3):
        scores = MultilabelHead(SPEC, 50, prior=prior)(features(4), plain).logits.sigmoid()
        assert scores.mean().item() == pytest.approx(prior, rel=0.5)


def test_each_site_is_reached_once_with_its_channels() -> None:
    head = MultilabelHead(SPEC, 7, width=40)
    seen: list[tuple[str, int]] = []

    def record(site: str, x: Tensor) -> Tensor:
        seen.append((site, x.shape[1]))
        return x

    head(features(), record)
    assert sorted(seen) == sorted(head.sites.items())
    assert set(head.sites) == {"pre.p3", "pre.p4", "pre.p5", "post.tags"}


def test_what_a_site_does_shows_in_the_answer() -> None:
    head = MultilabelHead(SPEC, 7).eval()
    x = features()
    base = head(x, plain).logits
    for site in head.sites:
        changed = head(x, lambda s, y, site=site: y * 2 if s == site else y).logits
        assert not torch.equal(changed, base), site
    doubled = head(x, lambda s, y: y * 2 if s == "post.tags" else y).logits
    assert torch.equal(doubled, base * 2)


def test_peak_pool_by_hand() -> None:
    x = torch.tensor([[[[0.0, 2.0]]]])
    hard, soft = PeakPool(1, hard=True), PeakPool(1, hard=False)
    soft.log_sharpness.data.fill_(math.log(3.0))
    assert hard(x).item() == pytest.approx(1 + 2)  # mean + maximum
    assert soft(x).item() == pytest.approx(1 + 2 * math.exp(6) / (1 + math.exp(6)))  # Zhu and Wu 2021, eq. 4
    soft.log_sharpness.data.fill_(8.0)
    assert soft(x).item() == pytest.approx(hard(x).item())  # infinitely sharp attention is the maximum


@pytest.mark.parametrize("pooling", POOLINGS)
def test_answers_do_not_depend_on_the_rest_of_the_batch(pooling: str) -> None:
    head = MultilabelHead(SPEC, 7, pooling=pooling).eval()
    x = features(4)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = x.with_maps(tuple(m[order] for m in x.maps))
    assert torch.allclose(head(shuffled, plain).logits, head(x, plain).logits[order], atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_bf16_autocast_gives_finite_logits_near_float32(pooling: str) -> None:
    head = MultilabelHead(SPEC, 7, pooling=pooling).eval()
    x = features()
    exact = head(x, plain).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = head(x, plain).logits
    assert rough.dtype == torch.float32
    assert torch.allclose(rough, exact, atol=0.05)


def test_cost_at_160_pixels() -> None:
    with FlopCounterMode(display=False) as counter:
        MultilabelHead(SPEC, 23)(features(1), plain)
    assert counter.get_total_flops() / 2 < 4e6


def test_bad_options_say_what_is_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown pooling 'max'.*attention, maxmean"):
        MultilabelHead(SPEC, 7, pooling="max")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"prior must lie between 0 and 1, got 1\.5"):
        MultilabelHead(SPEC, 7, prior=1.5)


class AveragePooling(nn.Module):
    """The control: the same reduction, then plain means."""

    def __init__(self, spec: FeatureSpec, outputs: int) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(nn.Conv2d(c, 64, 1) for c in spec.channels)
        self.classify = nn.Linear(64 * len(spec.channels), outputs)

    def forward(self, x: Features) -> Tensor:
        pooled = [F.silu(reduce(m)).mean(dim=(2, 3)) for reduce, m in zip(self.reduce, x.maps, strict=True)]
        return self.classify(torch.cat(pooled, dim=1))


def blobs(generator: torch.Generator, count: int) -> tuple[Features, Tensor]:
    """Noise on three levels; half the images hold one odd cell on the finest one."""
    maps = [torch.randn(count, 8, side, side, generator=generator) for side in (12, 6, 3)]
    present = torch.rand(count, generator=generator) < 0.5
    y, x = torch.randint(12, (2, count), generator=generator)
    maps[0][torch.arange(count), :4, y, x] += 3.0 * present[:, None]
    return Features(tuple(maps), ("p3", "p4", "p5"), (8, 16, 32)), present.float()[:, None]


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def accuracy_after(module: nn.Module, forward: object, steps: int = 60) -> float:
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3)
    for _ in range(steps):
        x, truth = blobs(generator, 32)
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(forward(x), truth).backward()  # type: ignore[operator]
        optimizer.step()
    x, truth = blobs(generator, 400)
    return float(((forward(x) > 0) == truth.bool()).float().mean())  # type: ignore[operator]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_learns_a_one_cell_object_while_averages_still_guess(pooling: str, one_thread: None) -> None:
    spec = FeatureSpec(("p3", "p4", "p5"), (8, 8, 8), (8, 16, 32))
    head, control = MultilabelHead(spec, 1, pooling=pooling), AveragePooling(spec, 1)
    ours = accuracy_after(head, lambda x: head(x, plain).logits)
    theirs = accuracy_after(control, control)
    assert ours > 0.9
    assert ours > theirs + 0.15
