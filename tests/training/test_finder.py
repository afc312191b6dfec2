# SPDX-License-Identifier: Apache-2.0
"""The learning-rate finder on valleys whose best rate is known, and on a real network."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image

from unified.contracts.errors import ConfigError
from unified.training.finder import LEAST, draw, find_rate, range_test


class Valley:
    """0.5 x' A x with A = diag(curvatures), gone down by plain gradient steps; it diverges from a rate of 2 / max A."""

    def __init__(self, *curvatures: float, noise: float = 0.0) -> None:
        self.curvatures = torch.tensor(curvatures, dtype=torch.float64)
        self.x = torch.ones_like(self.curvatures)
        self.noise, self.dice = noise, torch.Generator().manual_seed(0)

    def __call__(self, rate: float) -> float:
        loss = 0.5 * float((self.curvatures * self.x**2).sum())
        self.x = self.x - rate * self.curvatures * self.x
        return loss * (1 + self.noise * float(torch.randn((), generator=self.dice)))


@pytest.mark.parametrize("curvature", [3.0, 40.0, 1000.0])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_rate_of_a_valley(curvature: float, noise: float) -> None:
    """One curvature a: the best rate is 1 / a, and from 2 / a on nothing holds. A test should stay well below."""
    sweep = range_test(Valley(curvature, noise=noise), first=1e-6, last=10.0, steps=140)
    assert 0.02 / curvature < sweep.suggestion < 1 / curvature
    assert sweep.suggestion < sweep.lowest


def test_the_steepest_direction_counts() -> None:
    sweep = range_test(Valley(1.0, 10.0, 100.0), last=10.0, steps=140)
    assert 0.02 / 100 < sweep.suggestion < 1 / 100
    assert sweep.diverged
    assert max(sweep.rates) < 10 * 2 / 100


def test_the_steps_grow_evenly() -> None:
    seen: list[float] = []

    def step(rate: float) -> float:
        seen.append(rate)
        return 1.0 / len(seen)

    sweep = range_test(step, first=1e-4, last=1.0, steps=41)
    assert seen == pytest.approx([10 ** (-4 + k / 10) for k in range(41)])
    assert (len(sweep.rates), sweep.diverged) == (41, False)
    assert len(sweep.losses) == len(sweep.smoothed) == 41


@pytest.mark.parametrize("after", [0, LEAST - 1])
def test_a_loss_that_says_nothing_is_one_line(after: int) -> None:
    losses = iter([1.0] * after + [math.nan])
    with pytest.raises(ConfigError, match=f"--find-lr: the loss was lost after {after} of 100 steps"):
        range_test(lambda rate: next(losses))


def test_a_real_network_and_its_picture(tmp_path: Path) -> None:
    tiny.cache_at(tmp_path)
    config, base = tiny.config(tmp_path, "optimizer=sgd", "clip=0")
    told: list[float] = []
    sweep = find_rate(config, base, steps=16, tell=lambda rate, loss: told.append(loss))
    assert told[: len(sweep.losses)] == list(sweep.losses)
    assert 1e-6 <= sweep.suggestion <= 1.0
    assert find_rate(config, base, steps=16) == sweep
    path = draw(sweep, tmp_path / "plots" / "lr-finder.png")
    with Image.open(path) as picture:
        assert picture.size[0] > 600
