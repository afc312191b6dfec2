# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from unified_heading.answer import HeadingOutput, Headings

import unified  # noqa: F401  (first: it lets torchvision be imported beside a CPU-only torch)
from unified.contracts.protocols import tasks
from unified.contracts.structures import Frame, Prediction
from unified.testing import VOCABULARY, check_head, check_task, scene


def test_the_head_keeps_its_contract() -> None:
    check_head("heading", outputs=2)


def test_the_task_keeps_its_contract() -> None:
    check_task("heading")


def everywhere(x: float, y: float) -> HeadingOutput:
    return HeadingOutput(torch.tensor([x, y]).view(1, 2, 1, 1).expand(2, 2, 8, 12), 8)


def test_the_loss_and_the_scores_by_hand() -> None:
    task, batch = tasks.get("heading")("tried", VOCABULARY), scene("tried", "boxes")
    _, vectors = task.known(batch.annotations[0])
    assert len(vectors) == 3  # the first and the third of which point left and up, the second right and up
    term = task.loss(everywhere(0.0, -3.0), batch)["turn"]
    every = torch.cat([task.known(each)[1] for each in batch.annotations])
    assert float(term.count) == 5 and float(term.sum) == pytest.approx(float((1 + every[:, 1]).sum()), rel=1e-5)
    metric = task.metric()
    metric.update(everywhere(0.0, -3.0), [], batch)
    off = torch.rad2deg(torch.acos(-every[:, 1]))
    assert metric.compute()["MedErr"] == pytest.approx(float(off.median()), abs=1e-3)
    assert metric.compute()["Acc30"] == pytest.approx(float((off < 30).float().mean()))


def test_boxes_of_another_task_get_arrows() -> None:
    task = tasks.get("heading")("tried", VOCABULARY)
    found = Prediction((64, 96), torch.tensor([[8.0, 8, 40, 40]]), torch.ones(1), torch.zeros(1).long(), ("thing",))
    said = task.predict(everywhere(1.0, 1.0), [found, Prediction((64, 96))])
    assert said[0].extras["tried"].degrees.tolist() == pytest.approx([45.0])
    assert "tried" not in said[1].extras


def test_a_stretched_picture_turns_what_it_shows() -> None:
    down_right = Headings(torch.tensor([[1.0, 1.0]]) / 2**0.5, torch.tensor([[0.0, 0, 10, 10]]))
    placed = down_right.in_frame(Frame("", (100, 50), (1.0, 0.5)))  # the original is twice as high
    assert placed.degrees.tolist() == pytest.approx([63.435], abs=1e-3)
    assert placed.boxes_xyxy.tolist() == [[0, 0, 10, 20]]
    assert placed.to_dict() == {"degrees": [63.4]} and placed.caption() == "63°"
    assert len(placed.select(torch.tensor([False])).vectors) == 0
