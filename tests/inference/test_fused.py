# SPDX-License-Identifier: Apache-2.0
"""A fused model beside the one it was made from."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from spare import noise, spare_model
from torch import Tensor, nn

import unified
from unified.contracts.errors import ConfigError
from unified.inference.fused import FusedNetwork
from unified.inference.model import UnifiedModel
from unified.model.fusion import fuse
from unified.model.network import UnifiedNetwork

PICTURES = [noise(40 + 4 * k, 90 - 5 * k, seed=k) for k in range(6)]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its z are far from the identity, so that leaving one out would be seen."""
    model = spare_model()
    with torch.no_grad():
        for parameter in model.network.bank.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.save_pretrained(tmp_path_factory.mktemp("fused") / "pack")


@pytest.fixture(scope="module")
def plain(pack: Path) -> UnifiedModel:
    return unified.load(pack, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def quick(pack: Path) -> UnifiedModel:
    return unified.load(pack, device="cpu", precision="fp32", fuse=True)


def answers(network: UnifiedNetwork, images: Tensor) -> list[Tensor]:
    """Every tensor of every head."""
    with torch.inference_mode():
        said = [vars(each) for each in network(images).values()]
    return [x for each in said for x in each.values() if isinstance(x, Tensor) and x.is_floating_point()]


def gap(a: UnifiedNetwork, b: UnifiedNetwork) -> float:
    """The greatest difference of any output, in shares of that output's largest value."""
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)).to(next(a.parameters()))
    pairs = list(zip(answers(a, images), answers(b, images), strict=True))
    assert len(pairs) >= 5
    return max(float((x - y).abs().max() / x.abs().max()) for x, y in pairs)


def test_every_output_of_every_head_is_the_same_within_rounding(plain: UnifiedModel, quick: UnifiedModel) -> None:
    """In double precision what is left of rounding cannot hide a mistake."""
    exact = copy.deepcopy(plain.network).double()
    assert gap(exact, fuse(exact)) < 1e-12
    assert gap(plain.network, quick.network) < 1e-4
    assert not any(isinstance(each, nn.BatchNorm2d) for each in quick.network.modules())
    assert not list(quick.network.bank.entries()) and list(plain.network.bank.entries())


@pytest.mark.parametrize("part", ["norm", "z"])
def test_a_norm_or_z_that_was_lost_would_be_seen(part: str, plain: UnifiedModel) -> None:
    """The control of the test above."""
    spoiled = copy.deepcopy(plain.network)
    if part == "z":
        for entry in spoiled.bank.entries():
            nn.init.zeros_(next(entry.latent.parameters()))
    else:
        next(each for each in spoiled.modules() if isinstance(each, nn.BatchNorm2d)).running_mean.zero_()  # type: ignore[union-attr,operator]
    assert gap(plain.network, fuse(spoiled)) > 1e-3


def test_results_and_vectors_are_those_of_the_plain_model(plain: UnifiedModel, quick: UnifiedModel) -> None:
    for a, b in zip(plain.predict(PICTURES, conf=0.0), quick.predict(PICTURES, conf=0.0), strict=True):
        assert torch.allclose(a.tag_scores, b.tag_scores, atol=1e-5, rtol=0)
        assert torch.allclose(a.scores, b.scores, atol=1e-5, rtol=0)
    where = [torch.tensor([[3.0, 4.0, 30.0, 35.0]])] * len(PICTURES)
    for words in ({}, {"level": "box", "boxes": where}):
        x, y = (torch.cat(list(each.encode(PICTURES, **words))) for each in (plain, quick))
        assert torch.allclose(x, y, atol=1e-5, rtol=0)


def test_its_vectors_are_of_the_same_space(plain: UnifiedModel, quick: UnifiedModel) -> None:
    assert quick.space == plain.space and quick.space is not None
    assert quick.space_at(96) == plain.space_at(96) != plain.space
    assert len(quick.network.state_dict()) < len(plain.network.state_dict())  # what it was made from is no part of it


def test_the_trained_network_stays_as_it_was(pack: Path, plain: UnifiedModel) -> None:
    model = unified.load(pack, device="cpu", precision="fp32", fuse=True)
    kept = model.trained.network.state_dict()
    assert isinstance(model.network, FusedNetwork)
    assert all(torch.equal(value, kept[name]) for name, value in plain.network.state_dict().items())
    some = UnifiedModel.from_pretrained(pack, tasks=["cls"], device="cpu", fuse=True)
    assert isinstance(some.network, FusedNetwork) and some.tasks == ("cls",)


CHANGES: dict[str, Any] = {
    "save_pretrained": lambda model, place: model.save_pretrained(place),
    "save_task": lambda model, place: model.save_task("cls", place),
    "load_task": lambda model, place: model.load_task(place),
    "remove_task": lambda model, place: model.remove_task("cls"),
    "add_task": lambda model, place: model.add_task("night:cls"),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_what_needs_the_trained_weights_is_refused_in_one_line(
    change: str, quick: UnifiedModel, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="load it without fuse=True") as caught:
        CHANGES[change](quick, tmp_path / "new")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
    assert set(quick.tasks) == {"det", "cls", "emb"}
