# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unified.contracts.protocols import Curve, Labels, Metric, Task
from unified.contracts.structures import Annotations, Frame, LabelState, LossTerm, Prediction
from unified.training.evaluator import Evaluation, Shown
from unified.training.exhibit import confident, retrieval_examples, truth
from unified.training.folder import RunFolder
from unified.training.monitor import StepRecord
from unified.training.report import (
    curve_plot,
    prediction_sheet,
    read_log,
    report,
    retrieval_strip,
    smoothed,
    write_plots,
)


def a_log(path: Path, steps: int = 60) -> None:
    lines = []
    for step in range(1, steps + 1):
        losses = {"det": 3 / step, "det/box": 1 / step, "det/class": 2 / step, "cls": math.nan if step == 3 else 0.5}
        lines.append(json.dumps(StepRecord(step, steps, step / 10, step, "a", 1e-3, losses, 90.0, 0.1).line()))
        if step % 20 == 0:
            lines.append(json.dumps({"step": step, "metrics": {"det/AP50": step / 100, "cls/mAP": 0.3}}))
    path.write_text("\n".join(lines) + '\n{"step": 61, "los')  # a crash cut the last line off


def is_picture(path: Path) -> bool:
    with Image.open(path) as image:
        return bool(np.asarray(image.convert("L")).std() > 5)


def test_a_log_is_read_up_to_where_a_crash_cut_it(tmp_path: Path) -> None:
    a_log(tmp_path / "log.jsonl")
    steps, evaluations = read_log(tmp_path / "log.jsonl")
    assert [entry["step"] for entry in steps] == list(range(1, 61))
    assert [entry["step"] for entry in evaluations] == [20, 40, 60]
    assert read_log(tmp_path / "none.jsonl") == ([], [])


def test_plots_of_a_log(tmp_path: Path) -> None:
    assert write_plots(tmp_path) == []
    a_log(tmp_path / "log.jsonl")
    drawn = write_plots(tmp_path)
    assert [path.name for path in drawn] == ["losses.png", "metrics.png"]
    assert all(is_picture(path) and path.stat().st_size < 300_000 for path in drawn)


def test_smoothing_keeps_a_constant_and_follows_a_step() -> None:
    assert smoothed([2.0] * 50) == pytest.approx([2.0] * 50)
    followed = smoothed([0.0] * 100 + [1.0] * 100)
    assert followed[99] == 0
    assert followed[110] == pytest.approx(1 - 0.9**11, abs=1e-3)  # a memory of ten of two hundred
    assert followed[-1] > 0.99
    assert smoothed([]) == []


def test_curves_few_and_many(tmp_path: Path) -> None:
    x = np.linspace(0, 1, 20).tolist()
    curves = [Curve(x, [(1 - v) * i / 30 for v in x], f"class {i}", "recall", "precision") for i in range(30)]
    few, many = curve_plot(curves[:3], tmp_path / "few.png", "few"), curve_plot(curves, tmp_path / "many.png", "many")
    assert is_picture(few)
    assert is_picture(many)


def shown(image: int, identity: int, vector: list[float]) -> Shown:
    """One picture with one true box, a sure prediction on it and an unsure one beside it."""
    pixels = torch.randint(0, 255, (3, 100, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(image))
    known = Annotations(
        boxes_xyxy=torch.tensor([[10.0, 10, 60, 60]]),
        box_labels=torch.tensor([1]),
        box_states=torch.tensor([LabelState.POSITIVE], dtype=torch.int8),
        box_identities=torch.tensor([identity]),
        states={"marks": torch.tensor([LabelState.POSITIVE, LabelState.NEGATIVE], dtype=torch.int8)},
    )
    prediction = Prediction(
        size=(100, 120),
        boxes_xyxy=torch.tensor([[11.0, 11, 61, 61], [70, 70, 90, 90]]),
        scores=torch.tensor([0.9, 0.01]),
        labels=torch.tensor([1, 0]),
        box_names=("cat", "dog"),
        tag_scores=torch.tensor([0.8, 0.7]),
        tag_names=("indoor", "night"),
        box_embeddings=torch.nn.functional.normalize(torch.tensor([vector, [1.0, 1.0]]), dim=1),
    )
    return Shown(pixels, known, Frame(str(image), (100, 120)), prediction)


PICTURES = [shown(0, 5, [1.0, 0.0]), shown(1, 7, [0.0, 1.0]), shown(2, 5, [1.0, 0.1]), shown(3, 9, [1.0, 0.5])]


class Plain(Task):
    """A task that says only what it must; how the truth is shown is left to the protocol's defaults."""

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        self.labels = labels  # type: ignore[misc]

    def loss(self, output: object, batch: object) -> dict[str, LossTerm]:
        return {}

    def predict(self, output: object, predictions: Sequence[Prediction], **options: object) -> list[Prediction]:
        return list(predictions)

    def metric(self) -> Metric:
        raise NotImplementedError


TASKS: dict[str, Task] = {"marks": Plain("tags"), "det": Plain("boxes")}


def test_only_likely_boxes_are_shown() -> None:
    kept = confident(PICTURES[0].prediction)
    assert kept.boxes_xyxy is not None
    assert kept.box_embeddings is not None
    assert len(kept.boxes_xyxy) == len(kept.box_embeddings) == 1
    assert confident(Prediction(size=(1, 1))) == Prediction(size=(1, 1))


def test_truth_is_the_annotations_in_the_shape_of_a_prediction() -> None:
    true = truth(PICTURES[0], TASKS)
    assert true.tags == {"indoor": 1.0, "night": 0.0}
    assert true.boxes_xyxy is not None
    assert true.boxes_xyxy.tolist() == [[10, 10, 60, 60]]
    assert truth(PICTURES[0], {}).tag_scores is None  # nobody said that these states are tags


def test_neighbours_come_from_other_images_nearest_first() -> None:
    examples = retrieval_examples(PICTURES)
    assert len(examples) == 1  # only identity 5 is there twice, and it asks once
    query, found = examples[0]
    assert query.shape == (50, 50, 3)
    assert [same for _, same in found] == [True, False, False]


def test_nothing_to_retrieve_draws_nothing() -> None:
    without = [replace(one, prediction=replace(one.prediction, box_embeddings=None)) for one in PICTURES]
    assert retrieval_examples(without) == []
    assert retrieval_examples(PICTURES[:2]) == []
    assert retrieval_examples([]) == []


def test_the_whole_report(tmp_path: Path) -> None:
    a_log(tmp_path / "log.jsonl")
    curves = {"det/PR": [Curve([0, 1], [1, 0], "all", "recall", "precision")], "cls/empty": []}
    drawn = report(RunFolder(tmp_path), Evaluation(curves=curves, shown=PICTURES), TASKS)
    names = ["losses.png", "metrics.png", "det-PR.png", "predictions.jpg", "retrieval.jpg"]
    assert [path.name for path in drawn] == names
    assert all(path.parent == tmp_path / "plots" and is_picture(path) for path in drawn)


def test_an_empty_evaluation_is_no_reason_to_fail(tmp_path: Path) -> None:
    assert report(RunFolder(tmp_path), Evaluation()) == []


def test_a_strip_marks_hits_and_misses_differently(tmp_path: Path) -> None:
    crop = np.full((40, 20, 3), 120, np.uint8)
    hit = np.asarray(Image.open(retrieval_strip([(crop, [(crop, True)])], tmp_path / "hit.png")))
    miss = np.asarray(Image.open(retrieval_strip([(crop, [(crop, False)])], tmp_path / "miss.png")))
    assert hit.shape == miss.shape
    assert not np.array_equal(hit, miss)


def test_a_sheet_takes_pictures_of_any_size(tmp_path: Path) -> None:
    images = [np.zeros((50 + 30 * i, 90, 3), np.uint8) for i in range(5)]
    said = [Prediction(size=image.shape[:2]) for image in images]
    assert is_picture(prediction_sheet(images, said, said, tmp_path / "sheet.png"))
