# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from unified.heads.embed import EmbedHead

from unified.contracts.structures import EmbeddingOutput, Features, FeatureSpec

SPEC = FeatureSpec(("p3", "p4", "p5"), (48, 96, 160), (8, 16, 32))


def plain(site: str, x: Tensor) -> Tensor:
    return x


def features(batch: int = 2, height: int = 160, width: int = 160, spec: FeatureSpec = SPEC) -> Features:
    maps = tuple(
        torch.randn(batch, c, -(-height // s), -(-width // s)) for c, s in zip(spec.channels, spec.strides, strict=True)
    )
    return Features(maps, spec.levels, spec.strides)


def test_shapes_strides_and_unit_length() -> None:
    output = EmbedHead(SPEC, 24)(features(3, 160, 96), plain)
    assert output.image.shape == (3, 24)
    assert output.map.shape == (3, 24, 20, 12)
    assert output.stride == 8
    assert torch.allclose(output.image.norm(dim=1), torch.ones(3))


def test_levels_in_any_order_and_of_any_size_are_fused_on_the_finest() -> None:
    spec = FeatureSpec(("p5", "p3"), (10, 6), (32, 8))
    output = EmbedHead(spec, 8, width=16)(features(1, 200, 136, spec), plain)  # 7x5 cells under 25x17
    assert output.map.shape == (1, 8, 25, 17)
    assert output.stride == 8


def grown(head: EmbedHead) -> EmbedHead:
    """The head as if it had learned for a while: its coarser levels take part."""
    for conv in head.reduce:
        nn.init.uniform_(conv.norm.weight, 0.5, 1.0)
    return head


def test_coarser_levels_start_silent_but_learn_to_speak() -> None:
    head = EmbedHead(SPEC, 8)
    x = features()
    fine = x.with_maps((x.maps[0], *(torch.zeros_like(m) for m in x.maps[1:])))
    assert torch.equal(head(x, plain).map, head(fine, plain).map)
    head(x, plain).map[:, 0].sum().backward()
    assert all(conv.norm.weight.grad.any() for conv in head.reduce)


@pytest.mark.parametrize("answer", ["map", "image"])
def test_every_level_reaches_both_answers(answer: str) -> None:
    x = features()
    maps = tuple(m.requires_grad_() for m in x.maps)
    getattr(grown(EmbedHead(SPEC, 8))(x.with_maps(maps), plain), answer)[:, 0].sum().backward()
    assert all(m.grad is not None and m.grad.any() for m in maps)


def test_every_parameter_learns() -> None:
    head = grown(EmbedHead(SPEC, 8))
    output = head(features(), plain)
    vectors = output.box_vectors([torch.tensor([[8.0, 8.0, 60.0, 60.0]])] * 2)
    (torch.cat(vectors)[:, 0].sum() + output.image[:, 0].sum()).backward()
    idle = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_each_site_is_reached_once_with_its_channels() -> None:
    head = EmbedHead(SPEC, 24, width=40)
    seen: list[tuple[str, int]] = []

    def record(site: str, x: Tensor) -> Tensor:
        seen.append((site, x.shape[1]))
        return x

    head(features(), record)
    assert sorted(seen) == sorted(head.sites.items())
    assert all(site.startswith(("pre.", "post.")) for site in head.sites)


def test_map_sites_bend_the_map_and_image_sites_the_image() -> None:
    head = EmbedHead(SPEC, 24).eval()
    x = features()
    base = head(x, plain)
    for site in head.sites:
        changed = head(x, lambda s, y, site=site: y * y if s == site else y)
        assert torch.equal(changed.map, base.map) == site.endswith("image"), site
        assert torch.equal(changed.image, base.image) == site.endswith("map"), site


def test_answers_do_not_depend_on_the_rest_of_the_batch() -> None:
    head = EmbedHead(SPEC, 24).eval()
    x = features(4)
    order = torch.tensor([2, 0, 3, 1])
    a, b = head(x, plain), head(x.with_maps(tuple(m[order] for m in x.maps)), plain)
    assert torch.allclose(b.image, a.image[order], atol=1e-5)
    assert torch.allclose(b.map, a.map[order], atol=1e-5)


def test_bf16_autocast_keeps_unit_length_and_direction() -> None:
    head = EmbedHead(SPEC, 24).eval()
    x, boxes = features(), [torch.tensor([[8.0, 8.0, 60.0, 60.0]]), torch.zeros(0, 4)]
    exact = head(x, plain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = head(x, plain)
        read = rough.box_vectors(boxes)
    assert rough.image.dtype == read[0].dtype == torch.float32
    assert torch.allclose(rough.image.norm(dim=1), torch.ones(2), atol=1e-5)
    assert torch.allclose(read[0].norm(dim=1), torch.ones(1), atol=1e-5)
    assert ((rough.image * exact.image).sum(dim=1) > 0.99).all()
    assert (read[0] * exact.box_vectors(boxes)[0]).sum() > 0.99


def test_gradients_are_the_same_every_time() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        x, boxes = features(), [torch.rand(20, 2).repeat(1, 2) * 80 + torch.tensor([0.0, 0.0, 40.0, 60.0])] * 2
        head = EmbedHead(SPEC, 24)
        grads = []
        for _ in range(2):
            head.zero_grad()
            torch.cat(head(x, plain).box_vectors(boxes)).prod(dim=1).sum().backward()
            grads.append([p.grad.clone() for p in head.parameters() if p.grad is not None])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_cost_at_160_pixels() -> None:
    with FlopCounterMode(display=False) as counter:
        EmbedHead(SPEC, 128)(features(1), plain)
    assert counter.get_total_flops() / 2 < 21e6


# Reading boxes from a map.


def ramp(stride: int = 8, size: int = 12) -> EmbeddingOutput:
    """A map whose two channels are the pixel coordinates x and y of each cell's middle."""
    at = (torch.arange(size) + 0.5) * stride
    y, x = torch.meshgrid(at, at, indexing="ij")
    return EmbeddingOutput(image=torch.ones(1, 2), map=torch.stack([x, y])[None], stride=stride)


@pytest.mark.parametrize("grid", [1, 4, 5])
def test_a_box_on_a_ramp_reads_its_centre(grid: int) -> None:
    boxes = torch.tensor([[20.0, 30.0, 60.0, 34.0], [41.0, 9.0, 43.0, 77.0]])  # centres (40, 32) and (42, 43)
    (vectors,) = ramp().box_vectors([boxes], grid=grid)
    expected = torch.nn.functional.normalize(torch.tensor([[40.0, 32.0], [42.0, 43.0]]), dim=1)
    assert torch.allclose(vectors, expected, atol=1e-5)


def test_samples_stay_off_the_border_of_the_box() -> None:
    # One bright column of cells at the box's left edge (x from 16 to 24): the first sample lies at 10 % of the width.
    field = torch.zeros(1, 2, 12, 12)
    field[:, 0] = 1.0
    field[:, 1, :, 2] = 5.0
    output = EmbeddingOutput(image=torch.ones(1, 2), map=field, stride=8)
    (vectors,) = output.box_vectors([torch.tensor([[12.0, 0.0, 92.0, 96.0]])])
    # x samples 20, 36, 52, 68, 84: only the first meets the column, on its very middle: mean of 5, 0, 0, 0, 0 is 1.
    assert torch.allclose(vectors, torch.tensor([[1.0, 1.0]]) / 2**0.5)


def test_a_shifted_image_gives_the_shifted_box_the_same_vector() -> None:
    field = torch.randn(1, 6, 30, 30)
    field = torch.nn.functional.avg_pool2d(field, 5, 1, 2)
    box = torch.tensor([[70.0, 64.0, 110.0, 120.0]])
    whole = EmbeddingOutput(torch.ones(1, 6), field, 8)
    moved = EmbeddingOutput(torch.ones(1, 6), field.roll((3, 4), dims=(2, 3)), 8)
    (a,), (b,) = whole.box_vectors([box]), moved.box_vectors([box + torch.tensor([32.0, 24.0, 32.0, 24.0])])
    assert torch.allclose(a, b, atol=1e-5)
    (near,) = whole.box_vectors([box + 1.0])  # a pixel is an eighth of a cell: interpolation, not a jump
    (far,) = whole.box_vectors([box + torch.tensor([80.0, 0.0, 80.0, 0.0])])
    assert (a * near).sum() > 0.97 > (a * far).sum()


def test_boxes_are_read_from_their_own_image_in_any_order() -> None:
    field = torch.randn(3, 6, 12, 12)
    output = EmbeddingOutput(torch.ones(3, 6), field, 8)
    boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0], [30.0, 20.0, 90.0, 60.0]])
    first, none, last = output.box_vectors([boxes, boxes[:0], boxes.flip(0)])
    assert none.shape == (0, 6)
    assert not torch.allclose(first, last.flip(0), atol=0.1)  # other images, other vectors
    alone = EmbeddingOutput(torch.ones(1, 6), field[2:], 8).box_vectors([boxes])[0]
    assert torch.allclose(last.flip(0), alone)


def test_boxes_beyond_the_image_or_without_size_are_read_without_harm() -> None:
    output = EmbeddingOutput(torch.ones(1, 6), torch.randn(1, 6, 12, 12), 8)
    boxes = torch.tensor([[-500.0, -20.0, -400.0, 10.0], [50.0, 50.0, 50.0, 50.0], [0.0, 0.0, 1e5, 1e5]])
    (vectors,) = output.box_vectors([boxes])
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)


def test_gradients_of_reading_are_exact() -> None:
    field = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    boxes = [torch.tensor([[3.0, 5.0, 20.0, 30.0]])]

    def read(x: Tensor) -> Tensor:
        return EmbeddingOutput(torch.ones(1, 3), x, 8).box_vectors(boxes)[0][:, 0].sum()

    (grad,) = torch.autograd.grad(read(field), field)
    step = torch.zeros_like(field)
    step[0, 1, 2, 1] = 1e-2
    numeric = (read(field + step) - read(field - step)) / 2e-2
    assert grad[0, 1, 2, 1].item() == pytest.approx(numeric.item(), rel=1e-2)
    assert grad[0, 1, 2, 1] != 0


def test_no_boxes_at_all_still_touch_the_graph() -> None:
    field = torch.randn(2, 3, 4, 4, requires_grad=True)
    vectors = EmbeddingOutput(torch.ones(2, 3), field, 8).box_vectors([torch.zeros(0, 4)] * 2)
    torch.cat(vectors).sum().backward()
    assert field.grad is not None and not field.grad.any()
