# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import unified  # noqa: F401
from unified.model.layers.conv import Conv
from unified.model.layers.csp import Bottleneck, CSPBlock, NeckCSPBlock
from unified.model.layers.down import DownC
from unified.model.layers.reorg import Haar, ReOrg
from unified.model.layers.spp import SPPCSP, PoolPyramid


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def shaken(module: nn.Module) -> nn.Module:
    """In evaluation, with statistics and constants that matter."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 1.5)
    return module.eval()


def test_reorg_sorts_pixels_in_the_published_order() -> None:
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    x = (10 * rows + columns).expand(1, 3, 4, 6) + torch.tensor([0.0, 100, 200]).view(1, 3, 1, 1)
    y = ReOrg()(x)
    assert y.shape == (1, 12, 2, 3)
    # The pixel at row 2, column 4 begins the square of cell (1, 2): even-even, odd-even, even-odd, odd-odd.
    assert y[0, :, 1, 2].tolist() == [24, 124, 224, 34, 134, 234, 25, 125, 225, 35, 135, 235]


def test_reorg_loses_nothing() -> None:
    x = torch.rand(2, 3, 8, 10)
    assert torch.equal(ReOrg()(x).flatten().sort().values, x.flatten().sort().values)


def test_wavelets_keep_the_energy_and_the_range() -> None:
    x = torch.rand(2, 3, 8, 10, dtype=torch.float64)
    y = Haar()(x)
    assert y.shape == (2, 12, 4, 5)
    assert y.min() >= 0 and y.max() <= 1
    bands = torch.cat([2 * y[:, :3], 2 * (y[:, 3:] - 0.5)], dim=1)  # the orthonormal transform behind it
    assert bands.square().sum().item() == pytest.approx(x.square().sum().item(), rel=1e-12)


def test_wavelets_by_hand() -> None:
    y = Haar()(torch.tensor([[1.0, 0.5], [0.25, 0.0]]).view(1, 1, 2, 2))
    assert y.flatten().tolist() == [0.4375, 0.8125, 0.6875, 0.5625]
    assert Haar()(torch.full((1, 1, 2, 2), 0.3)).flatten().tolist() == pytest.approx([0.3, 0.5, 0.5, 0.5])


@torch.inference_mode()
def test_pools_stand_in_the_published_order() -> None:
    x = torch.randn(2, 4, 17, 20)
    pools = [nn.MaxPool2d(k, stride=1, padding=k // 2)(x) for k in (13, 9, 5)]
    assert torch.equal(PoolPyramid()(x), torch.cat([*pools, x], dim=1))


@torch.inference_mode()
def test_downc_is_half_convolution_and_half_pool() -> None:
    down = shaken(DownC(6, 10))
    x = torch.randn(2, 6, 8, 12)
    y = down(x)
    assert y.shape == (2, 10, 4, 6)
    assert count(down) == 6 * 6 + 12 + 6 * 5 * 9 + 10 + 6 * 5 + 10
    assert torch.equal(y[:, 5:], down.side[1](nn.functional.max_pool2d(x, 2)))
    assert torch.equal(y[:, :5], down.main(x))


BLOCKS = {
    "csp": lambda joint: CSPBlock(8, 16, 2, joint_norm=joint),
    "csp with transition": lambda joint: CSPBlock(8, 16, 2, transition=True, joint_norm=joint),
    "neck": lambda joint: NeckCSPBlock(8, 16, 2, joint_norm=joint),
    "spp": lambda joint: SPPCSP(8, 16, joint_norm=joint),
}


@torch.inference_mode()
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_keep_the_size(name: str, joint: bool) -> None:
    assert shaken(BLOCKS[name](joint))(torch.randn(2, 8, 5, 7)).shape == (2, 16, 5, 7)


@pytest.mark.parametrize(("name", "more"), [("csp", 16), ("csp with transition", 0), ("neck", 32), ("spp", 32)])
def test_a_joint_norm_costs_what_the_main_branch_lacked(name: str, more: int) -> None:
    """A norm over both branches has two parameters for each channel of the main one more than a norm of the side."""
    assert count(BLOCKS[name](True)) - count(BLOCKS[name](False)) == more


@torch.inference_mode()
def test_with_a_transition_both_places_of_the_norm_are_one_function() -> None:
    apart, joint = shaken(BLOCKS["csp with transition"](False)), shaken(BLOCKS["csp with transition"](True))
    assert isinstance(joint.side, nn.Conv2d) and isinstance(joint.main[-1], nn.Conv2d)
    for i in range(3):
        joint.main[i].load_state_dict(apart.main[i].state_dict())
    joint.fuse.load_state_dict(apart.fuse.state_dict())
    joint.side.load_state_dict(apart.side.conv.state_dict())
    joint.main[-1].load_state_dict(apart.main[-1].conv.state_dict())
    ends = (apart.main[-1].norm, apart.side.norm)
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(joint.join.norm, name).copy_(torch.cat([getattr(end, name) for end in ends]))
    x = torch.randn(2, 8, 5, 7)
    assert torch.allclose(apart(x), joint(x), atol=1e-5)


@torch.inference_mode()
def test_without_a_transition_they_are_two() -> None:
    """The joint norm meets the bottlenecks' output a second time: no weights of one variant make the other."""
    block = shaken(BLOCKS["csp"](True))
    x = torch.randn(2, 8, 5, 7)
    joined: list[Tensor] = []
    block.fuse.register_forward_pre_hook(lambda _, args: joined.append(args[0]))
    block(x)
    assert not torch.allclose(joined[0][:, :8], block.main(x), atol=1e-2)


@torch.inference_mode()
def test_a_bottleneck_adds_its_input_only_when_told() -> None:
    with_residual, without = Bottleneck(8), Bottleneck(8, residual=False)
    without.load_state_dict(with_residual.state_dict())
    x = torch.randn(1, 8, 5, 5)
    with_residual.eval(), without.eval()
    assert torch.allclose(with_residual(x), without(x) + x, atol=1e-6)
    narrow = Bottleneck(8, hidden=4)
    assert narrow.reduce.conv.weight.shape == (4, 8, 1, 1) and narrow.conv.conv.weight.shape == (8, 4, 3, 3)


@torch.inference_mode()
def test_the_neck_block_splits_behind_its_entry() -> None:
    block = shaken(NeckCSPBlock(8, 6, 1))
    x = torch.randn(1, 8, 4, 4)
    inside = block.entry(x)
    expected = block.fuse(torch.cat([block.main(inside), block.side(inside)], dim=1))
    assert torch.equal(block(x), expected)
    assert not any(part.residual for part in block.main)


def test_a_convolution_counts_what_it_holds() -> None:
    conv = Conv(3, 8, 3, stride=2)
    assert count(conv) == 3 * 8 * 9 + 16
    assert conv(torch.zeros(1, 3, 7, 9)).shape == (1, 8, math.ceil(7 / 2), math.ceil(9 / 2))
