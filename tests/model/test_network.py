# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import timm
import tiny
import torch
from torch import Tensor, nn

import unified  # noqa: F401
from unified.contracts.errors import ConfigError, UnifiedError
from unified.model.backbones.csp import CSPBackbone, scaled_channels, scaled_depths
from unified.model.build import create_model, list_models
from unified.model.layers.spp import SPP
from unified.model.necks.pan import PANNeck
from unified.model.network import UnifiedNetwork, as_input

TIMM = "name: t\nbackbone: {name: timm, model: MODEL}\nneck: identity\nheads: {embed: {width: 16}}\n"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> UnifiedNetwork:
    torch.manual_seed(0)
    network = create_model(tiny.write_model(tmp_path_factory.mktemp("model"))).eval()
    for latent in network.bank.entries():
        latent.latent.z.data += 0.3 * torch.randn_like(latent.latent.z)
    return network


def tensors(answer: Any) -> list[Tensor]:
    """Every tensor of a head's output, in order."""
    values = [getattr(answer, field.name) for field in fields(answer)]
    flat = [v for value in values for v in (value if isinstance(value, tuple) else (value,))]
    return [value for value in flat if isinstance(value, Tensor)]


def same(a: Any, b: Any) -> bool:
    pairs = list(zip(tensors(a), tensors(b), strict=True))
    assert pairs
    return all(torch.equal(x, y) for x, y in pairs)


def test_the_trunk_runs_once_for_all_tasks(network: UnifiedNetwork) -> None:
    calls: list[str] = []
    hooks = [network.backbone.register_forward_hook(lambda *_: calls.append("backbone"))]
    hooks += [network.neck.register_forward_hook(lambda *_: calls.append("neck"))]
    hooks += [h.register_forward_hook(lambda *_, n=n: calls.append(n)) for n, h in network.heads.items()]
    try:
        network(torch.zeros(1, 3, 64, 64))
        assert calls == ["backbone", "neck", "det", "cls", "emb"]
        calls.clear()
        network(torch.zeros(1, 3, 64, 64), ["emb"])
        assert calls == ["backbone", "neck", "emb"]
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def test_a_task_alone_answers_bit_for_bit_as_among_others(network: UnifiedNetwork) -> None:
    images = torch.rand(2, 3, 64, 96)
    together = network(images)
    for task in network.tasks:
        assert same(network(images, [task])[task], together[task])
    other = network(images.flip(0))
    assert not all(same(other[task], together[task]) for task in network.tasks)


@torch.inference_mode()
def test_bytes_and_floats_are_the_same_picture(network: UnifiedNetwork) -> None:
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    floats = images.float() / 255
    assert torch.equal(as_input(images), floats)
    assert as_input(images).max() <= 1
    assert all(same(a, b) for a, b in zip(network(images).values(), network(floats).values(), strict=True))


def test_an_unknown_task_is_one_line(network: UnifiedNetwork) -> None:
    with pytest.raises(ConfigError) as caught:
        network(torch.zeros(1, 3, 64, 64), ["det", "emv"])
    assert str(caught.value) == "this network has no task 'emv'; known: cls, det, emb (did you mean 'emb'?)"


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_nano_is_nano_and_small_is_a_few_times_that() -> None:
    nano, small = create_model("unified-n"), create_model("unified-s")
    assert 0.8e6 <= count(nano) <= 1.5e6
    assert 2.5 < count(small) / count(nano) < 6
    assert {"unified-n", "unified-s"} <= set(list_models())
    assert nano.backbone.spec.levels == ("p3", "p4", "p5")


def test_one_rule_gives_channels_and_depths() -> None:
    assert scaled_channels(0.25, 3) == (16, 32, 64, 96, 160)
    assert scaled_channels(1.0, 4) == (64, 128, 256, 384, 640, 768)
    assert scaled_depths(0.33, 3) == (1, 2, 2, 1)
    assert scaled_depths(1.0, 4) == (3, 6, 6, 3, 3)


def test_four_levels_reach_stride_64(tmp_path: Path) -> None:
    backbone = CSPBackbone(width=0.125, depth=0.1, levels=4)
    assert backbone.spec.levels == ("p3", "p4", "p5", "p6")
    assert backbone.spec.strides == (8, 16, 32, 64)
    features = PANNeck(backbone.spec)(backbone(torch.zeros(2, 3, 128, 192)))
    expected = [(2, c, 128 // s, 192 // s) for c, s in zip(backbone.spec.channels, backbone.spec.strides, strict=True)]
    assert [tuple(x.shape) for x in features.maps] == expected
    text = "backbone: {name: csp, width: 0.125, depth: 0.1, levels: 4}\nheads: {embed: {width: 16}}\n"
    network = create_model(tiny.write_model(tmp_path, text)).eval()
    assert set(network(torch.zeros(1, 3, 128, 128))) == {"det", "cls", "emb"}


@torch.inference_mode()
def test_a_neck_lets_every_level_see_every_other() -> None:
    backbone = CSPBackbone(channels=(8, 8, 16, 16, 16), depths=(1, 1, 1, 1)).eval()
    neck = PANNeck(backbone.spec).eval()
    features = backbone(torch.rand(1, 3, 64, 64))
    before = neck(features).maps
    for k in range(3):
        moved = tuple(x + (i == k) * torch.randn_like(x) for i, x in enumerate(features.maps))
        after = neck(features.with_maps(moved)).maps
        assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@torch.inference_mode()
def test_pooling_in_series_equals_windows_of_5_9_and_13() -> None:
    spp = SPP(8, 8).eval()
    seen: list[Tensor] = []
    spp.fuse.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randn(2, 8, 17, 20)
    spp(x)
    reduced = spp.reduce(x)
    pools = [nn.MaxPool2d(k, stride=1, padding=k // 2)(reduced) for k in (5, 9, 13)]
    assert torch.equal(seen[0], torch.cat([reduced, *pools], dim=1))


def test_a_timm_trunk_is_one_line_of_yaml(tmp_path: Path) -> None:
    path = tiny.write_model(tmp_path, TIMM.replace("MODEL", "resnet18"))
    network = create_model(path, tasks=("det", "cls")).eval()
    assert network.neck.spec.channels == (128, 256, 512)
    assert network.neck.spec.strides == (8, 16, 32)
    with torch.inference_mode():
        outputs = network(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8))
    assert all(x.isfinite().all() for answer in outputs.values() for x in tensors(answer))


@torch.inference_mode()
def test_a_timm_trunk_sees_normalised_pictures(tmp_path: Path) -> None:
    network = create_model(tiny.write_model(tmp_path, TIMM.replace("MODEL", "resnet18")), tasks=("cls",)).eval()
    images = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = network.backbone.body((images - mean) / std)[-1]
    assert torch.allclose(network.backbone(images).maps[-1], expected, atol=1e-5)


class LocalEntryNotFoundError(FileNotFoundError):
    """Named as the hub's own error."""


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("cannot find the file\nand outgoing traffic has been disabled"),
        ConnectionError("no route\nto host"),
    ],
)
def test_pretrained_weights_that_cannot_be_had_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def create(*args: Any, **words: Any) -> Any:
        assert words["pretrained"]
        raise error

    monkeypatch.setattr(timm, "create_model", create)
    text = TIMM.replace("MODEL", "resnet18, pretrained: true")
    with pytest.raises(ConfigError, match=r"pretrained weights of timm model 'resnet18' .*pretrained: false") as caught:
        create_model(tiny.write_model(tmp_path, text))
    assert len(str(caught.value).splitlines()) == 1


def test_nothing_is_fetched_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: (asked.append(k["pretrained"]), create(*a, **k))[1])
    create_model(tiny.write_model(tmp_path, TIMM.replace("MODEL", "resnet10t")), tasks=("cls",))
    assert asked == [False]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("backbone: cspp", "unknown backbone 'cspp'; known: csp, timm, yolor (did you mean 'csp'?)"),
        ("neck: pann", "unknown neck 'pann'; known: identity, pan, yolor (did you mean 'pan'?)"),
        (
            "backbone: {name: csp, widht: 1}",
            "unknown option 'widht' of backbone 'csp'; known: attention, channels, depth, ",
        ),
        ("neck: {name: pan, spec: 1}", "unknown option 'spec' of neck 'pan'; known: attention, channels, depth"),
        ("heads: {embed: {widht: 8}}", "unknown option 'widht' of head 'embed'; known: width (did you mean 'width'?)"),
        ("backbone: timm:resnet18x", "unknown timm model 'resnet18x'"),
        ("backbone: timm", "option 'model' of backbone 'timm' is missing"),
        (
            "latents: [{site: 'align.*', operator: ad}]",
            "unknown operator 'ad'; known: add, affine, concat, lowrank, mul, select",
        ),
        ("latents: [{site: 'align.*', latent: vektor}]", "unknown latent 'vektor'; known: factorized, neural, vector"),
        ("latents: [{site: 'align.*', latent: {name: vector, sdt: 1}}]", "unknown option 'sdt' of latent 'vector'"),
    ],
)
def test_an_unknown_word_is_one_line_with_the_nearest(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(UnifiedError) as caught:
        create_model(tiny.write_model(tmp_path, text + "\n"))
    assert str(caught.value).startswith(line)
    assert len(str(caught.value).splitlines()) == 1


def test_a_timm_model_is_suggested_by_its_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        create_model(tiny.write_model(tmp_path, "backbone: timm:convnext_tinny\n"))
    assert "did you mean 'convnext_tiny'" in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_timm_model_without_the_strides_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"resnet18.*strides \[2, 4, 8, 16, 32\], not \[64\]"):
        create_model(tiny.write_model(tmp_path, TIMM.replace("MODEL", "resnet18, levels: 4")))


def test_unknown_models_tasks_and_heads_are_named() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown model 'unified-x'; known: unified-l, unified-m, .*\(did you mean 'unified-"
    ):
        create_model("unified-x")
    with pytest.raises(UnifiedError, match=r"unknown task 'dett'.*did you mean 'det'"):
        create_model(tasks=("dett",))


def test_two_tasks_of_one_kind_have_heads_of_their_own(tmp_path: Path) -> None:
    network = create_model(tiny.write_model(tmp_path), tasks=("cars:det", "people:det")).eval()
    assert network.tasks == ("cars", "people")
    with torch.inference_mode():
        outputs = network(torch.rand(1, 3, 64, 64))
    assert not same(outputs["cars"], outputs["people"])
