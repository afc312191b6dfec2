# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from unified.contracts.structures import Prediction
from unified.inference.drawing import PALETTE, class_color, draw

NAMES = ("cat", "dog", "bird")


def said(boxes: list[list[float]], labels: list[int], size: tuple[int, int] = (600, 800)) -> Prediction:
    return Prediction(
        size=size,
        boxes_xyxy=torch.tensor(boxes).reshape(-1, 4),
        scores=torch.linspace(0.9, 0.5, len(boxes)),
        labels=torch.tensor(labels, dtype=torch.int64),
        box_names=NAMES,
    )


def test_a_box_edge_has_its_class_colour() -> None:
    image = np.full((600, 800, 3), 128, np.uint8)
    drawn = draw(image, said([[100, 200, 300, 400], [500, 100, 700, 500]], [1, 2]))
    assert drawn.size == (800, 600)
    for point, name in (((101, 300), "dog"), ((299, 300), "dog"), ((200, 399), "dog"), ((501, 300), "bird")):
        assert drawn.getpixel(point) == class_color(name, NAMES), point
    assert drawn.getpixel((200, 300)) == (128, 128, 128)  # the object itself stays free
    assert np.all(image == 128)  # the picture given is not drawn on


def test_the_same_class_always_has_the_same_colour() -> None:
    assert class_color("dog", NAMES) == class_color("dog", ("x", "dog", "y"))
    assert class_color("dog") == class_color("dog")
    assert len(set(PALETTE)) == len(PALETTE) >= 8


def _difference(image: Image.Image, drawn: Image.Image) -> np.ndarray:
    return np.any(np.asarray(image.convert("RGB")) != np.asarray(drawn), axis=-1)


@pytest.mark.parametrize("box", [[0, 0, 60, 60], [740, 0, 800, 60], [0, 540, 60, 600], [740, 540, 800, 600]])
def test_a_label_stays_inside_the_picture_and_off_the_object(box: list[float]) -> None:
    image = Image.new("RGB", (800, 600), (128, 128, 128))
    drawn = draw(image, said([box], [0]))
    changed = _difference(image, drawn)
    middle = changed[int(box[1]) + 8 : int(box[3]) - 8, int(box[0]) + 8 : int(box[2]) - 8]
    assert not middle.any()
    ground = np.all(np.asarray(drawn) == class_color("cat", NAMES), axis=-1)
    outside = ground.copy()
    outside[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = False
    assert outside.sum() > 400  # the label's ground is whole


def test_small_pictures_are_enlarged_and_large_ones_keep_their_size() -> None:
    assert draw(np.zeros((160, 160, 3), np.uint8), said([[10, 10, 50, 50]], [0], (160, 160))).size == (480, 480)
    assert draw(np.zeros((60, 120, 3), np.uint8), said([], [], (60, 120))).size == (480, 240)
    assert draw(Image.new("RGB", (3000, 1000)), said([[10, 10, 500, 500]], [0], (1000, 3000))).size == (3000, 1000)


def test_tags_stand_in_a_strip_below_and_leave_the_picture_free() -> None:
    image = np.full((480, 640, 3), 77, np.uint8)
    tags = Prediction(size=(480, 640), tag_scores=torch.tensor([0.9, 0.2]), tag_names=("indoor", "night"))
    drawn = np.asarray(draw(image, tags))
    assert np.array_equal(drawn[:480], image)
    assert len(drawn) > 480
    assert drawn[480:].min() < 100  # ink
    many = Prediction(size=(480, 640), tag_scores=torch.ones(60), tag_names=tuple(f"tag number {i}" for i in range(60)))
    assert draw(image, many).height > len(drawn) + 100  # chips flow into lines


def test_truth_colours_the_tags_and_stands_in_white_beneath() -> None:
    image = np.full((480, 640, 3), 77, np.uint8)
    said_tags = Prediction(size=(480, 640), tag_scores=torch.tensor([0.9]), tag_names=("indoor",))
    right = Prediction(size=(480, 640), tag_scores=torch.tensor([1.0]), tag_names=("indoor",))
    wrong = Prediction(size=(480, 640), tag_scores=torch.tensor([0.0]), tag_names=("indoor",))
    assert draw(image, said_tags, right).tobytes() != draw(image, said_tags, wrong).tobytes()
    boxes = Prediction(size=(480, 640), boxes_xyxy=torch.tensor([[100.0, 100, 300, 300]]))
    with_truth = np.asarray(draw(image, said([], [], (480, 640)), boxes))
    assert (with_truth.min(axis=-1) > 200).sum() > 100


def test_odd_predictions_are_drawn_without_complaint() -> None:
    odd = [[-50.0, -50, 900, 700], [10, 10, 10, 10], [790, 590, 900, 900], [300, 300, 301, 302]]
    draw(np.zeros((600, 800, 3), np.uint8), said(odd, [0, 1, 2, 0]))
    draw(Image.new("RGBA", (5, 3)), Prediction(size=(3, 5)))
    draw(np.zeros((600, 800, 3), np.uint8), Prediction(size=(600, 800), boxes_xyxy=torch.tensor([[1.0, 2, 30, 40]])))
