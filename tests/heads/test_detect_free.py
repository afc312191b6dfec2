# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from unified.heads.detect_free import DetectFree, falling_logits, grid_points

from unified.contracts.errors import ConfigError
from unified.contracts.structures import Features, FeatureSpec, PointBoxOutput

CHANNELS = {3: (32, 48, 64), 4: (32, 48, 64, 80)}


def spec_of(levels: int) -> FeatureSpec:
    names, strides = ("p3", "p4", "p5", "p6")[:levels], (8, 16, 32, 64)[:levels]
    return FeatureSpec(names, CHANNELS[levels], strides)


def features_of(spec: FeatureSpec, size: tuple[int, int] = (64, 128), batch: int = 2) -> Features:
    maps = tuple(
        torch.randn(batch, c, size[0] // s, size[1] // s) for c, s in zip(spec.channels, spec.strides, strict=True)
    )
    return Features(maps, spec.levels, spec.strides)


def identity(_: str, x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize("levels", [3, 4])
def test_shapes(levels: int) -> None:
    spec = spec_of(levels)
    output = DetectFree(spec, 5)(features_of(spec), identity)
    points = sum(64 // s * 128 // s for s in spec.strides)
    assert output.side_logits.shape == (2, points, 64)
    assert output.class_logits.shape == (2, points, 5)
    assert output.points_xy.shape == (points, 2) and output.strides.shape == (points,)
    boxes, scores = output.decode()
    assert boxes.shape == (2, points, 4) and scores.shape == (2, points, 5)


@pytest.mark.parametrize("levels", [3, 4])
def test_every_site_is_reached_once_with_its_channels(levels: int) -> None:
    spec = spec_of(levels)
    head, seen = DetectFree(spec, 5, width=24), Counter()

    def watch(site: str, x: Tensor) -> Tensor:
        seen[site] += 1
        assert x.shape[1] == head.sites[site]
        return x

    head(features_of(spec), watch)
    assert seen == Counter(dict.fromkeys(head.sites, 1))
    assert head.sites["pre.p3.box"] == head.sites["pre.p3.cls"] == 24
    assert head.sites["post.p3.box"] == 64 and head.sites["post.p3.cls"] == 5


def test_the_output_hears_of_every_site() -> None:
    spec = spec_of(3)
    head, features = DetectFree(spec, 5).eval(), features_of(spec_of(3))
    plain = torch.cat([x.flatten() for x in head(features, identity).decode()])
    for site in head.sites:
        bent = head(features, lambda at, x, site=site: x * 1.5 if at == site else x)
        assert not torch.equal(torch.cat([x.flatten() for x in bent.decode()]), plain)


def test_post_sites_stand_behind_a_linear_convolution() -> None:
    """So that a latent there folds into it exactly."""
    spec = spec_of(3)
    head, features = DetectFree(spec, 5).eval(), features_of(spec_of(3))
    z = torch.randn(5)[:, None, None]
    bent = head(features, lambda at, x: x * z if at == "post.p4.cls" else x)
    with torch.no_grad():
        conv = head.cls[1].out
        conv.weight.mul_(z[..., None])
        conv.bias.mul_(z.flatten())
    assert torch.allclose(head(features, identity).class_logits, bent.class_logits, atol=1e-5)


def test_points_are_cell_centres_row_by_row() -> None:
    points = grid_points(torch.zeros(1, 1, 2, 3), 8)
    assert points.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]


def test_exact_distances_decode_the_box() -> None:
    points = grid_points(torch.zeros(1, 1, 4, 4), 16)
    box = torch.tensor([10.0, 20.0, 55.0, 60.0])
    sides = torch.cat([points - box[:2], box[2:] - points], 1) / 16  # (16, 4) strides
    inside = (sides > 0).all(1)
    low, share = sides.floor().long(), sides - sides.floor()
    weights = torch.zeros(16, 4, 8)
    weights.scatter_(-1, low.clamp(0, 7)[..., None], 1 - share[..., None])
    weights.scatter_add_(-1, (low + 1).clamp(0, 7)[..., None], share[..., None])
    output = PointBoxOutput(weights.log().flatten(1)[None], torch.zeros(1, 16, 1), points, torch.full((16,), 16.0), 8)
    assert inside.sum() >= 4
    assert torch.allclose(output.decode()[0][0, inside], box.expand(int(inside.sum()), 4), atol=1e-3)


def test_it_starts_with_rare_classes_and_moderate_boxes() -> None:
    spec = spec_of(3)
    head = DetectFree(spec, 5).eval()
    quiet = features_of(spec).with_maps(tuple(torch.zeros_like(x) for x in features_of(spec).maps))
    output = head(quiet, identity)
    assert output.decode()[1].max() < 0.011
    assert torch.allclose(output.distances(), torch.tensor(3.0), atol=0.2)


@pytest.mark.parametrize(("bins", "mean"), [(16, 3.0), (16, 7.0), (4, 0.75)])
def test_falling_logits_have_the_mean_asked_for(bins: int, mean: float) -> None:
    logits = falling_logits(bins, mean)
    assert float((logits.softmax(0) * torch.arange(bins)).sum()) == pytest.approx(mean, abs=1e-3)
    assert (logits.diff() < 0).all()


def test_autocast_and_channels_last_change_little() -> None:
    spec = spec_of(3)
    head, features = DetectFree(spec, 5).eval(), features_of(spec_of(3))
    plain = head(features, identity).decode()
    nhwc = features.with_maps(tuple(x.to(memory_format=torch.channels_last) for x in features.maps))
    turned = head.to(memory_format=torch.channels_last)(nhwc, identity).decode()
    with torch.autocast("cpu", torch.bfloat16):
        output = head(features, identity)
    assert output.class_logits.dtype == torch.bfloat16
    low = output.decode()
    assert low[0].dtype == low[1].dtype == torch.float32
    for a, b, c in zip(plain, turned, low, strict=True):
        assert torch.allclose(a, b, atol=1e-3)
        assert torch.allclose(a, c, atol=2.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(output.decode()[0], low[0])  # the decoding itself stays in full precision


class Plain(nn.Module):
    """Tensors in, tensors out, as an exporter needs it."""

    def __init__(self, head: nn.Module, spec: FeatureSpec) -> None:
        super().__init__()
        self.head, self.spec = head, spec

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(Features(maps, self.spec.levels, self.spec.strides), identity).decode()


def test_it_exports_for_any_batch() -> None:
    spec = spec_of(3)
    module = Plain(DetectFree(spec, 5).eval(), spec)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        module, features_of(spec).maps, dynamic_shapes={"maps": tuple({0: batch} for _ in spec.levels)}
    )
    other = features_of(spec, batch=3).maps
    for got, expected in zip(program.module()(*other), module(*other), strict=True):
        assert torch.allclose(got, expected, atol=1e-5)


def test_it_is_light() -> None:
    """A 640 pixel image on a small neck: well under one multiply-accumulate billion."""
    from torch.utils.flop_counter import FlopCounterMode

    spec = FeatureSpec(("p3", "p4", "p5"), (64, 128, 256), (8, 16, 32))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        DetectFree(spec, 80).eval()(features_of(spec, size=(640, 640), batch=1), identity)
    assert counter.get_total_flops() / 2 < 0.5e9


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="outputs=0"):
        DetectFree(spec_of(3), 0)
    with pytest.raises(ConfigError, match=r"reach=9\.0"):
        DetectFree(spec_of(3), 3, reach=9.0)
