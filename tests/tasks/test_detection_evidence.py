# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from unified.tasks.detection.evidence import GRID, Boxes, Evidence, Matching, iou, trade
from unified.tasks.detection.sections import sections

from unified.contracts.section import Gallery, Matrix, Section, Table

Rows = list[dict[str, Any]]


def box(
    image: int, label: int, x: float, score: float | None = None, crowd: int = 0, size: float = 10
) -> dict[str, Any]:
    row: dict[str, Any] = {"image_id": image, "category_id": label, "bbox": [x, 0.0, size, size], "area": size * size}
    return row | ({"iscrowd": crowd} if score is None else {"score": score})


def test_overlaps_by_hand() -> None:
    a, b = np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 15, 10], [20, 20, 30, 30], [0, 0, 10, 10]])
    assert iou(a, b)[0].tolist() == pytest.approx([50 / 150, 0.0, 1.0])


def test_the_best_score_chooses_first_and_nobody_twice() -> None:
    truth = Boxes.of([box(1, 0, 0), box(1, 1, 100), box(2, 0, 0)])
    found = Boxes.of([box(1, 0, 1, 0.6), box(1, 0, 0, 0.9), box(1, 0, 100, 0.8), box(2, 1, 0, 0.7)])
    matching = Matching(found, truth, 2)
    assert found.score.tolist() == [0.9, 0.8, 0.6, 0.7]  # image by image, the best first
    assert matching.partner.tolist() == [0, -1, -1, -1]
    assert matching.false.tolist() == [False, True, True, True]
    assert matching.missed.tolist() == [False, True, True]
    other = Matching(found, truth, 2, any_class=True)
    assert other.partner.tolist() == [0, 1, -1, 2]


def test_what_is_to_be_ignored_is_neither_false_nor_missed() -> None:
    truth = Boxes.of([box(1, 0, 0, crowd=1), box(1, 0, 50)])
    found = Boxes.of([box(1, 0, 0, 0.9), box(1, 0, 1, 0.8), box(1, 0, 50, 0.7)])
    matching = Matching(found, truth, 1)
    assert matching.partner.tolist() == [-1, -1, 1]
    assert matching.excused.tolist() == [True, True, False]
    assert not matching.false.any()
    assert not matching.missed.any()


def test_a_trade_by_hand() -> None:
    right = np.array([True, False, True])
    found = trade(np.array([0.905, 0.605, 0.305]), right, 4)
    at = {round(float(t), 2): k for k, t in enumerate(GRID)}
    for threshold, precision, recall in ((0.0, 2 / 3, 2 / 4), (0.5, 1 / 2, 1 / 4), (0.8, 1.0, 1 / 4), (0.95, 1.0, 0.0)):
        k = at[threshold]
        assert (found.precision[k], found.recall[k]) == pytest.approx((precision, recall))
        both = precision + recall
        assert found.f1[k] == pytest.approx(2 * precision * recall / both if recall else 0.0)
    assert GRID[found.best] < 0.305


def random_scenes(images: int = 30) -> tuple[Rows, Rows]:
    dice = np.random.default_rng(3)
    truth, found = [], []
    for image in range(1, images + 1):
        for _ in range(dice.integers(0, 5)):
            x, label = float(dice.uniform(0, 60)), int(dice.integers(0, 3))
            truth.append(box(image, label, x, size=12))
            if dice.random() < 0.8:
                said = label if dice.random() < 0.8 else int(dice.integers(0, 3))
                found.append(box(image, said, x + float(dice.normal(0, 2)), float(dice.random()), size=12))
        found += [
            box(image, int(dice.integers(0, 3)), float(dice.uniform(0, 60)), float(dice.random())) for _ in range(2)
        ]
    return [{**row, "id": k} for k, row in enumerate(truth, 1)], found


def test_recall_at_every_score_is_that_of_faster_coco_eval() -> None:
    truth, found = random_scenes()
    categories, images = [{"id": k, "name": str(k)} for k in range(3)], [{"id": k} for k in range(1, 31)]
    known = COCO(
        {"images": images, "categories": categories, "annotations": truth}, print_function=lambda *_, **__: None
    )
    judge = COCOeval_faster(known, known.loadRes(found), "bbox", print_function=lambda *_, **__: None)
    judge.run()
    recalls = judge.eval["recall"][0, :, 0, -1]  # (K,) at IoU 0.5, all areas, most detections
    evidence = Evidence(Boxes.of(found), Boxes.of(truth), 30)
    mine = [evidence.trades[k].recall[0] for k in range(3)]
    assert mine == pytest.approx(recalls.tolist())
    assert 0.2 < min(mine) < max(mine) < 1


def test_every_box_stands_once_in_the_confusion_matrix() -> None:
    truth, found = random_scenes()
    evidence = Evidence(Boxes.of(found), Boxes.of(truth), 30)
    table = evidence.confusion(3)
    assert table[:3].sum(axis=1).tolist() == [sum(row["category_id"] == k for row in truth) for k in range(3)]
    assert table[:, :3].sum() == sum(row["score"] >= evidence.threshold for row in found)
    assert table[3, 3] == 0
    assert table[:3, :3].diagonal().sum() > table[:3, :3].sum() / 2


def parts_of(found: list[Section], kind: type[Any]) -> list[Any]:
    return [part for section in found for part in section.parts if isinstance(part, kind)]


def test_sections_show_the_surest_error_first_and_where_it_is() -> None:
    truth = [box(1, 0, 0), box(2, 0, 0, size=40), box(3, 1, 0)]
    found = [box(1, 0, 0, 0.9), box(1, 1, 70, 0.95), box(3, 0, 0, 0.97), box(3, 1, 30, 0.1)]
    evidence = Evidence(Boxes.of(found), Boxes.of(truth), 3)
    places = [("a", "one"), ("a", "two"), ("b", "three")]
    shown = sections(evidence, ["cat", "dog"], places, {0: 0.5, 1: 0.0}, {0: np.ones(101), 1: np.zeros(101)})
    wrong, missed = parts_of(shown, Gallery)
    assert [(view.dataset, view.image_id) for view in wrong.rows[0]] == [("b", "three"), ("a", "one")]
    assert wrong.rows[0][0].caption == "said cat, truly dog (overlap 1.00)"
    assert wrong.rows[0][1].caption == "said dog, where nothing is labelled"
    assert [view.image_id for view in missed.rows[0]] == ["two", "three"]  # the largest first
    assert next(row for row in parts_of(shown, Table)[0].rows if row[0] == "cat")[1:4] == (2, 0.5, 1.0)
    assert parts_of(shown, Matrix)[0].rows[-1] == "background"


def test_nothing_true_shows_nothing() -> None:
    assert sections(Evidence(Boxes.of([box(1, 0, 0, 0.5)]), Boxes.of([]), 1), ["cat"], [("a", "1")], {}, {}) == []
