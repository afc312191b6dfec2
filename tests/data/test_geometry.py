# SPDX-License-Identifier: Apache-2.0
"""Coloured things and all that is known of them must stay together under every transform and every chain of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from unified.contracts.config import AugmentConfig
from unified.contracts.extras import Bitmap, Keypoints, Masks, Panoptic
from unified.contracts.structures import Annotations, Frame, LabelState, Sample
from unified.data.mosaic import mixup, mosaic
from unified.data.occlusion import behind, cut_out, draw_cutout, paste, pasteable
from unified.data.transforms import (
    View,
    compose,
    draw_affine,
    draw_flip,
    fitting_matrix,
    flip,
    letterbox_sample,
    move,
    to_image,
    view_of,
)

SIDE = 128
NAMES = ("left_corner", "right_corner", "centre")
STRONG = AugmentConfig(scale=0.4, translate=0.2, rotate=25, shear=10, fliplr=0.5, flipud=0.5)
STRAIGHT = AugmentConfig(scale=0.4, translate=0.2, fliplr=0.5, flipud=0.5)


class SegmentMap:
    """A segment map that is there already."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def __call__(self) -> torch.Tensor:
        return torch.from_numpy(self.numbers)


def colour(label: int) -> int:
    return 130 + 12 * label


def scene(rng: np.random.Generator, labels: list[int], size: tuple[int, int] | None = None) -> View:
    """Black, with a filled ellipse for every label in its colour; with masks, key points and a segment map.

    The points: both ends of the upper side of the box, named left and right, and the centre.
    """
    height, width = size or tuple(int(v) for v in rng.integers(80, 260, 2))
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    numbers = np.full((height, width), -1, dtype=np.int32)
    boxes, masks, points = [], [], []
    for k, label in enumerate(labels):
        w, h = (int(rng.integers(extent // 5, extent // 2)) for extent in (width, height))
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        rows, columns = np.mgrid[:height, :width]
        inside = ((columns + 0.5 - x - w / 2) / (w / 2)) ** 2 + ((rows + 0.5 - y - h / 2) / (h / 2)) ** 2 <= 1
        pixels[inside] = colour(label)
        numbers[inside] = k
        for other in masks:
            other &= ~inside
        masks.append(inside)
        boxes.append([x, y, x + w, y + h])
        points.append([[x, y, 2], [x + w, y, 2], [x + w / 2, y + h / 2, 2]])
    count = len(labels)
    extras = {
        "masks": Masks((height, width), tuple(Bitmap(mask) for mask in masks)),
        "keypoints": Keypoints(torch.tensor(points, dtype=torch.float32).reshape(-1, 3, 3), NAMES),
        "panoptic": Panoptic(
            (height, width), torch.tensor(labels), torch.zeros(count, dtype=torch.bool), torch.ones(count), ("a",) * 9,
            (True,) * 9, SegmentMap(numbers),
        ),
        "captions": ("a text",),
    }  # fmt: skip
    annotations = Annotations(
        boxes_xyxy=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        box_labels=torch.tensor(labels, dtype=torch.int64),
        box_states=torch.full((count,), int(LabelState.POSITIVE), dtype=torch.int8),
        box_identities=torch.arange(count),
        box_areas=torch.ones(count),
        box_crowd=torch.zeros(count, dtype=torch.bool),
        identity=7,
        extras=extras,
    )
    return View(Image.fromarray(pixels), annotations, torch.zeros(0, dtype=torch.int64))


def one_apart(view: View) -> View:
    """Only the last object, which nothing covers."""
    return replace(view, annotations=view.annotations.select(torch.tensor([len(view.annotations) - 1])))


def check_masks(view: View, slack: int = 2) -> int:
    """Every mask's pixels, but for ``slack`` at its edge, show its object's colour; how many were checked."""
    shown = np.asarray(view.image)[..., 0].astype(int)
    masks = view.annotations.extras["masks"].draw().numpy()
    assert masks.shape == (len(view.annotations), view.image.height, view.image.width)
    checked = 0
    for mask, label in zip(masks, view.annotations.box_labels.tolist(), strict=True):
        core = eroded(mask, slack)
        checked += int(core.sum())
        assert (np.abs(shown[core] - colour(label)) <= 2).mean() > 0.995 if core.any() else True
    return checked


def eroded(mask: np.ndarray, by: int) -> np.ndarray:
    for _ in range(by):
        padded = np.pad(mask, 1, constant_values=False)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def check_boxes(view: View, slack: float = 2.0) -> None:
    """A mask lies in its box."""
    masks = view.annotations.extras["masks"].draw().numpy()
    for mask, box in zip(masks, view.annotations.boxes_xyxy.tolist(), strict=True):
        rows, columns = np.nonzero(mask)
        if len(rows):
            assert columns.min() >= box[0] - slack and columns.max() + 1 <= box[2] + slack
            assert rows.min() >= box[1] - slack and rows.max() + 1 <= box[3] + slack


def check_centres(view: View) -> int:
    """A visible centre shows its object's colour; how many were checked."""
    shown = np.asarray(view.image)[..., 0].astype(int)
    checked = 0
    for points, label in zip(
        view.annotations.extras["keypoints"].points.tolist(), view.annotations.box_labels.tolist(), strict=True
    ):
        x, y, seen = points[2]
        if seen == 2:
            checked += 1
            assert abs(shown[min(int(y), shown.shape[0] - 1), min(int(x), shown.shape[1] - 1)] - colour(label)) <= 2
        assert seen > 0 or (x, y) == (0, 0)
    return checked


def check_segments(view: View) -> None:
    numbers = view.annotations.extras["panoptic"].read().numpy()
    shown = np.asarray(view.image)[..., 0].astype(int)
    assert numbers.shape == shown.shape
    for k, label in enumerate(view.annotations.extras["panoptic"].labels.tolist()):
        core = eroded(numbers == k, 2)
        assert (np.abs(shown[core] - colour(label)) <= 2).mean() > 0.995 if core.any() else True


def chain(view: View, rng: np.random.Generator, augment: AugmentConfig) -> View:
    size = view.image.height, view.image.width
    centre = (SIDE / 2, SIDE / 2)
    moved = move(view, compose(draw_affine(rng, augment, centre, SIDE), fitting_matrix(size, SIDE)), SIDE)
    return draw_flip(moved, rng, augment)


@pytest.mark.parametrize("augment", [STRONG, STRAIGHT], ids=["turned", "straight"])
def test_everything_moves_together(augment: AugmentConfig) -> None:
    checked = centres = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        view = chain(one_apart(scene(rng, [0, 4])), rng, augment)
        if len(view.annotations):
            checked += check_masks(view)
            check_boxes(view)
            centres += check_centres(view)
        check_segments(view)
    assert checked > 20_000 and centres > 25


def test_a_wrong_move_is_seen() -> None:  # the control of the checks
    rng = np.random.default_rng(0)
    view = one_apart(scene(rng, [0, 4]))
    late = replace(view, image=view.image.transform(view.image.size, Image.Transform.AFFINE, (1, 0, 9, 0, 1, 0)))
    with pytest.raises(AssertionError):
        check_masks(late)
    with pytest.raises(AssertionError):
        check_segments(late)


@pytest.mark.parametrize("augment", [AugmentConfig(), STRAIGHT, STRONG], ids=["plain", "straight", "turned"])
@pytest.mark.parametrize("images", [4, 9])
def test_mosaics_take_masks_and_points_along(images: int, augment: AugmentConfig) -> None:
    checked = centres = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        made = mosaic([one_apart(scene(rng, [0, label])) for label in range(images)], rng, augment, SIDE)
        assert set(made.annotations.extras) == {"masks", "keypoints"}  # a caption is of one picture alone
        checked += check_masks(made, slack=4)  # enlarged twice: an edge is four pixels wide
        check_boxes(made)
        centres += check_centres(made)
        made = draw_flip(made, rng, STRAIGHT)
        check_masks(made, slack=4)
        check_centres(made)
    assert checked > 8_000 and centres > 10


def test_mixup_keeps_the_masks_of_both() -> None:
    rng = np.random.default_rng(0)
    one, two = (one_apart(scene(rng, [0, label], (SIDE, SIDE))) for label in (1, 4))
    made = mixup(one, two, 0.5).annotations.extras["masks"].draw()
    assert torch.equal(made[0], one.annotations.extras["masks"].draw()[0])
    assert torch.equal(made[1], two.annotations.extras["masks"].draw()[0])


def test_letterboxes_take_everything_along_and_back() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        view = one_apart(scene(rng, [0, 3]))
        size = view.image.height, view.image.width
        pixels = torch.from_numpy(np.asarray(view.image).copy()).permute(2, 0, 1)
        fitted = letterbox_sample(Sample(pixels, view.annotations, Frame("a", size)), (96, 160))
        there = View(to_image(fitted.image), fitted.annotations, view.cut)
        assert fitted.image.shape == (3, 96, 160) and check_masks(there) > 0
        check_boxes(there)
        back = fitted.frame.to_original(fitted.annotations.boxes_xyxy)
        assert torch.allclose(back, view.annotations.boxes_xyxy, atol=1e-3)


def test_a_shrunken_picture_leads_back_to_its_full_size() -> None:
    pixels = torch.zeros(3, 50, 100, dtype=torch.uint8)
    boxes = replace(Annotations(), boxes_xyxy=torch.tensor([[10.0, 5, 30, 25]]), box_labels=torch.tensor([0]))
    stored = Sample(pixels, boxes, Frame("a", (500, 1000), (0.1, 0.1)))  # decoded at a tenth
    fitted = letterbox_sample(stored, 64)
    assert torch.allclose(fitted.frame.to_original(fitted.annotations.boxes_xyxy), boxes.boxes_xyxy * 10, atol=1e-3)


def test_left_and_right_change_places_in_a_mirror_alone() -> None:
    view = one_apart(scene(np.random.default_rng(3), [0, 1], (SIDE, SIDE)))
    left, right, _ = view.annotations.extras["keypoints"].points[0, :, 0].tolist()
    for how, places in (
        ({"across": True}, (SIDE - right, SIDE - left)),  # the left corner is still on the left
        ({"down": True}, (right, left)),
        ({"across": True, "down": True}, (SIDE - left, SIDE - right)),  # half a turn
    ):
        seen = flip(view, **how).annotations.extras["keypoints"].points[0, :2, 0].tolist()
        assert seen == pytest.approx(places)
    nameless = replace(view.annotations.extras["keypoints"], names=())
    plain = flip(replace(view, annotations=replace(view.annotations, extras={"keypoints": nameless})), across=True)
    assert plain.annotations.extras["keypoints"].points[0, 0, 0] == SIDE - left


def test_points_that_leave_the_picture_are_unlabelled() -> None:
    points = Keypoints(torch.tensor([[[10.0, 10, 2], [60, 10, 1], [0, 0, 0]]]), NAMES)
    moved = points.moved(np.array([[1.0, 0, 50], [0, 1, 0]]), (100, 100))
    assert moved.points.tolist() == [[[60, 10, 2], [0, 0, 0], [0, 0, 0]]]


def test_the_same_as_torchvision() -> None:
    """Boxes, points, masks and pixels of v2's kernels on tv_tensors, where they have the same map."""
    rng = np.random.default_rng(0)
    view = one_apart(scene(rng, [0, 5], (SIDE, SIDE)))
    found, size = view.annotations, (SIDE, SIDE)
    given = {
        "pixels": tv_tensors.Image(torch.from_numpy(np.asarray(view.image).copy()).permute(2, 0, 1)),
        "boxes": tv_tensors.BoundingBoxes(found.boxes_xyxy, format="XYXY", canvas_size=size),
        "points": tv_tensors.KeyPoints(found.extras["keypoints"].points[..., :2], canvas_size=size),
        "masks": tv_tensors.Mask(found.extras["masks"].draw()),
    }
    for how, kernel in (({"across": True}, v2.horizontal_flip), ({"down": True}, v2.vertical_flip)):
        theirs, ours = {k: kernel(x) for k, x in given.items()}, flip(view, **how)
        assert np.array_equal(np.asarray(ours.image), theirs["pixels"].permute(1, 2, 0).numpy())
        assert torch.equal(ours.annotations.boxes_xyxy, theirs["boxes"].as_subclass(torch.Tensor))
        assert torch.equal(ours.annotations.extras["masks"].draw(), theirs["masks"].as_subclass(torch.Tensor))
        points = ours.annotations.extras["keypoints"].points[:, [1, 0, 2], :2]  # v2 knows no left and right
        points[..., 0 if "across" in how else 1] -= 1  # and takes a point for a whole pixel
        assert torch.allclose(points, theirs["points"].as_subclass(torch.Tensor))
    for angle, shift, scale in ((20.0, (5, -3), 0.8), (-35.0, (0, 8), 0.6)):
        cos, sin = scale * np.cos(np.radians(angle)), scale * np.sin(np.radians(angle))
        middle = SIDE / 2
        matrix = np.array(
            [
                [cos, -sin, middle + shift[0] - cos * middle + sin * middle],
                [sin, cos, middle + shift[1] - sin * middle - cos * middle],
            ]
        )
        asked = {"angle": angle, "translate": list(shift), "scale": scale, "shear": [0.0, 0.0]}
        theirs = {k: v2.affine(x, **asked) for k, x in given.items() if k != "pixels"}
        theirs["pixels"] = v2.affine(given["pixels"], **asked, interpolation=InterpolationMode.BILINEAR, fill=114)
        ours = move(view, matrix, SIDE)
        assert torch.allclose(ours.annotations.boxes_xyxy, theirs["boxes"].as_subclass(torch.Tensor), atol=1e-3)
        points = ours.annotations.extras["keypoints"].points
        labelled = points[..., 2] > 0
        assert torch.allclose(
            points[..., :2][labelled], theirs["points"].as_subclass(torch.Tensor)[labelled], atol=1e-3
        )
        masks = ours.annotations.extras["masks"].draw()
        assert (masks ^ theirs["masks"].as_subclass(torch.Tensor)).sum() <= 0.01 * masks.sum()
        pixels = np.abs(np.asarray(ours.image).astype(int) - theirs["pixels"].permute(1, 2, 0).numpy())
        assert (pixels > 3).mean() < 0.02  # at the picture's own edges each blends in its own way


def test_pasted_objects_are_in_front_and_what_is_behind_them_follows() -> None:
    pasted = checked = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        view, donor = one_apart(scene(rng, [0, 2], (SIDE, SIDE))), one_apart(scene(rng, [0, 6], (SIDE, SIDE)))
        donor = chain(donor, rng, STRONG)
        rows = pasteable(donor.annotations, "masks").nonzero()[:, 0]
        made = paste(view, donor, rows)
        if made is view:
            continue
        pasted += 1
        assert made.annotations.identity == 7 and made.annotations.box_labels.tolist()[-1] == 6
        checked += check_masks(made)
        check_boxes(made, slack=0)
        check_centres(made)
        tight = np.nonzero(made.annotations.extras["masks"].draw()[-1].numpy())
        box = made.annotations.boxes_xyxy[-1].tolist()
        assert box == [tight[1].min(), tight[0].min(), tight[1].max() + 1, tight[0].max() + 1]
    assert pasted > 20 and checked > 10_000


def test_an_object_behind_others_shrinks_vanishes_or_is_told() -> None:
    def square(box: tuple[int, int, int, int]) -> Bitmap:
        mask = np.zeros((SIDE, SIDE), dtype=bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
        return Bitmap(mask)

    boxes = [(10, 10, 50, 50), (60, 60, 100, 100), (10, 60, 50, 100), (60, 10, 100, 50)]
    found = Annotations(
        boxes_xyxy=torch.tensor(boxes).float(),
        box_labels=torch.arange(4),
        box_states=torch.full((4,), 3, dtype=torch.int8),
        box_identities=torch.arange(4),
        box_areas=torch.ones(4),
        box_crowd=torch.zeros(4, dtype=torch.bool),
        extras={"masks": Masks((SIDE, SIDE), tuple(map(square, boxes)))},
    )
    hidden = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    hidden[10:50, 10:30] = True  # the left half of the first
    hidden[60:100, 60:100] = True  # all of the second
    hidden[62:100, 10:50] = True  # of the third, one row in twenty is left
    ground = Image.new("RGB", (SIDE, SIDE))
    seen = behind(View(ground, found, torch.zeros(0, dtype=torch.int64)), hidden)
    assert seen.annotations.boxes_xyxy.tolist() == [[30, 10, 50, 50], [60, 10, 100, 50]]
    assert seen.annotations.box_labels.tolist() == [0, 3] and seen.cut.tolist() == [2]
    bare = behind(View(ground, replace(found, extras={}), torch.zeros(0, dtype=torch.int64)), hidden)
    assert bare.annotations.boxes_xyxy.tolist() == [list(boxes[0]), list(boxes[3])]  # no mask says what is left
    assert bare.annotations.box_states.tolist() == [3, 3]
    hidden[10:50, 10:31] = True  # more than half
    bare = behind(View(ground, replace(found, extras={}), torch.zeros(0, dtype=torch.int64)), hidden)
    assert bare.annotations.box_states.tolist() == [int(LabelState.IGNORE), 3]


def test_boxes_are_pasted_only_if_asked() -> None:
    rng = np.random.default_rng(1)
    view, donor = (one_apart(scene(rng, [0, label], (SIDE, SIDE))) for label in (2, 6))
    bare = replace(donor, annotations=replace(donor.annotations, extras={}))
    assert not pasteable(bare.annotations, "masks").any() and pasteable(bare.annotations, "boxes").all()
    made = paste(view, bare, torch.tensor([0]))
    x0, y0, x1, y1 = (int(v) for v in donor.annotations.boxes_xyxy[0])
    assert np.array_equal(np.asarray(made.image)[y0:y1, x0:x1], np.asarray(donor.image)[y0:y1, x0:x1])
    crowd = replace(donor.annotations, box_crowd=torch.tensor([True]))
    assert not pasteable(crowd, "boxes").any()


def test_a_cutout_is_grey_and_hides_what_it_covers() -> None:
    seen = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        view = one_apart(scene(rng, [0, 3], (SIDE, SIDE)))
        made = draw_cutout(view, rng, AugmentConfig(cutout=1.0, cutout_side=0.5))
        changed = (np.asarray(made.image) != np.asarray(view.image)).any(axis=-1)
        rows, columns = np.nonzero(changed)
        assert changed.any() and (np.asarray(made.image)[changed] == 114).all()
        assert rows.max() - rows.min() < SIDE / 2 + 1 and columns.max() - columns.min() < SIDE / 2 + 1
        if len(made.annotations):
            seen += check_masks(made) > 0
            check_boxes(made, slack=0)
            check_centres(made)
    assert seen > 40
    view = one_apart(scene(np.random.default_rng(0), [0, 3], (SIDE, SIDE)))
    x, y = view.annotations.extras["keypoints"].points[0, 2, :2].int().tolist()
    made = cut_out(view, (x - 3, y - 3, x + 3, y + 3))
    assert made.annotations.extras["keypoints"].points[0, 2, 2] == 1  # hidden, not forgotten
    assert draw_cutout(view, np.random.default_rng(0), AugmentConfig()) is view


def test_random_chains_keep_everything_together() -> None:
    """Any transforms after one another, in the order of the pipeline and with fixed seeds."""
    checked = 0
    for seed in range(60):
        rng = np.random.default_rng(1000 + seed)
        if rng.random() < 0.5:
            images = int(rng.choice([4, 9]))
            view = mosaic([one_apart(scene(rng, [0, k])) for k in range(images)], rng, STRONG, SIDE)
        else:
            view = chain(one_apart(scene(rng, [0, 4])), rng, STRONG)
        if rng.random() < 0.7:
            donor = chain(one_apart(scene(rng, [0, 7])), rng, STRONG)
            rows = pasteable(donor.annotations, "masks").nonzero()[:, 0]
            view = paste(view, donor, rows) if len(rows) else view
        view = draw_flip(view, rng, STRONG)
        view = draw_cutout(view, rng, AugmentConfig(cutout=0.7))
        checked += check_masks(view, slack=4)
        check_boxes(view, slack=2.5)
        check_centres(view)
    assert checked > 20_000


def test_a_view_of_a_stored_sample_has_its_extras() -> None:
    rng = np.random.default_rng(0)
    view = scene(rng, [1, 2])
    pixels = torch.from_numpy(np.asarray(view.image).copy()).permute(2, 0, 1)
    again = view_of(Sample(pixels, view.annotations, Frame("a", (view.image.height, view.image.width))))
    assert again.annotations is view.annotations
