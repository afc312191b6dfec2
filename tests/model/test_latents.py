# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

import unified  # noqa: F401
from unified.contracts.config import LatentConfig, PartConfig, TaskConfig, TrainConfig
from unified.contracts.document import load_model_config
from unified.contracts.errors import ConfigError, UnifiedError
from unified.contracts.protocols import Operator, operators
from unified.model.build import EXAMPLE_VOCABULARY, Assembly, assemble, create_model
from unified.model.latents.bank import LatentBank
from unified.model.latents.factorized import FactorizedLatent
from unified.model.latents.neural import NeuralLatent
from unified.model.latents.operators import Add, Affine, Concat, Mul, Select
from unified.model.latents.vector import VectorLatent
from unified.model.network import UnifiedNetwork
from unified.training.joint import JointModel
from unified.training.optimizer import make_optimizer, parameter_groups, set_learning_rate

BUILT_IN = ("add", "affine", "concat", "lowrank", "mul", "select")
SHAPES = [(2, 6, 5, 4), (1, 6, 1, 1), (3, 6)]
every_operator = pytest.mark.parametrize("name", BUILT_IN)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def made(name: str) -> Operator:
    return operators.get(name)(6)


@every_operator
@every_shape
def test_an_operator_at_its_identity_changes_nothing(name: str, shape: tuple[int, ...]) -> None:
    operator, x = made(name), torch.randn(shape)
    z = operator.identity()
    assert z.shape == (operator.width,)
    assert torch.allclose(operator(x, z), x, atol=1e-6)
    assert not torch.allclose(operator(x, z + 0.5), x, atol=1e-3)


@every_operator
@every_shape
def test_a_fresh_latent_leaves_a_network_nearly_as_it_was(name: str, shape: tuple[int, ...]) -> None:
    operator, x = made(name), torch.randn(shape)
    latent = VectorLatent(operator.width, operator.identity())
    moved = (operator(x, latent()) - x).abs().max().item()
    assert 0 < moved < 0.3


@every_operator
@every_shape
def test_gradients_reach_z_and_x(name: str, shape: tuple[int, ...]) -> None:
    operator, x = made(name), torch.randn(shape, requires_grad=True)
    latent = VectorLatent(operator.width, operator.identity())
    operator(x, latent()).square().sum().backward()
    assert latent.z.grad is not None and latent.z.grad.abs().min() > 0
    assert x.grad is not None and x.grad.abs().sum() > 0


@every_operator
def test_a_state_leads_back_to_the_same_answers(name: str) -> None:
    torch.manual_seed(1)
    first, second = ((made(name), VectorLatent(made(name).width, 0.0)) for _ in range(2))
    x = torch.randn(2, 6, 3, 3)
    assert not torch.equal(first[0](x, first[1]()), second[0](x, second[1]()))
    for source, target in zip(first, second, strict=True):
        target.load_state_dict(source.state_dict())
    assert torch.equal(first[0](x, first[1]()), second[0](x, second[1]()))


@every_operator
@every_shape
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_half_precision_stays_half_precision_under_autocast(
    name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    operator, x = made(name), torch.randn(shape).to(dtype)
    latent = VectorLatent(operator.width, operator.identity())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = operator(x, latent())
    assert found.dtype == dtype or name == "concat"  # a 1x1 is autocast's to choose
    assert found.dtype in (dtype, torch.bfloat16)
    assert torch.allclose(found.float(), x.float(), atol=0.3, rtol=0.1)


def test_operators_by_hand() -> None:
    x, z = torch.tensor([[1.0, 2.0], [3.0, -4.0]]), torch.tensor([10.0, 0.5])
    assert Add(2)(x, z).tolist() == [[11, 2.5], [13, -3.5]]
    assert Mul(2)(x, z).tolist() == [[10, 1], [30, -2]]
    maps = x[:, :, None, None].expand(2, 2, 3, 1)
    assert Add(2)(maps, z)[1, :, 2, 0].tolist() == [13, -3.5]
    assert Mul(2)(maps, z)[0, :, 1, 0].tolist() == [10, 1]
    concat = Concat(2)
    concat.mix.weight.data = torch.tensor([[1.0, 0, 2, 0], [0, 1, 0, 3]])
    concat.mix.bias.data = torch.tensor([0.0, 100])
    assert concat(x, z).tolist() == [[12, 106.5], [16, 88.5]]
    assert concat(maps, z)[1, :, 0, 0].tolist() == [16, 88.5]


def test_z_is_drawn_round_its_mean_with_its_deviation() -> None:
    z = VectorLatent(20000, 1.0).z
    assert z.mean().item() == pytest.approx(1, abs=0.001)
    assert z.std().item() == pytest.approx(0.02, abs=0.001)
    assert VectorLatent(20000, 0.0, std=0.5).z.std().item() == pytest.approx(0.5, abs=0.02)


def test_affine_and_select_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    assert Affine(2)(x, torch.tensor([10.0, 0.5, 1, -1])).tolist() == [[11, 0], [31, -3]]
    gates = torch.tensor([0.0, math.log(3)])  # sigmoid: 0.5 and 0.75
    assert torch.allclose(Select(2)(x, gates), x * torch.tensor([1.0, 1.5]))
    assert torch.allclose(Select(2, gain=1.0)(x, gates), x * torch.tensor([0.5, 0.75]))
    assert torch.allclose(Select(2, gain=4.0)(x, Select(2, gain=4.0).identity()), x)
    with pytest.raises(ConfigError, match=r"operator 'select': gain must be at least 1, got 0\.5"):
        Select(2, gain=0.5)


def test_a_neural_latent_is_a_small_network_of_its_prior() -> None:
    latent = NeuralLatent(3, torch.tensor([1.0, 0, 5]))
    assert latent.z.shape == (6,)
    assert torch.allclose(latent(), latent.out.weight @ latent.z + torch.tensor([1.0, 0, 5]))
    assert 0 < (latent() - torch.tensor([1.0, 0, 5])).abs().max() < 0.1
    deep = NeuralLatent(3, 0.0, prior=4, depth=3, hidden="tanh", std=1.0)
    first, second = (layer.weight for layer in deep.layers)
    assert torch.allclose(deep(), deep.out.weight @ (second @ (first @ deep.z).tanh()).tanh(), atol=1e-6)
    linear = NeuralLatent(3, 0.0, depth=2, hidden="none", std=1.0)
    assert torch.allclose(linear(), linear.out.weight @ linear.layers[0].weight @ linear.z, atol=1e-6)
    for options, line in (
        ({"hidden": "sillu"}, "latent 'neural': unknown hidden 'sillu'; known: .*did you mean 'silu'"),
        ({"depth": 0}, "depth and prior must be at least 1, got 0 and 6"),
        ({"prior": 0}, "depth and prior must be at least 1, got 1 and 0"),
    ):
        with pytest.raises(ConfigError, match=line):
            NeuralLatent(3, 0.0, **options)


def test_a_factorized_latent_mixes_its_basis() -> None:
    latent = FactorizedLatent(3, torch.tensor([1.0, 0, 5]), rank=2)
    latent.basis.data = torch.tensor([[1.0, 2, 3], [0, -1, 4]])
    latent.coefficients.data = torch.tensor([2.0, -1])
    assert latent().tolist() == [3, 5, 7]
    latent.nonnegative = True
    assert latent().tolist() == [3, 5, 15]
    assert FactorizedLatent(3, 0.0).basis.shape == (6, 3)
    assert (FactorizedLatent(50, 1.0, nonnegative=True, std=0.5)() >= 1).all()
    drawn = torch.stack([FactorizedLatent(200, 1.0)() for _ in range(20)])
    assert drawn.mean().item() == pytest.approx(1, abs=0.01)
    assert drawn.std().item() == pytest.approx(0.02, rel=0.3)
    with pytest.raises(ConfigError, match="rank must be at least 1, got 0"):
        FactorizedLatent(3, 0.0, rank=0)


def test_latents_at_one_site_act_in_their_order() -> None:
    bank = LatentBank()
    for operator, value in ((Add(2), 3.0), (Mul(2), 2.0)):
        latent = VectorLatent(2, value, std=0.0)
        bank.place("det", "align.p3", latent, operator)
    x = torch.ones(1, 2)
    assert bank.modulate("det")("align.p3", x).tolist() == [[8, 8]]  # (1 + 3) * 2
    assert bank.modulate("det")("align.p4", x) is x
    assert bank.modulate("cls")("align.p3", x) is x


def built(tmp_path: Path, *rules: LatentConfig) -> Assembly:
    model = load_model_config(tiny.write_model(tmp_path)).model_copy(update={"latents": rules})
    return assemble(model, {t: TaskConfig(task=t) for t in ("det", "cls", "emb")}, EXAMPLE_VOCABULARY)


def places(assembly: Assembly) -> list[tuple[str, str]]:
    return [(entry.task, entry.site) for entry in assembly.network.bank.entries()]


def test_a_rule_places_one_z_for_every_task_and_site(tmp_path: Path) -> None:
    everywhere = [(task, f"align.p{k}") for task in ("det", "cls", "emb") for k in (3, 4, 5)]
    assert places(built(tmp_path, LatentConfig(site="align.*"))) == everywhere
    only = LatentConfig(site="align.p[34]", tasks=("e*", "cls"))
    expected = [("cls", "align.p3"), ("cls", "align.p4"), ("emb", "align.p3"), ("emb", "align.p4")]
    assert places(built(tmp_path, only)) == expected
    assert ("emb", "pre.map") in places(built(tmp_path, LatentConfig(site="pre.*")))
    assert places(built(tmp_path)) == []


def passes(network: UnifiedNetwork, *tasks: str) -> int:
    count = [0]
    hook = network.backbone.register_forward_hook(lambda *_: count.__setitem__(0, count[0] + 1))
    try:
        with torch.inference_mode():
            network.eval()(torch.rand(1, 3, 64, 64), tasks or None)
    finally:
        hook.remove()
    assert count[0] == network.trunk_passes(tasks or None)
    return count[0]


def test_a_z_inside_the_trunk_costs_its_task_a_trunk_pass(tmp_path: Path) -> None:
    network = built(tmp_path, LatentConfig(site="trunk.s8", tasks=("cls", "emb"))).network
    assert places(built(tmp_path, LatentConfig(site="trunk.s8", tasks=("cls",)))) == [("cls", "trunk.s8")]
    assert (passes(network), passes(network, "det"), passes(network, "cls"), passes(network, "cls", "det")) == (
        3,
        1,
        1,
        2,
    )
    assert passes(network, "cls", "emb") == 2
    note = "latents stand inside the trunk for cls, emb: answering all tasks takes 3 trunk passes instead of 1"
    assert network.trunk_note() == note
    plain = built(tmp_path, LatentConfig(site="align.*")).network
    assert passes(plain) == 1
    assert plain.trunk_note() is None


def test_a_z_inside_the_trunk_bends_its_own_task_only(tmp_path: Path) -> None:
    network, images = built(tmp_path, LatentConfig(site="trunk.s4", tasks=("cls",))).network, torch.rand(1, 3, 64, 64)
    before = answers(network, images)
    nn.init.normal_(next(network.bank.entries()).latent.z)
    after = answers(network, images)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"cls"}


def test_only_a_pattern_that_says_trunk_reaches_into_it(tmp_path: Path) -> None:
    assert not any(site.startswith("trunk.") for _, site in places(built(tmp_path, LatentConfig(site="*"))))
    found = places(built(tmp_path, LatentConfig(site="trunk.*")))
    assert [site for task, site in found if task == "det"] == ["trunk.s4", "trunk.s8", "trunk.s16", "trunk.s32"]


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (
            {"site": "align.*", "only": ("w", "h")},
            r"only \[w, h\] does not fit site 'align.p3' of task 'det': its channels",
        ),
        ({"site": "post.tags", "only": ("w",)}, r"only \[w\] does not fit site 'post.tags' of task 'cls'"),
        ({"site": "post.p3.box", "only": ("lefft",)}, "has no channel 'lefft'; known: .*did you mean 'left'"),
        ({"site": "pre.*", "operator": "mull"}, "unknown operator 'mull'; known: .*did you mean 'mul'"),
        ({"site": "pre.*", "latent": "neutral"}, "unknown latent 'neutral'; known: .*did you mean 'neural'"),
        ({"site": "pre.*", "latent": {"name": "neural", "dept": 2}}, "unknown option 'dept' of latent 'neural'; known"),
        ({"site": "pre.*", "latent": {"name": "neural", "mean": 2}}, "unknown option 'mean' of latent 'neural'; known"),
        (
            {"site": "pre.*", "latent": {"name": "neural", "depth": "x"}},
            r"latent 'neural' cannot be built with \{'depth'",
        ),
        ({"site": "pre.*", "operator": {"name": "select", "gain": 0.1}}, "gain must be at least 1, got 0.1"),
        ({"site": "pre.*", "operator": {"name": "add", "channels": 3}}, "unknown option 'channels' of operator 'add'"),
    ],
)
def test_a_rule_that_does_not_fit_is_one_line(tmp_path: Path, rule: dict[str, Any], line: str) -> None:
    with pytest.raises(UnifiedError, match=line) as caught:
        built(tmp_path, LatentConfig(**rule))
    assert len(str(caught.value).splitlines()) == 1


def test_a_latent_has_the_width_of_its_site(tmp_path: Path) -> None:
    assembly = built(tmp_path, LatentConfig(site="*", operator=PartConfig(name="mul")))
    widths = {(e.task, e.site): len(e.latent()) for e in assembly.network.bank.entries()}
    assert widths["emb", "pre.image"] == 32
    assert widths["cls", "post.tags"] == len(EXAMPLE_VOCABULARY.tags)
    with torch.inference_mode():
        assembly.network.eval()(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("site", "tasks"), [("aling.*", ("*",)), ("align.p6", ("*",)), ("align.*", ("dett",)), ("pre.map", ("det",))]
)
def test_a_rule_that_matches_nothing_is_an_error(tmp_path: Path, site: str, tasks: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="latents: no site matches") as caught:
        built(tmp_path, LatentConfig(site=site, tasks=tasks))
    assert len(str(caught.value).splitlines()) == 1


def answers(network: UnifiedNetwork, images: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        found = network.eval()(images)
    return {"det": found["det"].class_logits, "cls": found["cls"].logits, "emb": found["emb"].image}


@pytest.mark.parametrize("task", ["det", "cls", "emb"])
def test_a_tasks_z_is_its_own(tmp_path: Path, task: str) -> None:
    """The shared trunk answers another task bit for bit as before when this task's z has moved."""
    network, images = create_model(tiny.write_model(tmp_path)), torch.rand(2, 3, 64, 64)
    before = answers(network, images)
    for entry in network.bank.entries():
        if entry.task == task:
            nn.init.normal_(entry.latent.z, 0.7, 0.5)
    after = answers(network, images)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {task}


def test_no_two_tasks_share_a_z(tmp_path: Path) -> None:
    bank = create_model(tiny.write_model(tmp_path)).bank
    pointers = [p.data_ptr() for p in bank.parameters()]
    assert len(set(pointers)) == len(list(bank.entries())) == len(pointers)


def test_latents_learn_at_their_own_rate_and_never_decay(tmp_path: Path) -> None:
    kinds = ("vector", "neural", "factorized")
    rules = [LatentConfig(site="align.*", operator="concat", latent=name) for name in kinds]  # type: ignore[arg-type]
    assembly = built(tmp_path, *rules)
    joint = JointModel(assembly.network, assembly.tasks)
    config = TrainConfig(weight_decay=0.1, latent_lr=4.0)
    groups = {group["name"]: group for group in parameter_groups(joint, config)}
    assert [p.data_ptr() for p in groups["latents"]["params"]] == [
        p.data_ptr() for p in joint.network.bank.parameters()
    ]
    assert (groups["latents"]["weight_decay"], groups["latents"]["scale"]) == (0.0, 4.0)
    assert groups["decay"]["weight_decay"] == 0.1
    assert groups["plain"]["weight_decay"] == 0.0
    assert min(p.ndim for p in groups["decay"]["params"]) == 2
    proxies = {p.data_ptr() for p in joint.tasks.parameters()}
    assert proxies
    assert proxies <= {p.data_ptr() for p in groups["plain"]["params"]}
    listed = [p.data_ptr() for group in groups.values() for p in group["params"]]
    assert sorted(listed) == sorted(p.data_ptr() for p in joint.parameters())


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_step_without_gradient_shrinks_weights_but_no_z(tmp_path: Path, kind: str) -> None:
    assembly = built(tmp_path, LatentConfig(site="align.*", operator=PartConfig(name="mul")))
    joint = JointModel(assembly.network, assembly.tasks)
    optimizer = make_optimizer(joint, TrainConfig(optimizer=kind, weight_decay=0.5, momentum=0.0))  # type: ignore[arg-type]
    set_learning_rate(optimizer, 0.1)
    weight, z = joint.network.backbone.stem.conv.weight, next(joint.network.bank.parameters())
    before = weight.detach().clone(), z.detach().clone()
    for parameter in joint.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.allclose(weight, before[0] * (1 - 0.1 * 0.5), atol=1e-7)
    assert torch.equal(z, before[1])


def test_a_banks_state_leads_back(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = create_model(tiny.write_model(tmp_path)).bank
    second = create_model(tiny.write_model(tmp_path)).bank
    assert not torch.equal(next(first.parameters()), next(second.parameters()))
    second.load_state_dict(first.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
