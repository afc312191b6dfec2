# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from small_network import HEADS, SPEC, TinyTrunk, built, difference, rule, shaken
from torch import Tensor, nn

import unified
from unified.contracts.config import LatentConfig
from unified.contracts.protocols import Neighbours, Operator, PixelMap, Port, operators
from unified.model.build import create_model
from unified.model.latents.absorption import absorb_behind, absorb_in_front, why_not_behind, why_not_in_front
from unified.model.latents.bank import LatentBank
from unified.model.latents.constant import Constant
from unified.model.latents.fold import Folded, fold, verdicts
from unified.model.latents.operators import Add
from unified.model.latents.vector import VectorLatent
from unified.model.necks.identity import IdentityNeck
from unified.model.network import UnifiedNetwork

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def bending() -> Iterator[None]:
    """An operator that is no affine map, as a stranger may register it."""

    @operators.register("bend")
    class Bend(Add):
        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            return super().forward(x, z).tanh() + x

        def affine(self, z: Tensor) -> None:  # type: ignore[override]
            return None

    yield
    del operators._local["bend"]


@torch.no_grad()
def test_by_hand() -> None:
    """W = [[1, 2], [3, 4]], b = [5, 6]; in front x * [2, 3] + [1, -1], behind y * [10, 100] + [0.5, 0]."""
    conv = nn.Conv2d(2, 2, 1)
    conv.weight.copy_(torch.tensor([[1.0, 2], [3, 4]])[..., None, None])
    conv.bias.copy_(torch.tensor([5.0, 6]))  # type: ignore[union-attr]
    absorb_in_front(Port(conv), PixelMap(torch.tensor([2.0, 3]), torch.tensor([1.0, -1])))
    assert conv.weight.flatten().tolist() == [2, 6, 6, 12]
    assert conv.bias.tolist() == [4, 5]  # type: ignore[union-attr]  # 5 + 1 - 2, 6 + 3 - 4
    absorb_behind(Port(conv), PixelMap(torch.tensor([10.0, 100]), torch.tensor([0.5, 0])))
    assert conv.weight.flatten().tolist() == [20, 60, 600, 1200]
    assert conv.bias.tolist() == [40.5, 500]  # type: ignore[union-attr]


def change(kind: str, channels: int) -> PixelMap:
    matrix = {"shift": None, "scale": torch.randn(channels), "full": torch.randn(channels, channels)}
    return PixelMap(matrix.get(kind, torch.randn(channels)), None if kind == "scale" else torch.randn(channels))


LAYERS = {
    "1x1": lambda: nn.Conv2d(4, 6, 1),
    "1x1 without bias": lambda: nn.Conv2d(4, 6, 1, bias=False),
    "1x1 strided": lambda: nn.Conv2d(4, 6, 1, stride=2),
    "1x1 grouped": lambda: nn.Conv2d(4, 6, 1, groups=2),
    "3x3": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "3x3 unpadded": lambda: nn.Conv2d(4, 6, 3),
    "3x3 same": lambda: nn.Conv2d(4, 6, 3, padding="same"),
    "3x3 mirrored": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "3x3 depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
    "linear": lambda: nn.Linear(4, 6),
    "linear without bias": lambda: nn.Linear(4, 6, bias=False),
}
WHOLE = ("shift", "scale", "both", "full")
INEXACT = {
    *((name, kind) for name in ("3x3", "3x3 same", "3x3 depthwise") for kind in ("shift", "both", "full")),
    ("1x1 grouped", "full"),
}


@torch.no_grad()
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_takes_a_map_in_front_of_it_or_says_why_not(name: str, kind: str, normed: bool) -> None:
    layer, moved = LAYERS[name](), change(kind, 4)
    norm = nn.BatchNorm2d(layer.weight.shape[0]).eval() if normed and name[0] != "l" else None
    if norm is not None:
        nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
    port = Port(layer, norm)
    x = torch.randn(3, 4) if name.startswith("linear") else torch.randn(3, 4, 6, 5)
    after = norm or nn.Identity()
    expected = after(layer(Constant(moved)(x)))
    assert (why_not_in_front(port, moved) is not None) == ((name, kind) in INEXACT)
    if layer.__dict__.get("groups", 1) > 1 and kind == "full":
        return
    absorb_in_front(port, moved)
    error = (after(layer(x)) - expected).abs()
    if (name, kind) in INEXACT:
        assert error.max() > 1e-2  # the guard is needed: at the border the fold is wrong
        assert error[..., 1:-1, 1:-1].max() < 1e-4
    else:
        assert error.max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_takes_a_map_behind_it(name: str, kind: str) -> None:
    layer = LAYERS[name]()
    moved = change(kind, layer.weight.shape[0])
    x = torch.randn(3, 4) if name.startswith("linear") else torch.randn(3, 4, 6, 5)
    expected = Constant(moved)(layer(x))
    grouped = kind == "full" and ("grouped" in name or "depthwise" in name)
    assert (why_not_behind(Port(layer), moved) is not None) == grouped
    absorb_behind(Port(layer), moved)
    assert torch.allclose(layer(x), expected, atol=1e-4) != grouped


@torch.no_grad()
def test_a_norm_behind_a_layer_takes_channelwise_maps_only() -> None:
    conv, norm, moved = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6).eval(), change("both", 6)
    nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
    x = torch.randn(2, 4, 5, 5)
    expected = Constant(moved)(norm(conv(x)))
    assert why_not_behind(Port(conv, norm), change("full", 6)) is not None
    assert why_not_behind(Port(conv, nn.Identity()), change("full", 6)) is None
    absorb_behind(Port(conv, norm), moved)
    assert torch.allclose(norm(conv(x)), expected, atol=1e-5)


def test_layers_with_ways_of_their_own_are_left_alone() -> None:
    class Halving(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.tanh())

    for layer in (
        Halving(4, 6, 1),
        nn.ConvTranspose2d(4, 6, 1),
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)),
    ):
        assert why_not_in_front(Port(layer), change("scale", 4))
        assert why_not_behind(Port(layer), change("scale", 6))


def reasons(folded: Folded) -> dict[tuple[str, str], str]:
    return {(kept.site, kept.operator): kept.reason for kept in folded.kept}


@pytest.mark.parametrize("operator", ["add", "affine", "concat"])
def test_a_shift_in_front_of_a_padded_convolution_is_kept_and_named(operator: str) -> None:
    network = shaken(built({"det": "detect_anchor"}, rule("align.*", operator)))
    folded = fold(network)
    assert [(k.task, k.site, k.latent, k.operator) for k in folded.kept] == [("det", "align.p3", "vector", operator)]
    assert "zero-padded 3x3" in folded.kept[0].reason
    assert difference(network, folded.network, IMAGES) <= 1e-5


@pytest.mark.parametrize("operator", ["add", "affine", "concat"])
def test_forced_there_it_would_be_wrong_at_the_border(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unified.model.latents.fold.why_not_in_front", lambda port, change: None)
    network = shaken(built({"det": "detect_anchor"}, rule("align.*", operator)))
    folded = fold(network)
    assert folded.kept == ()
    with torch.inference_mode():
        error = network(IMAGES)["det"].maps[0] - folded.network(IMAGES)["det"].maps[0]
    assert error.abs().max() > 1e-2
    assert error[:, :, 1:-1, 1:-1].abs().max() < 1e-4


@pytest.mark.parametrize("head", HEADS)
def test_several_latents_around_one_convolution_fold_together(head: str) -> None:
    rules = [rule("pre.*", "concat", "neural"), rule("pre.*", "add"), rule("pre.*", "mul", "factorized")]
    rules += [rule("align.*", "mul"), rule("align.*", "select")]
    rules += [rule("post.*", "mul"), rule("post.*", "affine"), rule("post.*", "concat")]
    network = shaken(built({"t": head}, *rules))
    folded = fold(network)
    assert difference(network, folded.network, IMAGES) <= 1e-5
    expected = {"post.tags"} if head.startswith("multilabel") else set()
    assert {kept.site for kept in folded.kept} == expected


@pytest.mark.parametrize(
    ("operators_there", "kept"),
    [(("add", "mul"), ("add",)), (("mul", "add"), ("mul", "add")), (("mul", "add", "select"), ("mul", "add"))],
)
def test_of_a_row_what_stands_next_to_the_convolution_folds(
    operators_there: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    network = shaken(built({"det": "detect_anchor"}, *(rule("align.*", name) for name in operators_there)))
    folded = fold(network)
    assert tuple(k.operator for k in folded.kept) == kept
    assert difference(network, folded.network, IMAGES) <= 1e-5
    if kept[0] == "mul":
        assert folded.kept[0].reason.startswith("a latent behind it is kept: a shift")


def test_where_only_a_bias_is_near_a_shift_folds() -> None:
    folded = fold(shaken(built({"cls": "multilabel"}, rule("post.*", "add"), rule("post.*", "mul"), rule("post.*"))))
    assert [kept.operator for kept in folded.kept] == ["mul", "add"]
    assert "no convolution" in folded.kept[0].reason


def test_an_operator_that_is_no_affine_map_keeps_its_form(bending: None) -> None:
    rules = [rule("pre.*", "mul"), rule("pre.*", "bend", "factorized"), rule("pre.*", "add"), rule("align.*", "mul")]
    network = shaken(built({"det": "detect_anchor flat"}, *rules))
    folded = fold(network)
    found = reasons(folded)
    assert set(found) == {("pre.p3", "mul"), ("pre.p3", "bend"), ("align.p3", "mul")}
    assert "no affine map" in found["pre.p3", "bend"]
    assert found["align.p3", "mul"] == "a latent at pre.p3, in front of the convolution, is kept"
    assert difference(network, folded.network, IMAGES) <= 1e-5
    assert [*folded.network.bank.parameters()] == []


def test_a_trunk_site_becomes_a_constant() -> None:
    network = shaken(built({"det": "detect_free", "cls": "multilabel"}, rule("trunk.*", "mul", tasks=("cls",))))
    folded = fold(network)
    assert reasons(folded) == {("trunk.s8", "mul"): "it stands inside the trunk, which other tasks share"}
    assert difference(network, folded.network, IMAGES) == 0
    assert folded.network.trunk_passes() == 2


def test_a_head_that_names_no_neighbours_keeps_constants() -> None:
    class Silent(type(HEADS["detect_free"]())):  # type: ignore[misc]
        def neighbours(self, site: str) -> Neighbours:
            return Neighbours()

    head = HEADS["detect_free"]()
    head.__class__ = Silent
    bank = LatentBank()
    bank.place("det", "pre.p3.box", VectorLatent(8, 0.0, std=1.0), Add(8))
    network = UnifiedNetwork(TinyTrunk(), IdentityNeck(SPEC), bank, {"det": head}).eval()
    folded = fold(network)
    assert folded.kept[0].reason == "no convolution stands directly beside the site"
    assert folded.kept[0].latent == "VectorLatent"
    assert difference(network, folded.network, IMAGES) == 0


def test_the_network_itself_stays_as_it_was() -> None:
    network = shaken(built({"det": "detect_anchor", "emb": "embed"}, rule("*", "affine"))).train()
    before = copy.deepcopy(network.state_dict())
    folded = fold(network)
    assert network.training
    assert not folded.network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(p.requires_grad for p in folded.network.parameters())
    assert all(p.requires_grad for p in network.parameters())


def test_verdicts_say_beforehand_what_fold_does() -> None:
    rules = [rule("align.*", "affine"), rule("pre.*", "add"), rule("post.*", "mul"), rule("trunk.*", "mul")]
    network = built({"det": "detect_anchor", "cls": "multilabel"}, *rules)
    said = [(v.entry.task, v.entry.site, *v.entry.words, v.reason) for v in verdicts(network) if v.reason]
    kept = [(k.task, k.site, k.latent, k.operator, k.reason) for k in fold(network).kept]
    assert sorted(said) == sorted(kept)
    assert len(verdicts(network)) == len(list(network.bank.entries())) > len(kept) > 0


def test_every_anchor_may_read_the_features_in_its_own_way() -> None:
    """YOLOR's starred multiply: a z for each anchor in front of its part of the last convolution."""
    network = built({"det": "detect_anchor clusters"}, rule("pre.*", "mul"))
    plain = built({"det": "detect_anchor"})
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("bank.")})
    assert difference(plain, built_with(plain, "detect_anchor clusters"), IMAGES) == 0
    first, second = (entry.latent for entry in network.bank.entries())
    nn.init.ones_(first.z)
    nn.init.constant_(second.z, 2.0)
    with torch.inference_mode():
        got, expected = network(IMAGES)["det"].maps[0], plain(IMAGES)["det"].maps[0]
    bias = plain.heads["det"].out[0].bias.view(2, 7)  # type: ignore[union-attr,operator,index]
    assert torch.allclose(got[:, 0], expected[:, 0], atol=1e-5)
    assert torch.allclose(got[:, 1], 2 * expected[:, 1] - bias[1], atol=1e-5)


def built_with(other: UnifiedNetwork, head: str) -> UnifiedNetwork:
    network = built({"det": head})
    network.load_state_dict(other.state_dict())
    return network


def test_only_the_channels_of_a_role_are_touched() -> None:
    network = built({"det": "detect_anchor"}, rule("post.*", "mul", only=("w", "h")))
    plain = built_with_weights_of(network)
    entry = next(network.bank.entries())
    assert entry.words == ("vector", "mul[w,h]")
    assert entry.latent().shape == (4,)  # 2 anchors, w and h
    nn.init.constant_(entry.latent.z, 3.0)
    with torch.inference_mode():
        got, expected = network(IMAGES)["det"].maps[0], plain(IMAGES)["det"].maps[0]
    scale = torch.tensor([1.0, 1, 3, 3, 1, 1, 1])
    assert torch.allclose(got, expected * scale, atol=1e-5)
    for name in ("mul", "affine", "concat", "select"):
        chosen = shaken(built({"det": "detect_anchor"}, rule("post.*", name, "neural", only=("x", "cls"))))
        assert fold(chosen).kept == ()
        assert difference(chosen, fold(chosen).network, IMAGES) <= 1e-5


def built_with_weights_of(network: UnifiedNetwork) -> UnifiedNetwork:
    plain = built({"det": "detect_anchor"})
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("bank.")})
    return plain


@pytest.mark.parametrize("latents", [None, "multi-task", "feature-selection", "manifold-reduction"])
def test_the_shipped_blocks_fold_whole(latents: str | None) -> None:
    network = shaken(create_model("unified-n", latents=latents).eval())
    folded = unified.fold(network)
    assert folded.kept == ()
    assert difference(network, folded.network, IMAGES) <= 1e-5


def test_an_operator_may_leave_its_affine_form_out() -> None:
    class Bare(Operator):
        width = 3

        def identity(self) -> Tensor:
            return torch.zeros(3)

        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            return x

    assert Bare().affine(torch.zeros(3)) is None
    assert LatentConfig(site="a").only == ()
