# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import nn

import unified  # noqa: F401
from unified.contracts.errors import ConfigError
from unified.contracts.structures import Features, FeatureSpec
from unified.model.attention import LevelAttention
from unified.model.backbones.csp import CSPBackbone
from unified.model.backbones.yolor import YOLORBackbone
from unified.model.build import create_model
from unified.model.layers.attention import NonLocal, SelectiveKernel
from unified.model.necks.identity import IdentityNeck
from unified.model.necks.pan import PANNeck
from unified.model.necks.yolor import YOLORNeck

SPEC = FeatureSpec(("p3", "p4", "p5"), (8, 16, 16), (8, 16, 32))
NECKS = {"identity": IdentityNeck, "pan": PANNeck, "yolor": YOLORNeck}
TRUNKS: dict[str, Any] = {
    "csp": lambda **words: CSPBackbone(channels=(8, 8, 8, 16, 16), depths=(1, 1, 1, 1), **words),
    "yolor": lambda **words: YOLORBackbone((8, 8, 8, 16), (1, 1, 1, 1), stem=8, reorg=1, **words),
}


def copied(changed: nn.Module, plain: nn.Module) -> list[str]:
    """Gives ``changed`` the weights of ``plain``; returns the keys of its own."""
    return list(changed.load_state_dict(plain.state_dict(), strict=False).missing_keys)


@torch.inference_mode()
@pytest.mark.parametrize("name", TRUNKS)
def test_a_block_in_a_trunk_changes_its_level_and_what_follows(name: str) -> None:
    plain = TRUNKS[name]().eval()
    changed = TRUNKS[name](attention={"p4": {"name": "selective_kernel", "groups": 1}}).eval()
    own = copied(changed, plain)
    assert own and all(key.startswith("attention.p4.") for key in own)
    assert isinstance(changed.attention["p4"], SelectiveKernel)
    images = torch.rand(1, 3, 64, 64)
    pairs = zip(plain(images).maps, changed(images).maps, strict=True)
    assert [torch.equal(a, b) for a, b in pairs] == [True, False, False]


@torch.inference_mode()
@pytest.mark.parametrize("name", NECKS)
def test_a_block_behind_a_neck_changes_its_level_alone(name: str) -> None:
    plain = NECKS[name](SPEC).eval()
    changed = NECKS[name](SPEC, attention={"p4": "selective_kernel"}).eval()
    assert all(key.startswith("attention.p4.") for key in copied(changed, plain))
    shapes = ((8, 8), (16, 4), (16, 2))
    features = Features(tuple(torch.randn(1, c, s, s) for c, s in shapes), SPEC.levels, SPEC.strides)
    pairs = zip(plain(features).maps, changed(features).maps, strict=True)
    assert [torch.equal(a, b) for a, b in pairs] == [True, False, True]


@torch.inference_mode()
def test_a_non_local_block_starts_as_the_identity() -> None:
    plain, changed = TRUNKS["csp"]().eval(), TRUNKS["csp"](attention={"p5": "nonlocal"}).eval()
    copied(changed, plain)
    assert isinstance(changed.attention["p5"], NonLocal)
    images = torch.rand(2, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(plain(images).maps, changed(images).maps, strict=True))


def test_it_is_one_word_of_yaml(tmp_path: Path) -> None:
    text = tiny.MODEL.replace("[1, 1, 1, 1]}", "[1, 1, 1, 1], attention: {p5: {name: nonlocal, pool: 2}}}")
    text = text.replace("depth: 1}", "depth: 1, attention: {p3: selective_kernel}}")
    network = create_model(tiny.write_model(tmp_path, text))
    assert isinstance(network.backbone.attention["p5"], NonLocal)
    assert isinstance(network.neck.attention["p3"], SelectiveKernel)


@pytest.mark.parametrize(
    ("blocks", "line"),
    [
        ({"p6": "nonlocal"}, "attention: unknown level 'p6'; known: p3, p4, p5"),
        (
            {"p5": "nonlokal"},
            "unknown attention 'nonlokal'; known: nonlocal, selective_kernel (did you mean 'nonlocal'?)",
        ),
        ({"p5": {"pool": 2}}, "unknown attention 'None'; known: nonlocal, selective_kernel"),
        ({"p5": {"name": "nonlocal", "pol": 2}}, "unknown option 'pol' of attention 'nonlocal'; known: pool"),
        ({"p5": {"name": "nonlocal", "channels": 2}}, "unknown option 'channels' of attention 'nonlocal'"),
        ("nonlocal", "attention: expected level: block, such as {p5: nonlocal}, got 'nonlocal'"),
    ],
)
def test_a_wrong_word_is_one_line(blocks: Any, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LevelAttention({"p3": 8, "p4": 8, "p5": 8}, blocks)
    assert str(caught.value).startswith(line)
    assert len(str(caught.value).splitlines()) == 1
