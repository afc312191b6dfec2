# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import unified  # noqa: F401
from unified.contracts.errors import ConfigError
from unified.model.layers.attention import NonLocal, SelectiveKernel
from unified.model.layers.position import TEMPERATURE, cells_xy, sine, sine_boxes, sine_xy
from unified.model.layers.transformer import CrossAttention, DecoderLayer, EncoderLayer, SelfAttention

BLOCKS = {"non-local": lambda c: NonLocal(c), "pooled": lambda c: NonLocal(c, pool=2), "kernel": SelectiveKernel}


def awake(block: NonLocal) -> NonLocal:
    """The block after some learning: its last norm is no longer zero."""
    nn.init.ones_(block.out.norm.weight)
    return block.eval()


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("channels", [1, 6, 64])
def test_shapes_stay(kind: str, channels: int) -> None:
    x = torch.randn(1, channels, 7, 5)
    assert BLOCKS[kind](channels)(x).shape == x.shape  # one image in training, too


@pytest.mark.parametrize("pool", [1, 2])
def test_a_non_local_block_starts_as_the_identity_and_can_learn(pool: int) -> None:
    block, x = NonLocal(8, pool), torch.randn(2, 8, 6, 6)
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    assert block.out.norm.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_non_local_is_the_embedded_gaussian() -> None:
    """Wang et al. 2018, eq. 4 and 6, cell by cell."""
    block, x = awake(NonLocal(6)), torch.randn(2, 6, 3, 4)
    theta, phi, g = (layer(x).flatten(2) for layer in (block.query, block.key, block.value))
    expected = torch.zeros(2, 3, 12)
    for image in range(2):
        for i in range(12):
            likeness = torch.tensor([math.exp(float(theta[image, :, i] @ phi[image, :, j])) for j in range(12)])
            expected[image, :, i] = (g[image] * likeness).sum(1) / likeness.sum()
    assert torch.allclose(block(x), x + block.out(expected.view(2, 3, 3, 4)), atol=1e-5)


@torch.no_grad()
def test_non_local_sees_the_far_corner() -> None:
    block, x = awake(NonLocal(8)), torch.randn(1, 8, 16, 16)
    moved = x.clone()
    moved[..., -1, -1] += 5
    assert not torch.equal(block(x)[..., 0, 0], block(moved)[..., 0, 0])


@torch.no_grad()
def test_pooling_of_equal_cells_changes_nothing() -> None:
    block = awake(NonLocal(8))
    x = torch.randn(1, 8, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    plain = block(x)
    block.pool = 2
    assert torch.allclose(block(x), plain, atol=1e-5)


@torch.no_grad()
def test_shares_of_kernels_add_up_to_one_and_depend_on_the_image() -> None:
    block = SelectiveKernel(16).eval()
    x = torch.randn(3, 16, 5, 5)
    shares = block.shares(block.small(x) + block.large(x))
    assert shares.shape == (3, 2, 16, 1, 1)
    assert torch.allclose(shares.sum(1), torch.ones(3, 16, 1, 1))
    assert (shares[0] - shares[1]).abs().max() > 1e-3
    nn.init.zeros_(block.choose.weight)
    assert torch.allclose(block(x), (block.small(x) + block.large(x)) / 2, atol=1e-6)


@torch.no_grad()
def test_the_large_kernel_sees_five_cells() -> None:
    block = SelectiveKernel(4).eval()
    x = torch.zeros(1, 4, 9, 9)
    moved = x.clone()
    moved[..., 4, 4] = 1.0
    reach = {
        name: (getattr(block, name)(moved) - getattr(block, name)(x))[0].abs().sum(0) > 0 for name in ("small", "large")
    }
    assert reach["small"].nonzero().aminmax(dim=0).min.tolist() == [3, 3]
    assert reach["large"].nonzero().aminmax(dim=0).min.tolist() == [2, 2]


def test_sine_by_hand() -> None:
    got = sine(torch.tensor([0.25]), 4)[0]
    slow = 2 * math.pi * 0.25 / math.sqrt(TEMPERATURE)
    assert torch.allclose(got, torch.tensor([1.0, math.sin(slow), 0.0, math.cos(slow)]), atol=1e-6)


def test_places_are_told_apart_and_near_ones_are_alike() -> None:
    points = cells_xy(8, 8)
    assert points[:2].tolist() == [[0.0625, 0.0625], [0.1875, 0.0625]]
    codes = sine_xy(points, 64)
    likeness = codes @ codes.T
    assert torch.equal(likeness.argmax(1), torch.arange(64))
    assert likeness[0, 1] > likeness[0, 7]
    boxes = torch.cat([points, torch.full_like(points, 0.3)], -1)
    assert torch.equal(sine_boxes(boxes, 64)[:, :64], codes)
    assert sine_boxes(boxes, 64).shape == (64, 128)


@torch.no_grad()
def test_self_attention_is_torchs() -> None:
    mine, theirs = SelfAttention(16, 4).eval(), nn.MultiheadAttention(16, 4, batch_first=True).eval()
    theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in (mine.query, mine.key, mine.value)]))
    theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in (mine.query, mine.key, mine.value)]))
    theirs.out_proj.load_state_dict(mine.out.state_dict())
    x, place = torch.randn(2, 5, 16), torch.randn(5, 16)
    assert torch.allclose(mine(x, place), theirs(x + place, x + place, x, need_weights=False)[0], atol=1e-5)


@torch.no_grad()
def test_cross_attention_adds_likeness_of_content_and_of_place() -> None:
    block = CrossAttention(8, 2).eval()
    x, x_place, memory, memory_place = (torch.randn(*shape) for shape in ((1, 3, 8), (1, 3, 8), (1, 5, 8), (5, 8)))

    def heads(y: Tensor) -> Tensor:
        return y.view(-1, 2, 4).transpose(0, 1)

    content = heads(block.query(x)[0]) @ heads(block.key(memory)[0]).mT
    place = heads(block.query_place(x_place)[0]) @ heads(block.key_place(memory_place)).mT
    weights = ((content + place) / math.sqrt(8)).softmax(-1)
    mixed = (weights @ heads(block.value(memory)[0])).transpose(0, 1).reshape(1, 3, 8)
    assert torch.allclose(block(x, x_place, memory, memory_place), block.out(mixed), atol=1e-5)


@torch.no_grad()
def test_layers_do_not_care_for_the_order_of_queries_or_cells() -> None:
    encoder, decoder = EncoderLayer(16, 2, 32).eval(), DecoderLayer(16, 2, 32).eval()
    cells, places, x, at = torch.randn(2, 6, 16), torch.randn(6, 16), torch.randn(2, 4, 16), torch.randn(2, 4, 16)
    turn, swap = torch.randperm(6), torch.randperm(4)
    assert torch.allclose(encoder(cells[:, turn], places[turn]), encoder(cells, places)[:, turn], atol=1e-5)
    plain = decoder(x, at, at, cells, places)
    turned = decoder(x[:, swap], at[:, swap], at[:, swap], cells[:, turn], places[turn])
    assert torch.allclose(turned, plain[:, swap], atol=1e-5)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="width 10 is no multiple of its 4 heads"):
        SelfAttention(10, 4)
