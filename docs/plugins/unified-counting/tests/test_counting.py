# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import torch
from PIL import Image
from unified_counting.answer import Counts, DensityOutput
from unified_counting.target import counted, density

import unified  # noqa: F401  (first: it lets torchvision be imported beside a CPU-only torch)
from unified.contracts.structures import Annotations, Batch, Frame, LabelState
from unified.testing import VOCABULARY, check_head, check_task, scene


def test_the_head_keeps_its_contract() -> None:
    check_head("density")


def test_the_task_keeps_its_contract() -> None:
    check_task("count")


def test_every_object_weighs_one_wherever_it_lies() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [30, 30, 60, 50], [90, 60, 96, 64]])
    known = Annotations(boxes_xyxy=boxes, box_labels=torch.tensor([1, 1, 0]), box_states=torch.full((3,), 3).char())
    found = density(known, 3, (8, 12), 8, spread=0.2)
    assert torch.allclose(found.sum(dim=(1, 2)), torch.tensor([1.0, 2.0, 0.0]), atol=1e-5)
    row, column = divmod(int(found[0].argmax()), 12)
    assert (row, column) == (7, 11)  # its middle, (93, 62) pixels, in cells of 8


def test_counts_are_known_only_where_somebody_looked() -> None:
    first, second = scene("tried", "boxes").annotations
    assert counted(first, "tried", 4)[0].tolist() == [1, 2, 0, 0]
    assert counted(second, "tried", 4)[1].tolist() == [True, True, True, False]
    crowd = Annotations(
        boxes_xyxy=torch.zeros(1, 4),
        box_labels=torch.tensor([1]),
        box_states=torch.tensor([int(LabelState.IGNORE)]).char(),
        states={"tried": torch.full((4,), int(LabelState.NEGATIVE)).char()},
    )
    assert counted(crowd, "tried", 4)[1].tolist() == [True, False, True, True]


def test_the_loss_by_hand() -> None:
    from unified_counting.task import CountTask

    task, batch = CountTask("tried", VOCABULARY), scene("tried", "boxes")
    perfect = torch.stack([density(a, 4, (8, 12), 8, 0.2) for a in batch.annotations])
    terms = task.loss(DensityOutput(perfect, 8), batch)
    assert float(terms["map"].count) == 7  # 4 + 3 known classes
    assert math.isclose(float(terms["map"].sum), 0, abs_tol=1e-2)
    assert math.isclose(float(terms["count"].sum), 0, abs_tol=1e-4)
    double = task.loss(DensityOutput(2 * perfect, 8), batch)  # of 5 objects: 2 (5 log(1 / 2) + 5)
    assert math.isclose(float(double["map"].sum), 10 * (1 - math.log(2)), rel_tol=1e-2)
    assert math.isclose(float(double["count"].sum), 10 * (1 - math.log(2)), rel_tol=1e-3)


def test_scores_by_hand() -> None:
    from unified_counting.metric import CountMetric

    metric, batch = CountMetric("tried", VOCABULARY.boxes), scene("tried", "boxes")
    said = torch.tensor([[1.0, 1, 0, 0], [1, 0, 2, 9]])  # true: 1 2 0 0, and 1 0 1 of which the last is unknown
    metric.update(DensityOutput(said[:, :, None, None], 8), [], Batch(batch.images, batch.annotations, batch.frames))
    found = metric.compute()
    assert found["MAE"] == 1.0 and math.isclose(found["MAE_class"], 2 / 7, rel_tol=1e-6)
    assert metric.sections() and metric.curves()["counts"]


def test_heat_follows_the_picture() -> None:
    heat = torch.zeros(4, 4)
    heat[1, 2] = 1
    counts = Counts(torch.tensor([1.0]), ("thing",), heat, cell=(8.0, 8.0))
    placed = counts.in_frame(Frame("", (64, 64), (0.5, 0.5), (0.0, 0.0)))  # the original is twice as large
    assert placed.cell == (16.0, 16.0)
    drawn = placed.drawn_on(Image.new("RGB", (64, 64)))
    red = [(drawn.getpixel((x, y))[0], x, y) for x in range(0, 64, 4) for y in range(30, 64, 4)]  # below the words
    _, x, y = max(red)
    assert 32 <= x < 48 and 28 <= y < 36
    assert placed.caption() == "1.0 objects" and placed.to_dict() == {"total": 1.0, "counts": {"thing": 1.0}}
