# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from PIL import Image

from unified.contracts.config import AugmentConfig
from unified.contracts.structures import Annotations, Frame, LabelState, Sample
from unified.data.mosaic import mosaic
from unified.data.transforms import (
    View,
    compose,
    draw_affine,
    fitting_matrix,
    flip,
    jitter,
    letterbox,
    letterbox_sample,
    move,
    move_boxes,
    to_image,
    to_pixels,
    view_of,
)

STRONG = AugmentConfig(scale=0.5, translate=0.2, rotate=15, shear=8)


def annotated(boxes: list[list[float]], labels: list[int] | None = None) -> Annotations:
    count = len(boxes)
    return Annotations(
        boxes_xyxy=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        box_labels=torch.tensor(labels if labels is not None else list(range(count)), dtype=torch.int64),
        box_states=torch.full((count,), int(LabelState.POSITIVE), dtype=torch.int8),
        box_identities=torch.arange(count),
        box_areas=torch.ones(count),
        box_crowd=torch.zeros(count, dtype=torch.bool),
    )


def painted(height: int, width: int, box: tuple[int, int, int, int], colour: int = 255, ground: int = 0) -> Sample:
    """A picture with one filled rectangle and its box."""
    pixels = torch.full((3, height, width), ground, dtype=torch.uint8)
    x0, y0, x1, y1 = box
    pixels[:, y0:y1, x0:x1] = colour
    return Sample(pixels, annotated([list(box)]), Frame("a", (height, width)))


def bright(image: Image.Image, level: int = 128) -> tuple[float, float, float, float]:
    """The box around all pixels at least as bright as ``level``."""
    mask = np.asarray(image)[..., 0] >= level
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@pytest.mark.parametrize("size", [(100, 100), (37, 211), (640, 480), (13, 7), (1, 500)])
@pytest.mark.parametrize("side", [96, 160, 333])
def test_letterbox_round_trip_is_exact(size: tuple[int, int], side: int) -> None:
    height, width = size
    pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    fitted, frame = letterbox(pixels, side, "a")
    assert fitted.shape == (3, side, side) and frame.image_id == "a" and frame.size == size
    boxes = torch.rand(20, 4) * torch.tensor([width, height, width, height])
    boxes = torch.cat([torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])], dim=1)
    whole = torch.tensor([[0.0, 0.0, width, height]])
    for given in (boxes, whole):
        there = frame.to_input(given)
        assert bool((there >= 0).all()) and bool((there <= side).all())
        assert torch.allclose(frame.to_original(there), given, atol=1e-3 * max(1, max(size) / side))


def test_letterbox_fills_one_side_and_pads_grey_evenly() -> None:
    fitted, frame = letterbox(torch.full((3, 60, 120), 200, dtype=torch.uint8), 160)
    assert frame.scale == (160 / 120, 80 / 60) and frame.offset == (0.0, 40.0)  # enlarged, too
    assert bool((fitted[:, 40:120] == 200).all())
    assert bool((fitted[:, :40] == 114).all()) and bool((fitted[:, 120:] == 114).all())


def test_letterbox_moves_pixels_where_it_moves_boxes() -> None:
    sample = letterbox_sample(painted(200, 320, (64, 40, 160, 120)), 160)
    assert np.abs(np.array(bright(to_image(sample.image))) - sample.annotations.boxes_xyxy[0].numpy()).max() <= 1


def test_a_picture_that_fits_is_not_resampled() -> None:
    pixels = torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8)
    assert torch.equal(letterbox(pixels, 96)[0], pixels)
    view = View(to_image(pixels), annotated([]), torch.zeros(0, dtype=torch.int64))
    assert torch.equal(to_pixels(move(view, fitting_matrix((96, 96), 96), 96).image), pixels)


@pytest.mark.parametrize("augment", [STRONG, AugmentConfig(scale=0.5, translate=0.2)])
def test_boxes_stay_tight_around_a_drawn_rectangle(augment: AugmentConfig) -> None:
    rng, checked = np.random.default_rng(0), 0
    for _ in range(60):
        height, width = (int(v) for v in rng.integers(100, 400, 2))
        x0, y0 = int(rng.integers(5, width // 2)), int(rng.integers(5, height // 2))
        box = (x0, y0, x0 + int(rng.integers(30, width // 2)), y0 + int(rng.integers(30, height // 2)))
        matrix = compose(draw_affine(rng, augment, (80, 80), 160), fitting_matrix((height, width), 160))
        seen = move(view_of(painted(height, width, box)), matrix, 160)
        if not len(seen.annotations):
            continue
        found, truth = np.array(bright(seen.image, 185)), seen.annotations.boxes_xyxy[0].numpy()
        inside = (truth > 0.5).all() and (truth < 159.5).all()
        if inside:  # a corner that the edge cuts off makes the hull wider than what is left of the rectangle
            checked += 1
            assert np.abs(found - truth).max() <= 1.5, (found, truth)
        assert (found >= truth - 1.5)[:2].all() and (found <= truth + 1.5)[2:].all()
    assert checked >= 15


def test_affine_by_hand() -> None:
    quarter = AugmentConfig(rotate=0, scale=0, translate=0, shear=0)
    still = draw_affine(np.random.default_rng(0), quarter, (80, 80), 160)
    assert np.allclose(still, [[1, 0, 0], [0, 1, 0]])
    turned = np.array([[0.0, -1.0, 160.0], [1.0, 0.0, 0.0]])  # a quarter turn about the middle
    boxes, _ = move_boxes(annotated([[10, 20, 40, 60]]), turned, 160)
    assert boxes.boxes_xyxy.tolist() == [[100, 10, 140, 40]]


def test_what_can_hardly_be_seen_is_dropped_and_told() -> None:
    boxes: list[list[float]] = [
        [10, 10, 50, 50],  # whole
        [10, 10, 11.5, 50],  # thinner than two pixels
        [-95, 10, 5, 50],  # five per cent in sight
        [-200, 20, -100, 50],  # out of sight
        [-50, 0, 3, 158],  # the edge leaves a splinter, 53 times as long as wide
        [20, 20, 25, 140],  # a slender thing that nothing cut
    ]
    kept, cut = move_boxes(annotated(boxes), np.eye(2, 3), 160)
    assert kept.box_labels.tolist() == [0, 5] and kept.box_identities.tolist() == [0, 5]
    assert cut.tolist() == [1, 2, 4]


def test_strong_shrinking_averages() -> None:
    noise = torch.randint(0, 2, (1, 960, 960), dtype=torch.uint8).expand(3, -1, -1) * 255
    sample = Sample(noise, annotated([]), Frame("a", (960, 960)))
    turned = AugmentConfig(rotate=10)
    rng = np.random.default_rng(0)
    seen = move(view_of(sample), compose(draw_affine(rng, turned, (80, 80), 160), fitting_matrix((960, 960), 160)), 160)
    middle = np.asarray(seen.image)[40:120, 40:120].astype(float)
    assert abs(middle.mean() - 127.5) < 3 and middle.std() < 127.5 / 6 + 6  # of 36 averaged coin flips


def test_flips_are_involutions_and_boxes_follow() -> None:
    view = view_of(painted(90, 120, (10, 20, 40, 50)))
    for how in ({"across": True}, {"down": True}, {"across": True, "down": True}):
        once = flip(view, **how)
        assert bright(once.image) == tuple(once.annotations.boxes_xyxy[0].tolist())
        twice = flip(once, **how)
        assert np.array_equal(np.asarray(twice.image), np.asarray(view.image))
        assert torch.equal(twice.annotations.boxes_xyxy, view.annotations.boxes_xyxy)
    assert bright(flip(view, across=True).image) == (80, 20, 110, 50)


def test_jitter_is_neutral_at_rest_keeps_greys_and_turns_hues() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(jitter(noise, 0, 1, 1)), np.asarray(noise))
    grey = Image.new("RGB", (4, 4), (90, 90, 90))
    assert np.abs(np.asarray(jitter(grey, 0.3, 1.7, 1.0)).astype(int) - 90).max() <= 1
    assert np.abs(np.asarray(jitter(grey, 0, 1, 1.5)).astype(int) - 135).max() <= 1
    dull = np.asarray(jitter(Image.new("RGB", (1, 1), (200, 100, 50)), 0, 0, 1))[0, 0]
    assert np.ptp(dull) <= 1 and abs(int(dull[0]) - (0.299 * 200 + 0.587 * 100 + 0.114 * 50)) <= 1
    red = Image.new("RGB", (1, 1), (160, 60, 60))
    assert int(np.asarray(jitter(red, 1 / 3, 1, 1))[0, 0].argmax()) != 0


@pytest.mark.parametrize("augment", [AugmentConfig(mosaic=1.0), AugmentConfig(scale=0.4, translate=0.1), STRONG])
def test_mosaic_keeps_boxes_on_their_objects(augment: AugmentConfig) -> None:
    # Every tile has one rectangle painted in the colour of its label; box centres must show that colour.
    rng, seen = np.random.default_rng(1), 0
    for _ in range(40):
        views = []
        for label in range(4):
            height, width = (int(v) for v in rng.integers(60, 300, 2))
            x0, y0 = int(rng.integers(0, width // 3)), int(rng.integers(0, height // 3))
            box = (x0, y0, x0 + width // 2, y0 + height // 2)
            sample = painted(height, width, box, colour=40 + 50 * label)
            views.append(
                View(to_image(sample.image), annotated([list(box)], [label]), torch.zeros(0, dtype=torch.int64))
            )
        made = mosaic(views, rng, augment, 160)
        assert made.image.size == (160, 160) and made.annotations.identity == -1
        pixels = np.asarray(made.image)
        for box, label in zip(made.annotations.boxes_xyxy.tolist(), made.annotations.box_labels.tolist(), strict=True):
            assert 0 <= box[0] < box[2] <= 160 and 0 <= box[1] < box[3] <= 160
            if min(box[2] - box[0], box[3] - box[1]) < 12 or (augment.rotate and (min(box) < 1 or max(box) > 159)):
                continue  # the middle of a cut, turned rectangle's hull may lie beside it
            seen += 1
            assert abs(int(pixels[int((box[1] + box[3]) / 2), int((box[0] + box[2]) / 2), 0]) - (40 + 50 * label)) <= 2
    assert seen > 25


def test_mosaic_boxes_are_tight_at_scale_one() -> None:
    side = 80
    for seed in range(20):
        views = [view_of(painted(80, 80, (20, 25, 50, 60), ground=0)) for _ in range(4)]
        made = mosaic(views, np.random.default_rng(seed), AugmentConfig(), side)
        mask = np.asarray(made.image)[..., 0] == 255
        painted_over = np.zeros((side, side), dtype=bool)
        for x0, y0, x1, y1 in made.annotations.boxes_xyxy.round().int().tolist():
            assert mask[y0:y1, x0:x1].all()
            painted_over[y0:y1, x0:x1] = True
        assert (mask & ~painted_over).sum() <= 0.1 * mask.sum() + 120  # only dropped splinters are left unboxed
