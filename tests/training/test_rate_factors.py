# SPDX-License-Identifier: Apache-2.0
"""What multiplies the learning rate of which weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from unified.contracts.config import PartConfig, TrainConfig
from unified.model.build import EXAMPLE_VOCABULARY, assemble, build_backbone
from unified.training.joint import JointModel
from unified.training.optimizer import make_optimizer, parameter_groups, rate_factors, set_learning_rate


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> JointModel:
    config, _ = tiny.config(tmp_path_factory.mktemp("factors"))
    parts = assemble(config.model, config.tasks, EXAMPLE_VOCABULARY)
    return JointModel(parts.network, parts.tasks)


def test_rates_fall_with_the_distance_from_the_heads(joint: JointModel) -> None:
    """A stem and four stages: the last stage gets one factor, the stem five."""
    factors = rate_factors(joint, TrainConfig(layer_decay=0.5))
    network = joint.network
    by_part = {"stem": network.backbone.stem, **{str(i): s for i, s in enumerate(network.backbone.stages)}}  # type: ignore[union-attr,arg-type]
    found = {name: {factors[id(p)] for p in part.parameters()} for name, part in by_part.items()}
    assert found == {"stem": {1 / 32}, "0": {1 / 16}, "1": {1 / 8}, "2": {1 / 4}, "3": {1 / 2}}
    rest = [*network.neck.parameters(), *network.heads.parameters(), *network.bank.parameters()]
    assert {factors.get(id(p), 1.0) for p in rest} == {1.0}


def test_parts_have_rates_of_their_own(joint: JointModel) -> None:
    config = TrainConfig(backbone_lr=0.1, neck_lr=0.5, head_lr=2.0, latent_lr=3.0, layer_decay=0.5, lr=1.0)
    optimizer = make_optimizer(joint, config)
    set_learning_rate(optimizer, 1.0)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    network = joint.network
    assert {rate[id(p)] for p in network.neck.parameters()} == {0.5}
    assert {rate[id(p)] for p in network.heads.parameters()} == {2.0}
    assert {rate[id(p)] for p in network.bank.parameters()} == {3.0}
    assert {rate[id(p)] for p in joint.tasks.parameters()} == {1.0}
    assert {rate[id(p)] for p in network.backbone.stages[-1].parameters()} == {0.05}  # type: ignore[union-attr,index]


def test_without_factors_groups_are_the_plain_ones(joint: JointModel) -> None:
    groups = parameter_groups(joint, TrainConfig())
    assert [(g["name"], g["kind"], g["scale"]) for g in groups] == [(n, n, 1.0) for n in ("decay", "plain", "latents")]
    scaled = parameter_groups(joint, TrainConfig(layer_decay=0.7))
    assert len({group["name"] for group in scaled}) == len(scaled)
    ids = sorted(id(p) for group in scaled for p in group["params"])
    assert ids == sorted(id(p) for p in joint.parameters())
    decayed = {id(p) for group in scaled if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(p) for g in groups if g["weight_decay"] for p in g["params"]}


def test_muons_matrices_stay_matrices_under_layer_decay(joint: JointModel) -> None:
    optimizer = make_optimizer(joint, TrainConfig(optimizer="muon", layer_decay=0.7, matrix_lr=2.0))
    matrices = {id(p) for group in optimizer.param_groups if group["matrix"] for p in group["params"]}
    plain = make_optimizer(joint, TrainConfig(optimizer="muon"))
    assert matrices == {id(p) for group in plain.param_groups if group["matrix"] for p in group["params"]}
    last = next(g for g in optimizer.param_groups if g["name"] == "decay x0.7")
    assert last["scale"] == pytest.approx(1.4)


def test_a_small_factor_is_a_small_step(tmp_path: Path) -> None:
    """Plain SGD on one loss: every weight moves by its factor times what it moves without."""
    moved = []
    for decay in (1.0, 0.1):
        torch.manual_seed(0)
        config, _ = tiny.config(tmp_path, tasks=("cls",))
        parts = assemble(config.model, config.tasks, EXAMPLE_VOCABULARY)
        model = JointModel(parts.network, parts.tasks).eval()
        train = TrainConfig(optimizer="sgd", momentum=0.0, weight_decay=0.0, lr=1.0, layer_decay=decay)
        optimizer = make_optimizer(model, train)
        set_learning_rate(optimizer, 1.0)
        before = [p.detach().clone() for p in parts.network.backbone.stages[-2].parameters()]  # type: ignore[union-attr,index]
        model.network(torch.rand(2, 3, 64, 64))["cls"].logits.sum().backward()
        optimizer.step()
        after = parts.network.backbone.stages[-2].parameters()  # type: ignore[union-attr,index]
        moved.append(torch.cat([(a.detach() - b).flatten() for a, b in zip(after, before, strict=True)]))
    assert moved[0].abs().max() > 0
    torch.testing.assert_close(moved[1], 0.01 * moved[0], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "options", "stages"),
    [
        ("csp", {}, 5),
        ("csp", {"attention": {"p5": "nonlocal"}}, 5),
        ("timm", {"model": "resnet18"}, 5),
        ("timm", {"model": "convnext_atto"}, 5),
        ("timm", {"model": "vit_tiny_patch16_224"}, 13),
        ("timm", {"model": "mobilenetv3_small_050"}, 7),
    ],
)
def test_a_trunk_knows_its_stages(name: str, options: dict[str, Any], stages: int) -> None:
    trunk = build_backbone(PartConfig(name=name, options=options), fetch=False)
    found = trunk.by_depth()
    assert len(found) == stages
    assert all(found)
    assert sorted(id(p) for stage in found for p in stage) == sorted(id(p) for p in trunk.parameters())
    first = next(m for m in trunk.modules() if isinstance(m, nn.Conv2d))
    assert id(first.weight) in {id(p) for p in found[0]}
