# SPDX-License-Identifier: Apache-2.0
"""Norms in the place of batch norms: what they compute, what they are called, and that folding stays exact."""

from __future__ import annotations

import copy
import socket
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn import functional as F

from unified.contracts.config import LatentConfig, ModelConfig, NormConfig, PartConfig, TaskConfig
from unified.contracts.errors import ConfigError
from unified.model.build import EXAMPLE_VOCABULARY, assemble
from unified.model.latents.fold import fold
from unified.model.network import UnifiedNetwork
from unified.model.norms import GroupNorm, SyncedNorm, groups_of, settle_norms

OPTIONS = {"channels": [8, 8, 16, 16, 24], "depths": [1, 1, 1, 1]}
LATENTS = (
    LatentConfig(site="align.*", operator=PartConfig(name="mul")),
    LatentConfig(site="align.*", operator=PartConfig(name="add")),
    LatentConfig(site="pre.*", operator=PartConfig(name="add")),
    LatentConfig(site="post.*", operator=PartConfig(name="mul")),
)


def built(norm: NormConfig = NormConfig(), backbone: PartConfig | None = None, **words: object) -> UnifiedNetwork:  # noqa: B008
    torch.manual_seed(0)
    model = ModelConfig(
        backbone=backbone or PartConfig(name="csp", options=OPTIONS),
        neck=PartConfig(name="pan", options={"depth": 1}),
        norm=norm,
        **words,  # type: ignore[arg-type]
    )
    tasks = {"det": TaskConfig(task="det"), "cls": TaskConfig(task="cls"), "emb": TaskConfig(task="emb")}
    return assemble(model, tasks, EXAMPLE_VOCABULARY, fetch=False).network


@pytest.mark.parametrize(
    ("channels", "most", "groups"), [(64, 32, 16), (256, 32, 32), (8, 32, 2), (24, 32, 6), (6, 32, 1), (3, 32, 1)]
)
def test_groups_divide_the_channels(channels: int, most: int, groups: int) -> None:
    assert groups_of(channels, most) == groups


def test_group_norms_take_the_names_of_batch_norms() -> None:
    """And their scales: the embedding head starts some of them at zero. Statistics are no more."""
    plain, grouped = built(), built(NormConfig(kind="group"))
    assert not [m for m in grouped.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    mine, theirs = grouped.state_dict(), plain.state_dict()
    gone = set(theirs) - set(mine)
    assert set(mine) < set(theirs)
    assert {name.rpartition(".")[2] for name in gone} == {"running_mean", "running_var", "num_batches_tracked"}
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def test_a_group_norm_sees_one_image_alone() -> None:
    network = built(NormConfig(kind="group")).train()
    images = torch.rand(4, 3, 64, 64)
    together, alone = network(images)["cls"].logits, network(images[2:3])["cls"].logits
    torch.testing.assert_close(together[2:3], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network.eval()(images)["cls"].logits, together)
    plain = built().train()
    assert not torch.allclose(plain(images)["cls"].logits[2:3], plain(images[1:3])["cls"].logits[1:], atol=1e-4)


def test_constants_reach_group_norms() -> None:
    network = built(NormConfig(kind="group", groups=2, eps=0.125))
    norms = [m for m in network.modules() if isinstance(m, GroupNorm)]
    assert {(m.eps, m.num_groups <= 2) for m in norms} == {(0.125, True)}


@pytest.mark.parametrize("kind", ["batch", "group"])
def test_folding_is_exact_with_either_norm(kind: str) -> None:
    network = built(NormConfig(kind=kind), latents=LATENTS)  # type: ignore[arg-type]
    torch.manual_seed(1)
    for name, value in network.state_dict().items():
        if value.is_floating_point() and ("bank" in name or "norm" in name) and "running_var" not in name:
            value.add_(0.3 * torch.randn_like(value))
    network.eval()
    folded = fold(network)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before, after = network(images), folded.network(images)
    assert {entry.task for entry in network.bank.entries()} == {"det", "cls", "emb"}
    absorbed = len(list(network.bank.entries())) - len(folded.kept)
    assert absorbed >= 12
    torch.testing.assert_close(after["det"].class_logits, before["det"].class_logits, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(after["cls"].logits, before["cls"].logits, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(after["emb"].image, before["emb"].image, rtol=1e-3, atol=1e-4)


def test_a_trunk_from_elsewhere_keeps_its_activations() -> None:
    """timm's batch norms of EfficientNet bring their activation with them."""
    part = PartConfig(name="timm", options={"model": "mobilenetv3_small_050"})
    plain, grouped = built(backbone=part), built(NormConfig(kind="group"), backbone=part)
    timms = {name: type(m.act) for name, m in plain.named_modules() if type(m).__name__ == "BatchNormAct2d"}
    assert nn.Identity in timms.values() and len(set(timms.values())) > 1
    ours = {name: type(m.act) for name, m in grouped.named_modules() if isinstance(m, GroupNorm)}
    assert {name: ours[name] for name in timms} == timms
    assert set(grouped.state_dict()) < set(plain.state_dict())


def told(network: UnifiedNetwork) -> UnifiedNetwork:
    """A network whose norms have seen something."""
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(4, 3, 64, 64))
    return network


def statistics(module: nn.Module) -> list[torch.Tensor]:
    return [b.clone() for name, b in module.named_buffers() if "running" in name or "tracked" in name]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("how", "affine"), [("frozen", False), ("frozen-statistics", True)])
def test_frozen_norms_stand_still(how: str, affine: bool) -> None:
    network = told(built())
    names = list(network.state_dict())
    settle_norms(network, how)  # type: ignore[arg-type]
    assert list(network.state_dict()) == names
    network.eval().train()  # as around an evaluation
    twin = copy.deepcopy(network).train()
    before = statistics(network.backbone), statistics(network.neck)
    for each in (network, twin):
        each(torch.rand(4, 3, 64, 64))
    assert same(before[0], statistics(network.backbone))
    assert same(before[0], statistics(twin.backbone))
    assert not same(before[1], statistics(network.neck))
    norms = [m for m in network.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {p.requires_grad for m in norms for p in m.parameters()} == {affine}
    assert {p.requires_grad for p in network.neck.parameters()} == {True}
    whole = told(built())
    settle_norms(whole, how, "network")  # type: ignore[arg-type]
    before_all = statistics(whole)
    whole(torch.rand(4, 3, 64, 64))
    assert same(before_all, statistics(whole))


def test_norms_that_know_nothing_are_not_frozen() -> None:
    with pytest.raises(ConfigError, match=r"train.batch_norm frozen: 0 of the \d+ batch norms of the backbone know"):
        settle_norms(built(), "frozen")
    settle_norms(built(), "frozen", fresh=False)  # a resumed run's statistics come with its checkpoint
    settle_norms(built(NormConfig(kind="group")), "own")


def test_alone_a_synced_norm_is_a_batch_norm() -> None:
    plain, synced = built(), built()
    settle_norms(synced, "sync")
    assert [m for m in synced.modules() if isinstance(m, SyncedNorm)]
    assert list(synced.state_dict()) == list(plain.state_dict())
    images = torch.rand(4, 3, 64, 64)
    for network in (plain, synced):
        network.train()
    assert torch.equal(plain(images)["cls"].logits, synced(images)["cls"].logits)
    assert same(statistics(plain), statistics(synced))


def rank(index: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=index, world_size=2)
    norm, images = synced_norm(), shared_images()
    x = images[2 * index : 2 * index + 2].clone().requires_grad_()
    loss = target(norm(x))
    loss.backward()
    gradients = [p.grad for p in norm.parameters()]
    for gradient in gradients:
        distributed.all_reduce(gradient)
    torch.save([x.grad, *gradients, norm.running_mean, norm.running_var], f"{out}/rank{index}.pt")
    distributed.destroy_process_group()


def synced_norm() -> SyncedNorm:
    torch.manual_seed(3)
    norm = nn.BatchNorm2d(5, eps=1e-3, momentum=0.1)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return SyncedNorm(norm)


def shared_images() -> torch.Tensor:
    return torch.randn(4, 5, 6, 7, generator=torch.Generator().manual_seed(4)) * 3 + 1


def target(y: torch.Tensor) -> torch.Tensor:
    return (F.silu(y) ** 3).sum()


def test_two_ranks_normalise_as_one(tmp_path: Path) -> None:
    """Outputs, gradients and running statistics of two halves of a batch are those of the whole batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(rank, (port, str(tmp_path)), nprocs=2)
    x = shared_images().requires_grad_()
    norm = nn.BatchNorm2d(5, eps=1e-3, momentum=0.1)
    norm.load_state_dict(synced_norm().state_dict())
    target(norm(x)).backward()
    found = [torch.load(tmp_path / f"rank{k}.pt", weights_only=True) for k in (0, 1)]
    torch.testing.assert_close(torch.cat([found[0][0], found[1][0]]), x.grad, rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(
        found[0][1:], [norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var], strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert same(found[0][1:], found[1][1:])
    halves = nn.BatchNorm2d(5)
    assert not torch.allclose(halves(shared_images()[:2]), halves(shared_images())[:2], atol=1e-3)
