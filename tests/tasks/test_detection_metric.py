# SPDX-License-Identifier: Apache-2.0
import contextlib
import copy
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from detection_scenes import VOCABULARY, annotations, batch_of
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from unified.tasks.detection.coco import BOX_NAMES, coco_scores
from unified.tasks.detection.metric import REPORTED, DetectionMetric
from unified.tasks.detection.voc import voc_ap

from unified.contracts.structures import Annotations, Batch, Frame, Prediction

UNKNOWN, IGNORE, NO, YES = 0, 1, 2, 3


def found(boxes: list[list[float]], labels: list[int], scores: list[float], size: int = 64) -> Prediction:
    return Prediction(
        (size, size),
        boxes_xyxy=torch.tensor(boxes).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        scores=torch.tensor(scores),
        box_names=VOCABULARY.boxes,
    )


def measured(batch: Batch, *predictions: Prediction) -> dict[str, float]:
    metric = DetectionMetric("det", VOCABULARY.boxes)
    metric.update(None, predictions, batch)
    return metric.compute()


def random_scene(size: int = 400) -> tuple[Annotations, Prediction]:
    """Truth with small, middle and large boxes and a crowd; detections near the truth, some wrong, some missing."""
    low, side = torch.rand(8, 2) * (size - 150), torch.rand(8, 1) * 140 + 8
    boxes, labels = torch.cat([low, low + side * (0.7 + 0.6 * torch.rand(8, 2))], 1), torch.randint(3, (8,))
    truth = annotations(boxes.tolist(), labels.tolist(), crowd=[0])
    kept = torch.rand(8) < 0.85
    noisy = boxes[kept] + torch.randn(int(kept.sum()), 4) * side[kept] * 0.08
    stray = torch.cat([noisy, noisy[:3] + 3, boxes[:1] * 0.9])
    stray = torch.cat([stray[:, :2], torch.maximum(stray[:, 2:], stray[:, :2] + 1)], 1).clamp(0, size)
    guess = torch.cat([labels[kept], labels[kept][:3], labels[:1]])
    scores = torch.rand(len(stray))
    return truth, found(stray.tolist(), guess.tolist(), scores.tolist(), size)


def by_pycocotools(batch: Batch, predictions: list[Prediction]) -> dict[str, float]:
    def xywh(boxes: Tensor) -> list[list[float]]:
        boxes = boxes.double()
        return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()

    rows, answers = [], []
    for i, (truth, guess) in enumerate(zip(batch.annotations, predictions, strict=True)):
        columns = zip(
            xywh(truth.boxes_xyxy), truth.box_labels.tolist(), truth.box_areas.tolist(), truth.box_crowd, strict=True
        )
        for box, label, area, crowd in columns:
            row = {"image_id": i, "category_id": label, "bbox": box, "area": area, "iscrowd": int(crowd)}
            rows.append({**row, "id": len(rows) + 1})
        for box, label, score in zip(xywh(guess.boxes_xyxy), guess.labels.tolist(), guess.scores.tolist(), strict=True):
            answers.append({"image_id": i, "category_id": label, "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(predictions))],
            "categories": [{"id": k, "name": name} for k, name in enumerate(VOCABULARY.boxes)],
            "annotations": rows,
        }
        known.createIndex()
        evaluation = COCOeval(known, known.loadRes(answers), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(BOX_NAMES, evaluation.stats.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_pycocotools(seed: int) -> None:
    torch.manual_seed(seed)
    truths, guesses = zip(*(random_scene() for _ in range(12)), strict=True)
    batch = batch_of(*truths, size=400)
    got, expected = measured(batch, *guesses), by_pycocotools(batch, list(guesses))
    assert 0.1 < got["AP"] < 0.95
    assert got == pytest.approx({name: expected[name] for name in REPORTED if expected[name] >= 0}, abs=1e-9)


@pytest.mark.parametrize("iou_type", ["bbox", "segm", "keypoints"])
def test_published_scores(shared: Path, iou_type: str, capfd: pytest.CaptureFixture[str]) -> None:
    folder = shared / "fixtures" / "eval"
    expected = json.loads((folder / "expected_coco.json").read_text())[iou_type]
    truth = json.loads((folder / expected["gt"]).read_text())
    detections = json.loads((folder / expected["dt"]).read_text())
    before = copy.deepcopy(detections[:5])
    got = coco_scores(truth, detections, iou_type)
    assert list(got.values()) == pytest.approx(expected["stats"], abs=1e-6)
    assert detections[:5] == before  # the caller's rows are left alone
    assert capfd.readouterr().out == ""


def test_letterboxed_images_score_the_same() -> None:
    truths, guesses = zip(*(random_scene() for _ in range(6)), strict=True)
    plain = measured(batch_of(*truths, size=400), *guesses)
    frame = Frame("0", (400, 400), scale=(0.5, 0.5), offset=(12.0, 30.0))
    fitted = batch_of(*(replace(t, boxes_xyxy=frame.to_input(t.boxes_xyxy)) for t in truths), size=400)
    fitted = replace(fitted, frames=(frame,) * 6)
    moved = [replace(g, boxes_xyxy=frame.to_input(g.boxes_xyxy)) for g in guesses]
    assert measured(fitted, *moved) == pytest.approx(plain, abs=1e-6)
    assert measured(fitted, *guesses)["AP"] < plain["AP"]  # the control: unmoved boxes are wrong


def test_several_updates_equal_one() -> None:
    truths, guesses = zip(*(random_scene() for _ in range(4)), strict=True)
    metric = DetectionMetric("det", VOCABULARY.boxes)
    for truth, guess in zip(truths, guesses, strict=True):
        metric.update(None, [guess], batch_of(truth, size=400))
    assert metric.compute() == measured(batch_of(*truths, size=400), *guesses)


def test_a_class_counts_only_where_it_is_known() -> None:
    box = [10.0, 10.0, 40.0, 40.0]
    sure = annotations([box], [0], states=(YES, NO, NO))
    right = found([box], [0], [0.5])
    wrong = found([box], [0], [0.9])
    for state in (UNKNOWN, IGNORE):
        silent = annotations([], [], states=(state, NO, NO))
        assert measured(batch_of(sure, silent), right, wrong)["AP"] == pytest.approx(1.0)
    empty = annotations([], [], states=(NO, NO, NO))
    assert measured(batch_of(sure, empty), right, wrong)["AP"] == pytest.approx(0.5)
    missed = annotations([box], [0], states=(UNKNOWN, NO, NO))
    nothing = found([], [], [])
    assert measured(batch_of(sure, missed), right, nothing)["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("how", ["ignored", "crowd"])
def test_what_lies_in_an_ignored_box_is_neither_right_nor_wrong(how: str) -> None:
    boxes = [[0.0, 0.0, 20.0, 20.0], [30.0, 30.0, 60.0, 60.0]]
    guess = found([boxes[1], boxes[0]], [0, 0], [0.9, 0.5])
    flags = {how: [1]}
    assert measured(batch_of(annotations(boxes, [0, 0], **flags)), guess)["AP"] == pytest.approx(1.0)
    assert measured(batch_of(annotations(boxes[:1], [0])), guess)["AP"] == pytest.approx(0.5)


def test_nothing_found_is_zero_and_nothing_to_find_is_left_out() -> None:
    box = [10.0, 10.0, 40.0, 40.0]
    nothing = found([], [], [])
    scores = measured(batch_of(annotations([box], [0])), nothing)
    assert scores["AP"] == scores["AP50"] == scores["AR100"] == 0.0
    assert "APm" not in scores and "APl" not in scores  # the box is a small one
    assert measured(batch_of(annotations([], [])), found([box], [0], [0.9])) == {}
    assert measured(batch_of(annotations([], [])), nothing) == {}


def test_scores_by_class_and_curves() -> None:
    boxes = [[0.0, 0.0, 20.0, 20.0], [30.0, 30.0, 60.0, 60.0]]
    metric = DetectionMetric("det", VOCABULARY.boxes)
    assert metric.curves() == {}
    metric.update(None, [found([boxes[0]], [0], [0.9])], batch_of(annotations(boxes, [0, 2])))
    assert metric.compute()["AP"] == pytest.approx(0.5)
    assert metric.per_class == pytest.approx({"ant": 1.0, "cow": 0.0})
    lines = {curve.label: curve for curve in metric.curves()["pr"]}
    assert list(lines) == ["mean", "ant", "cow"]
    assert set(lines["mean"].y) == {0.5} and set(lines["ant"].y) == {1.0} and set(lines["cow"].y) == {0.0}
    assert len(lines["mean"].x) == len(lines["mean"].y) == 101


def read_voc(file: Path, skip: int) -> Tensor:
    rows = [[float(word) for word in line.split()[1:]] for line in file.read_text().splitlines() if line.strip()]
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4 + skip)
    low, side = table[:, skip : skip + 2], table[:, skip + 2 :]
    return torch.cat([low, low + side, table[:, :skip]], 1)


@pytest.mark.parametrize(("points", "expected"), [("every", 24.57), ("eleven", 26.84)])
def test_voc_scores_as_published(shared: Path, points: str, expected: float) -> None:
    folder = shared / "fixtures" / "eval" / "voc_ap"
    truths = [read_voc(file, 0) for file in sorted((folder / "groundtruths").iterdir())]
    rows = [read_voc(file, 1) for file in sorted((folder / "detections").iterdir())]
    ap = voc_ap(truths, [r[:, :4] for r in rows], [r[:, 4] for r in rows], iou=0.3, points=points, inclusive=True)
    assert ap is not None
    assert 100 * ap == pytest.approx(expected, abs=0.01)


def test_voc_by_hand() -> None:
    truth = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    guess = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [20.0, 0.0, 30.0, 10.0]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    # Hit, repeat, hit: precision 1 at recall .5, then 2/3 at recall 1.
    assert voc_ap([truth], [guess], [scores]) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert voc_ap([truth], [guess], [scores], points="eleven") == pytest.approx((6 + 5 * 2 / 3) / 11)
    assert voc_ap([truth], [guess[:0]], [scores[:0]]) == 0.0
    assert voc_ap([truth[:0]], [guess], [scores]) is None
    shifted = [torch.tensor([[0.0, 0.0, 1.0, 9.0]])]
    half = [torch.tensor([[0.0, 0.0, 2.0, 9.0]])]  # IoU 9/18, with borders counted 20/30
    assert voc_ap(half, shifted, [scores[:1]], iou=0.6) == 0.0
    assert voc_ap(half, shifted, [scores[:1]], iou=0.6, inclusive=True) == 1.0
