# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from detection_scenes import VOCABULARY, random_output
from torch import Tensor
from unified.tasks.detection import DetectionTask
from unified.tasks.detection.selection import Selection

from unified.boxes import iou_xyxy
from unified.contracts.errors import ConfigError
from unified.contracts.structures import Prediction, Vocabulary


def reference(boxes: Tensor, scores: Tensor, confidence: float, iou: float, limit: int) -> list[tuple[float, int, int]]:
    """Greedy suppression by class, one box at a time: (score, point, label), best first."""
    rows = [(float(s), p, k) for p, row in enumerate(scores) for k, s in enumerate(row) if s >= confidence]
    kept: list[tuple[float, int, int]] = []
    for score, p, k in sorted(rows, key=lambda row: -row[0]):
        if all(k != other or iou_xyxy(boxes[p], boxes[q]) <= iou for _, q, other in kept):
            kept.append((score, p, k))
    return kept[:limit]


def random_boxes(images: int = 2, points: int = 60, classes: int = 3) -> tuple[Tensor, Tensor]:
    low = torch.rand(images, points, 2) * 60
    return torch.cat([low, low + 10 + torch.rand(images, points, 2) * 40], -1), torch.rand(images, points, classes)


@pytest.mark.parametrize("iou", [0.3, 0.65])
@pytest.mark.parametrize("limit", [7, 300])
def test_selection_equals_brute_force(iou: float, limit: int) -> None:
    boxes, scores = random_boxes()
    shown = Selection(confidence=0.3, nms_iou=iou, max_boxes=limit)(boxes, scores)
    for image in range(2):
        expected = reference(boxes[image], scores[image], 0.3, iou, limit)
        got_boxes, got_scores, got_labels = shown[image]
        assert got_labels.tolist() == [k for _, _, k in expected]
        assert got_scores.tolist() == pytest.approx([s for s, _, _ in expected])
        assert torch.equal(got_boxes, boxes[image][[p for _, p, _ in expected]])


def test_the_cap_keeps_the_best_candidates() -> None:
    boxes, scores = random_boxes(images=1)
    got = Selection(confidence=0.0, nms_iou=1.0, candidates=9)(boxes, scores)[0][1]
    assert got.tolist() == scores.flatten().sort(descending=True).values[:9].tolist()


def test_best_class_answers_once_a_point() -> None:
    boxes, scores = random_boxes(images=1)
    _, got, labels = Selection(confidence=0.0, nms_iou=1.0, multi_label=False)(boxes, scores)[0]
    best, expected = scores[0].max(-1)
    order = best.argsort(descending=True)
    assert torch.equal(got, best[order])
    assert torch.equal(labels, expected[order])


def test_predictions_are_float32_on_the_cpu_best_first() -> None:
    task = DetectionTask("det", VOCABULARY)
    before = [Prediction((64, 64), tag_names=("kept",)), Prediction((64, 64))]
    after = task.predict(random_output(2), before, confidence=0.2, another_tasks_option=1)
    assert after[0].tag_names == ("kept",)
    for prediction in after:
        assert prediction.box_names == VOCABULARY.boxes
        assert prediction.boxes_xyxy is not None and prediction.boxes_xyxy.dtype == torch.float32
        assert prediction.scores is not None and prediction.labels is not None
        assert (prediction.scores.diff() <= 0).all() and prediction.scores.min() >= 0.2
        assert len(prediction.labels) == len(prediction.boxes_xyxy) == len(prediction.scores) > 0
        assert not prediction.boxes_xyxy.requires_grad


def test_options_of_a_call_go_before_the_tasks_own() -> None:
    task = DetectionTask("det", VOCABULARY, confidence=0.999999)
    output, blank = random_output(1), [Prediction((64, 64))]

    def count(**options: float) -> int:
        boxes = task.predict(output, blank, **options)[0].boxes_xyxy
        return len(boxes) if boxes is not None else -1

    assert count() == 0
    assert count(confidence=0.001, max_boxes=5) == 5
    assert count(confidence=0.001, nms_iou=0.1) < count(confidence=0.001, nms_iou=0.9)


def test_a_run_without_box_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="'det' detects boxes, but no dataset of the run names a box class"):
        DetectionTask("det", Vocabulary())
