# SPDX-License-Identifier: Apache-2.0
"""The published networks, against the numbers their authors give (Wang et al. 2021, Scaled-YOLOv4 and YOLOR)."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unified  # noqa: F401
from unified.contracts.config import ModelConfig, NormConfig, PartConfig
from unified.contracts.document import load_model_config
from unified.contracts.errors import ConfigError
from unified.contracts.structures import FeatureSpec
from unified.model.backbones.yolor import YOLORBackbone
from unified.model.build import build_backbone, build_neck, create_model, list_models
from unified.model.layers.conv import Conv
from unified.model.layers.down import DownC
from unified.model.layers.reorg import Haar, ReOrg
from unified.model.necks.yolor import YOLORNeck
from unified.model.network import UnifiedNetwork
from unified.model.style import restyle

COUNTS = {  # parameters with 80 classes
    "yolov4-csp": 52_921_437,
    "yolov4-csp-x": 99_751_053,
    "yolov4-p6": 127_585_200,
    "yolov4-p7": 287_566_300,
    "yolor-csp": 52_923_994,
    "yolor-csp-x": 99_754_058,
    "yolor-p6": 37_265_016,
    "yolor-w6": 79_873_400,
    "yolor-e6": 115_909_400,
    "yolor-d6": 151_782_680,
    "yolor-ssss-s2d": 9_216_634,
}
LATENTS = {
    "yolor-csp": 2557,
    "yolor-csp-x": 3005,
    "yolor-p6": 2812,
    "yolor-w6": 3580,
    "yolor-e6": 4220,
    "yolor-d6": 4220,
}
ANCHORS = {"yolov4-p6": 4, "yolov4-p7": 4}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@cache
def weightless(name: str) -> UnifiedNetwork:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return create_model(name, tasks=("det",)).eval()


@pytest.mark.parametrize("name", COUNTS)
def test_a_published_network_has_its_published_size(name: str) -> None:
    network = weightless(name)
    assert count(network) == COUNTS[name]
    side = 2 * max(network.neck.spec.strides)
    maps = network(torch.zeros(1, 3, side, side, device="meta"))["det"].maps
    expected = [(1, ANCHORS.get(name, 3), side // s, side // s, 85) for s in network.neck.spec.strides]
    assert [tuple(m.shape) for m in maps] == expected


@pytest.mark.parametrize("name", LATENTS)
def test_latents_cost_what_the_paper_counts(name: str) -> None:
    assert count(weightless(name).bank) == LATENTS[name]


def test_the_networks_without_latents_have_none() -> None:
    assert all(count(weightless(name).bank) == 0 for name in COUNTS if name.startswith("yolov4"))
    assert set(COUNTS) <= set(list_models())


@pytest.mark.parametrize(("name", "more"), [("yolor-p6", 5248), ("yolor-w6", 7552)])
def test_the_two_places_of_the_norm_differ_by_the_known_number(name: str, more: int) -> None:
    """The authors' two releases of one name are two functions; the published counts are of the one without."""
    config = load_model_config(name)
    sizes = []
    for joint in (False, True):
        with torch.device("meta"):
            backbone = build_backbone(with_norm(config.backbone, joint))
            neck = build_neck(with_norm(config.neck, joint), backbone.spec)
        sizes.append(count(backbone) + count(neck))
    assert sizes[1] - sizes[0] == more


def with_norm(part: PartConfig, joint: bool) -> PartConfig:
    return part.model_copy(update={"options": {**part.options, "joint_norm": joint}})


def test_the_scale_family_follows_one_rule() -> None:
    sizes = [count(create_model(f"unified-{letter}", tasks=("det",))) / 1e6 for letter in "nsml"]
    assert sizes == sorted(sizes)
    assert 1.0 < sizes[0] < 1.5 and 3.5 < sizes[1] < 5
    assert 10 < sizes[2] < 14 and 22 < sizes[3] < 28
    for letter in "nsml":
        config = load_model_config(f"unified-{letter}")
        assert set(config.backbone.options) == {"width", "depth"}
        assert config.neck.options["depth"] == max(1, round(3 * config.backbone.options["depth"]))


SMALL = {
    "csp": ({"channels": [8, 8, 16, 16, 16], "depths": [0, 1, 1, 1, 1], "stem": 8, "transition": True}, {}, 3),
    "p6": ({"channels": [8, 8, 16, 16, 16], "depths": [1] * 5, "levels": 4, "stem": 8, "reorg": 1}, {}, 4),
    "e6": (
        {"channels": [8, 8, 16, 16, 24], "depths": [1] * 5, "levels": 4, "stem": 8, "reorg": 1}
        | {"joint_norm": True, "downc": True},
        {"joint_norm": True, "downc": True},
        4,
    ),
    "s2d": ({"channels": [8, 16, 16], "depths": [1, 1, 1], "stem": None, "reorg": 3}, {}, 3),
    "dwt": ({"channels": [8, 16, 16], "depths": [1, 1, 1], "stem": None, "reorg": 3, "haar": True}, {}, 3),
    "p7": ({"channels": [8] * 7, "depths": [1] * 7, "levels": 5, "stem": 8}, {"channels": [4, 4, 4, 8, 8]}, 5),
}


@torch.inference_mode()
@pytest.mark.parametrize("name", SMALL)
def test_every_structure_runs_at_any_width(name: str) -> None:
    backbone_options, neck_options, levels = SMALL[name]
    backbone = YOLORBackbone(**backbone_options).eval()
    neck = YOLORNeck(backbone.spec, depth=1, **neck_options).eval()
    assert backbone.spec.levels == ("p3", "p4", "p5", "p6", "p7")[:levels]
    assert backbone.spec.strides == (8, 16, 32, 64, 128)[:levels]
    height, width = 2 * backbone.spec.strides[-1], 3 * backbone.spec.strides[-1]
    features = backbone(torch.rand(2, 3, height, width))
    out = neck(features)
    for maps, spec in ((features.maps, backbone.spec), (out.maps, neck.spec)):
        expected = [(2, c, height // s, width // s) for c, s in zip(spec.channels, spec.strides, strict=True)]
        assert [tuple(x.shape) for x in maps] == expected


def test_stems_are_the_published_ones() -> None:
    def kinds(name: str) -> list[type[nn.Module]]:
        return [type(part) for part in YOLORBackbone(**SMALL[name][0]).stem]

    assert kinds("csp") == [Conv]
    assert kinds("p6") == [ReOrg, Conv]
    assert kinds("s2d") == [ReOrg] * 3
    assert kinds("dwt") == [Haar] * 3
    e6 = YOLORBackbone(**SMALL["e6"][0])
    assert all(isinstance(stage.down, DownC) for stage in e6.stages)
    assert not hasattr(YOLORBackbone(**SMALL["s2d"][0]).stages[0], "down")


@torch.inference_mode()
def test_every_level_sees_every_other() -> None:
    backbone = YOLORBackbone(**SMALL["csp"][0]).eval()
    neck = YOLORNeck(backbone.spec, depth=1).eval()
    features = backbone(torch.rand(1, 3, 64, 64))
    before = neck(features).maps
    for k in range(3):
        moved = tuple(x + (i == k) * torch.randn_like(x) for i, x in enumerate(features.maps))
        after = neck(features.with_maps(moved)).maps
        assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@torch.inference_mode()
@pytest.mark.parametrize("name", SMALL)
def test_a_trunk_offers_its_stages_as_sites(name: str) -> None:
    backbone = YOLORBackbone(**SMALL[name][0]).eval()
    images = torch.rand(1, 3, 2 * backbone.strides[-1], 2 * backbone.strides[-1])
    seen: dict[str, int] = {}

    def watch(site: str, x: Tensor) -> Tensor:
        assert site not in seen and x.shape[-1] == images.shape[-1] // int(site.removeprefix("trunk.s"))
        seen[site] = x.shape[1]
        return x

    watched = backbone(images, watch)
    assert seen == backbone.sites
    assert all(torch.equal(a, b) for a, b in zip(watched.maps, backbone(images).maps, strict=True))
    first, last = (f"trunk.s{backbone.strides[i]}" for i in (0, -1))
    changed = backbone(images, lambda site, x: x + 1 if site == first else x)
    assert not any(torch.equal(a, b) for a, b in zip(changed.maps, watched.maps, strict=True))
    changed = backbone(images, lambda site, x: x + 1 if site == last else x)
    assert [torch.equal(a, b) for a, b in zip(changed.maps, watched.maps, strict=True)][-2:] == [True, False]


def test_a_style_reaches_every_norm_and_every_activation() -> None:
    network = create_model("unified-n")
    before = network.state_dict()
    restyle(network, ModelConfig(norm=NormConfig(eps=1e-4, momentum=0.03), activation="mish"))
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    assert norms and all(norm.eps == 1e-4 and norm.momentum == 0.03 for norm in norms)
    assert not any(isinstance(m, nn.SiLU) for part in (network.backbone, network.neck) for m in part.modules())
    assert any(isinstance(m, nn.Mish) for m in network.modules())
    assert list(before) == list(network.state_dict())


def test_a_style_that_says_nothing_changes_nothing() -> None:
    conv = restyle(Conv(3, 3), ModelConfig())
    assert (conv.norm.eps, conv.norm.momentum, type(conv.act)) == (1e-3, 0.1, nn.SiLU)
    bare = restyle(Conv(3, 3, act=False), ModelConfig(activation="relu"))
    assert isinstance(bare.act, nn.Identity)


@pytest.mark.parametrize(("name", "act"), [("yolor-csp", nn.SiLU), ("yolor-e6", nn.SiLU), ("yolov4-p6", nn.Mish)])
def test_published_networks_have_their_style_throughout(name: str, act: type[nn.Module]) -> None:
    network = weightless(name)
    assert {m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {0.03}
    acts = {type(m.act) for m in network.modules() if hasattr(m, "act")}
    assert acts == {act}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"channels": [8, 8], "depths": [1]}, "backbone: 2 channels but 1 depths"),
        ({"channels": [8, 8], "depths": [1, 1], "levels": 3}, "backbone: 3 levels of 2 stages; expected 1 to 2"),
    ],
)
def test_numbers_that_make_no_trunk_are_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        YOLORBackbone(**options)


def test_a_neck_needs_a_width_for_each_level() -> None:
    with pytest.raises(ConfigError, match="neck: 2 channels for 3 levels"):
        YOLORNeck(FeatureSpec(("p3", "p4", "p5"), (8, 8, 8), (8, 16, 32)), channels=[4, 4])


def test_a_model_says_which_head_a_kind_of_task_gets(tmp_path: Any) -> None:
    text = "backbone: {name: csp, channels: [8, 8, 8, 8, 8], depths: [1, 1, 1, 1]}\n"
    path = tmp_path / "m.yaml"
    path.write_text(text + "default_heads: {det: detect_anchor}\n")
    network = create_model(str(path), tasks=("cars:det", "cls"))
    assert type(network.heads["cars"]).__name__ == "DetectAnchor"
    assert type(network.heads["cls"]).__name__ == "MultilabelHead"
    path.write_text(text)
    assert type(create_model(str(path), tasks=("det",)).heads["det"]).__name__ == "DetectFree"
