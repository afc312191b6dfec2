# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import tiny
import torch

import unified  # noqa: F401
from unified.contracts.config import PartConfig
from unified.contracts.errors import ConfigError
from unified.contracts.structures import FeatureSpec
from unified.model.backbones.timm import TimmBackbone, pyramid
from unified.model.build import build_backbone, create_model
from unified.model.necks.pan import PANNeck


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reaches for the network fails."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)


# A family a line: resnet, convnext, efficientnet, mobilenet; transformers that give NHWC maps, one level, or no p3.
FAMILIES = {
    "resnet18": (("p3", "p4", "p5"), (128, 256, 512)),
    "convnext_atto": (("p3", "p4", "p5"), (80, 160, 320)),
    "efficientnet_lite0": (("p3", "p4", "p5"), (40, 112, 320)),
    "mobilenetv3_small_100": (("p3", "p4", "p5"), (24, 48, 576)),
    "swin_tiny_patch4_window7_224": (("p3", "p4", "p5"), (192, 384, 768)),
    "vit_tiny_patch16_224": (("p4",), (192,)),
}


@pytest.mark.parametrize("model", FAMILIES)
@torch.inference_mode()
def test_families_give_maps_that_line_up_with_their_strides(model: str) -> None:
    backbone = TimmBackbone(model).eval()
    levels, channels = FAMILIES[model]
    assert (backbone.spec.levels, backbone.spec.channels) == (levels, channels)
    assert backbone.spec.strides == tuple(2 ** int(level[1:]) for level in levels)
    features = backbone(torch.rand(2, 3, 64, 96))
    sides = [(64 // stride, 96 // stride) for stride in backbone.spec.strides]
    expected = [(2, c, *side) for c, side in zip(channels, sides, strict=True)]
    assert [tuple(x.shape) for x in features.maps] == expected
    assert all(x.isfinite().all() for x in PANNeck(backbone.spec).eval()(features).maps)


@torch.inference_mode()
def test_maps_with_channels_last_are_turned_and_not_reshaped() -> None:
    backbone = TimmBackbone("swin_tiny_patch4_window7_224", levels=1).eval()
    images = torch.rand(1, 3, 64, 96)
    raw = backbone.body((images - backbone.mean) / backbone.std)[1]  # (1, 8, 12, 192)
    assert torch.equal(backbone(images).maps[0][0, :, 3, 5], raw[0, 3, 5])


def test_images_are_normalised_as_the_model_was_trained() -> None:
    assert TimmBackbone("vit_tiny_patch16_224").mean.flatten().tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert TimmBackbone("resnet10t").mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_looking_at_the_maps_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    plain = timm.create_model("resnet10t", features_only=True).state_dict()
    torch.manual_seed(0)
    backbone = TimmBackbone("resnet10t")
    after = torch.rand(1)
    assert backbone.body.training
    assert all(torch.equal(value, plain[name]) for name, value in backbone.body.state_dict().items())
    torch.manual_seed(0)
    timm.create_model("resnet10t", features_only=True)
    assert torch.equal(after, torch.rand(1))


def test_a_model_of_one_size_wants_to_be_told_and_then_keeps_to_it() -> None:
    model = "maxvit_rmlp_pico_rw_256"
    with pytest.raises(ConfigError, match=r"takes images of one size only; give the backbone img_size"):
        TimmBackbone(model)
    backbone = TimmBackbone(model, img_size=64).eval()
    assert backbone.size == (64, 64)
    assert backbone(torch.rand(1, 3, 64, 64)).maps[0].shape[-2:] == (8, 8)
    with pytest.raises(ConfigError, match=r"built for images of 64x64 pixels and got 64x96"):
        backbone(torch.rand(1, 3, 64, 96))
    with pytest.raises(ConfigError, match=r"cannot take images of 100x100 pixels"):
        TimmBackbone(model, img_size=100)


@pytest.mark.parametrize(
    ("reductions", "levels", "expected"),
    [
        ((2, 4, 8, 16, 32), None, (8, 16, 32)),
        ((2, 4, 8, 16, 32), 2, (8, 16)),
        ((4, 8, 16), None, (8, 16)),
        ((16, 32, 64), None, (16, 32, 64)),
        ((16, 16, 16), None, (16,)),
        ((4, 8, 16, 32, 64), 4, (8, 16, 32, 64)),
        ((4, 8, 32), None, (8,)),
    ],
)
def test_levels_are_consecutive_strides(
    reductions: tuple[int, ...], levels: int | None, expected: tuple[int, ...]
) -> None:
    assert pyramid("x", reductions, levels) == expected


@pytest.mark.parametrize(
    ("reductions", "levels", "line"),
    [
        ((2, 4, 8, 16, 32), 4, r"has strides \[2, 4, 8, 16, 32\], not \[64\]; use fewer levels"),
        ((16, 32), 3, r"not \[64\]"),
        ((14, 14, 14), None, r"has strides \[14, 14, 14\]; a trunk needs one of 8, 16, 32, 64"),
        ((8, 16), 0, "levels must be 1 or more, got 0"),
    ],
)
def test_strides_that_make_no_pyramid_are_refused(reductions: tuple[int, ...], levels: int | None, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        pyramid("x", reductions, levels)


@pytest.mark.parametrize(
    ("model", "options", "line"),
    [
        ("convnext_tinny", {}, "unknown timm model 'convnext_tinny'; did you mean 'convnext_tiny'?"),
        ("zzzz", {}, "unknown timm model 'zzzz'; timm.list_models() lists them"),
        ("hf-hub:timm/resnet18.a1_in1k", {}, "unknown timm model 'hf-hub:timm/resnet18.a1_in1k'"),
        ("resnet18.a1_in2k", {}, "timm model 'resnet18' has no weights 'a1_in2k'; known: a1_in1k, "),
        ("resnet18", {"widht": 2}, "timm model 'resnet18' cannot serve as a feature pyramid: ResNet.__init__() got an"),
        ("mixer_l32_224", {"pretrained": True}, "timm has no pretrained weights for 'mixer_l32_224'; set pretrained: "),
        ("inception_v3", {}, "timm model 'inception_v3' cannot serve as a feature pyramid: "),
    ],
)
def test_words_that_cannot_be_are_one_line(model: str, options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TimmBackbone(model, **options)
    assert str(caught.value).startswith(line)
    assert len(str(caught.value).splitlines()) == 1


def test_pretrained_weights_offline_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own error, from its own code, with an empty cache and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        create_model(tiny.write_model(tmp_path, "backbone: {name: timm, model: resnet10t, pretrained: true}\n"))
    assert str(caught.value).startswith("pretrained weights of timm model 'resnet10t' cannot be fetched or found")
    assert "set pretrained: false" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_loaded_next_is_not_fetched_first() -> None:
    """A trained model's folder holds its weights: reading it needs no network, whatever its trunk began with."""
    part = PartConfig(name="timm:resnet10t", options={"pretrained": True})
    spec = build_backbone(part, fetch=False).spec
    assert spec == FeatureSpec(("p3", "p4", "p5"), (128, 256, 512), (8, 16, 32))
