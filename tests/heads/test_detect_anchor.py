# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import pytest
import torch
from torch import Tensor
from unified.heads.detect_anchor import PUBLISHED, DetectAnchor

from unified.contracts.errors import ConfigError
from unified.contracts.structures import Features, FeatureSpec

CHANNELS = {3: (16, 24, 32), 4: (16, 24, 32, 40)}


def spec_of(levels: int) -> FeatureSpec:
    return FeatureSpec(("p3", "p4", "p5", "p6")[:levels], CHANNELS[levels], (8, 16, 32, 64)[:levels])


def features_of(spec: FeatureSpec, size: tuple[int, int] = (64, 128)) -> Features:
    maps = tuple(
        torch.randn(2, c, size[0] // s, size[1] // s) for c, s in zip(spec.channels, spec.strides, strict=True)
    )
    return Features(maps, spec.levels, spec.strides)


def identity(_: str, x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize("levels", [3, 4])
@pytest.mark.parametrize("hidden", [True, False])
def test_shapes(levels: int, hidden: bool) -> None:
    spec = spec_of(levels)
    output = DetectAnchor(spec, 5, hidden=hidden)(features_of(spec), identity)
    assert [tuple(m.shape) for m in output.maps] == [(2, 3, 64 // s, 128 // s, 10) for s in spec.strides]
    assert output.anchors_wh.shape == (levels, 3, 2)
    points = sum(3 * (64 // s) * (128 // s) for s in spec.strides)
    boxes, scores = output.decode()
    assert boxes.shape == (2, points, 4) and scores.shape == (2, points, 5)


@pytest.mark.parametrize("levels", [3, 4])
def test_every_site_is_reached_once_with_its_channels(levels: int) -> None:
    spec = spec_of(levels)
    head, seen = DetectAnchor(spec, 5), Counter()

    def watch(site: str, x: Tensor) -> Tensor:
        seen[site] += 1
        assert x.shape[1] == head.sites[site]
        return x

    head(features_of(spec), watch)
    assert seen == Counter(dict.fromkeys(head.sites, 1))
    assert head.sites["pre.p3"] == 32 and head.sites["post.p3"] == 30


@pytest.mark.parametrize(("channels", "levels", "extra"), [((128, 256, 512), 3, 2557), ((128, 192, 256, 320), 4, 2812)])
def test_sites_cost_what_the_paper_counts(channels: tuple[int, ...], levels: int, extra: int) -> None:
    """YOLOR Table 7: the additional parameters of +z before and x z behind the last convolution, 80 classes."""
    spec = FeatureSpec(("p3", "p4", "p5", "p6")[:levels], channels, (8, 16, 32, 64)[:levels])
    assert sum(DetectAnchor(spec, 80).sites.values()) == extra


def test_rows_of_a_map_are_channels_anchor_by_anchor() -> None:
    spec = spec_of(3)
    head = DetectAnchor(spec, 5).eval()
    captured: dict[str, Tensor] = {}

    def keep(site: str, x: Tensor) -> Tensor:
        captured[site] = x
        return x

    output = head(features_of(spec), keep)
    flat = captured["post.p4"]  # (B, A * (5 + K), H, W)
    assert torch.equal(output.maps[1][1, 2, 3, 4], flat[1, 20:30, 3, 4])


def test_a_cell_decodes_the_box_it_says() -> None:
    spec = spec_of(3)
    head = DetectAnchor(spec, 5)
    output = head(features_of(spec), identity)
    with torch.no_grad():
        for i, raw in enumerate(output.maps):
            raw.zero_()
            boxes = output.decode()[0]
            assert boxes.isfinite().all(), i
    # Zeros mean the middle of the cell and the anchor itself; P4 row 1, column 2, anchor 1 is (40, 24) and 76 x 55.
    index = 3 * 8 * 16 + (1 * 4 + 1) * 8 + 2
    assert boxes[0, index].tolist() == pytest.approx([40 - 38, 24 - 27.5, 40 + 38, 24 + 27.5])


def test_bias_starts_as_the_recipe_says() -> None:
    spec = spec_of(3)
    head = DetectAnchor(spec, 80)
    for conv, stride in zip(head.out, spec.strides, strict=True):
        bias = conv.bias.detach().view(3, 85)
        bound = conv.in_channels**-0.5  # of the default start these are added to
        assert (bias[:, :4].abs() <= bound).all()
        assert ((bias[:, 4] - torch.log(torch.tensor(8 / (640 / stride) ** 2))).abs() <= bound).all()
        assert ((bias[:, 5:] - torch.log(torch.tensor(0.6 / 79.01))).abs() <= bound).all()


def test_anchors_are_chosen_by_levels_or_given() -> None:
    assert DetectAnchor(spec_of(4), 1).anchors_wh[3, 2].tolist() == [925, 792]
    two = FeatureSpec(("p3", "p4"), (8, 8), (8, 16))
    given = DetectAnchor(two, 1, anchors=[[(8, 8)], [(32, 16)]])
    assert given.anchors_wh.tolist() == [[[8, 8]], [[32, 16]]]
    with pytest.raises(ConfigError, match="3 or 4 levels, got 2"):
        DetectAnchor(two, 1)
    with pytest.raises(ConfigError, match=r"shape \(3, 3, 2\), expected \(2 levels"):
        DetectAnchor(two, 1, anchors=PUBLISHED[3])
    assert "anchors_wh" not in given.state_dict()  # words of the config, not weights
