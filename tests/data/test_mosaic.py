# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unified.contracts.config import AugmentConfig, DataConfig
from unified.contracts.structures import Annotations
from unified.data import mosaic as module
from unified.data.mixing import Mixture, open_mixture
from unified.data.mosaic import mixup, mosaic
from unified.data.transforms import View

SIDE = 120
GREY = 114


def coloured(label: int, size: tuple[int, int], box: tuple[int, int, int, int]) -> View:
    """A black picture of (height, width) with one rectangle in the colour of its label."""
    pixels = np.zeros((*size, 3), dtype=np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0:y1, x0:x1] = 130 + 12 * label
    annotations = Annotations(
        boxes_xyxy=torch.tensor([box], dtype=torch.float32),
        box_labels=torch.tensor([label]),
        box_states=torch.full((1,), 3, dtype=torch.int8),
        box_identities=torch.tensor([label]),
        box_areas=torch.ones(1),
        box_crowd=torch.zeros(1, dtype=torch.bool),
        identity=label,
    )
    return View(Image.fromarray(pixels), annotations, torch.zeros(0, dtype=torch.int64))


def nine(rng: np.random.Generator, exact: bool = False) -> list[View]:
    """Nine pictures of random shapes; ``exact``: those that fit as they are, so that no edge is blurred."""
    views = []
    for label in range(9):
        short = int(rng.integers(SIDE // 2, SIDE))
        size = (short, SIDE) if rng.random() < 0.5 else (SIDE, short)
        if not exact:
            size = (int(size[0] * 1.7), int(size[1] * 1.7))
        x0, y0 = int(rng.integers(0, size[1] // 3)), int(rng.integers(0, size[0] // 3))
        views.append(coloured(label, size, (x0, y0, x0 + size[1] // 2, y0 + size[0] // 2)))
    return views


def test_nine_pictures_stand_side_by_side_and_never_overlap() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        extents = [(int(w), int(h)) for w, h in rng.integers(1, 100, (9, 2))]
        corners = module._around_the_first(extents, (300, 300))
        covered = np.zeros((700, 700), dtype=int)
        for (x, y), (w, h) in zip(corners, extents, strict=True):
            covered[y : y + h, x : x + w] += 1
        assert covered.max() == 1
        assert covered.sum() == sum(w * h for w, h in extents)
        assert corners[0] == (300, 300)
        assert _neighbours(corners, extents) >= 4
        right, bottom = 300 + extents[0][0], 300 + extents[0][1]
        sides = [
            [x + w > right, y + h > bottom, x < 300, y < 300] for (x, y), (w, h) in zip(corners, extents, strict=True)
        ]
        assert np.any(sides, axis=0).all()


def _neighbours(corners: Sequence[tuple[int, int]], extents: Sequence[tuple[int, int]]) -> int:
    """Pictures that share an edge with the first one."""
    (x, y), (w, h) = corners[0], extents[0]
    count = 0
    for (a, b), (c, d) in zip(corners[1:], extents[1:], strict=True):
        across = min(x + w, a + c) > max(x, a) and (b + d == y or b == y + h)
        count += across or (min(y + h, b + d) > max(y, b) and (a + c == x or a == x + w))
    return count


@pytest.mark.parametrize("augment", [AugmentConfig(), AugmentConfig(scale=0.5, translate=0.3)])
def test_boxes_of_nine_stay_on_their_pixels(augment: AugmentConfig) -> None:
    rng, labels = np.random.default_rng(1), set()
    for _ in range(40):
        made = mosaic(nine(rng), rng, augment, SIDE)
        assert made.image.size == (SIDE, SIDE) and made.annotations.identity == -1
        pixels = np.asarray(made.image)[..., 0].astype(int)
        for box, label in zip(made.annotations.boxes_xyxy.tolist(), made.annotations.box_labels.tolist(), strict=True):
            assert 0 <= box[0] < box[2] <= SIDE and 0 <= box[1] < box[3] <= SIDE
            x0, y0, x1, y1 = (round(v) for v in box)
            inside = pixels[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2]
            if inside.size < 16:
                continue
            labels.add(label)
            assert np.abs(inside - (130 + 12 * label)).max() <= 2
    assert labels >= ({*range(9)} if augment.scale else {0, 1, 3, 5, 7})  # the far corners show when it zooms out


def test_every_coloured_pixel_of_nine_has_its_box() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        made = mosaic(nine(rng, exact=True), rng, AugmentConfig(), SIDE)
        pixels = np.asarray(made.image)[..., 0].astype(int)
        assert set(np.unique(pixels)) <= {0, GREY, *(130 + 12 * label for label in range(9))}
        boxed = np.zeros_like(pixels)
        for box, label in zip(made.annotations.boxes_xyxy.tolist(), made.annotations.box_labels.tolist(), strict=True):
            x0, y0, x1, y1 = (round(v) for v in box)
            boxed[y0:y1, x0:x1] = 130 + 12 * label
        assert (pixels[boxed > 0] == boxed[boxed > 0]).all()
        lost = (pixels > GREY) & (boxed == 0)
        assert lost.sum() <= 0.1 * (SIDE // 2) ** 2 * len(made.cut)  # only what is told as cut is left unboxed


def test_the_first_of_nine_is_always_near_the_middle() -> None:
    corners = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        views = [coloured(0, (SIDE, SIDE), (0, 0, SIDE, SIDE))]
        views += [coloured(1, (SIDE, SIDE), (0, 0, SIDE, SIDE)) for _ in range(8)]
        made = mosaic(views, rng, AugmentConfig(), SIDE).annotations
        first = made.boxes_xyxy[made.box_labels == 0]
        assert len(first) <= 1
        corners += first.tolist()
    boxes = np.array(corners)
    assert len(boxes) > 0.8 * 300  # else less than a tenth of it is in the window
    assert boxes[:, 0].min() == 0 and boxes[:, 0].max() > 0.4 * SIDE
    assert boxes[:, 2].max() == SIDE and boxes[:, 2].min() < 0.6 * SIDE
    assert abs((boxes[:, 0] + boxes[:, 2]).mean() / 2 - SIDE / 2) < 8


def test_mixup_shows_both_pictures_and_keeps_all_boxes() -> None:
    one, two = coloured(1, (SIDE, SIDE), (10, 20, 60, 70)), coloured(4, (SIDE, SIDE), (30, 40, 90, 110))
    one = View(one.image, one.annotations, torch.tensor([7]))
    made = mixup(one, two, 0.75)
    a, b = (np.asarray(view.image).astype(float) for view in (one, two))
    assert np.abs(np.asarray(made.image) - (0.75 * a + 0.25 * b)).max() <= 1
    assert np.abs(np.asarray(made.image) - (0.25 * a + 0.75 * b)).max() > 30  # the control
    assert made.annotations.boxes_xyxy.tolist() == [[10, 20, 60, 70], [30, 40, 90, 110]]
    assert made.annotations.box_labels.tolist() == [1, 4]
    assert made.annotations.identity == -1
    assert made.cut.tolist() == [7]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixture]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFIED_CACHE", str(tmp_path_factory.mktemp("cache")))
        whole = {"format": "shapes", "options": {"train": 6, "val": 2, "level": "easy"}, "labelled": {"det": "all"}}
        config = DataConfig.model_validate({"datasets": {"all": whole}})
        yield open_mixture(config, {"det": "boxes"}, split="train", size=64, base=Path())


def sample(mixture: Mixture, epoch: int, **given: float) -> tuple[bytes, list[list[float]]]:
    augment = AugmentConfig(**{"mosaic": 1.0, "fliplr": 0.0, **given})  # type: ignore[arg-type]
    found = mixture.sample("all", 2, epoch, augment, seed=3)[0]
    return found.image.numpy().tobytes(), found.annotations.boxes_xyxy.tolist()


def test_a_sample_is_a_function_of_its_address(mixture: Mixture) -> None:
    for given in ({"mosaic_images": 9}, {"mixup": 1.0}, {"mosaic_images": 9, "mixup": 0.5}):
        assert sample(mixture, 0, **given) == sample(mixture, 0, **given) != sample(mixture, 1, **given)
    assert sample(mixture, 0) != sample(mixture, 0, mosaic_images=9)


def test_mixup_comes_as_often_as_asked_and_only_to_mosaics(mixture: Mixture) -> None:
    both = sum(sample(mixture, epoch, mixup=0.3) != sample(mixture, epoch) for epoch in range(100))
    assert 15 < both < 45
    assert sample(mixture, 0, mosaic=0.0, mixup=1.0) == sample(mixture, 0, mosaic=0.0)
    more = [len(sample(mixture, epoch, mixup=1.0)[1]) - len(sample(mixture, epoch)[1]) for epoch in range(40)]
    assert np.mean(more) > 1
