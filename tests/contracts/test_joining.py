# SPDX-License-Identifier: Apache-2.0
"""Two tasks of one kind: their boxes and tags as one prediction."""

from __future__ import annotations

from dataclasses import replace

import torch

from unified.contracts.joining import joined
from unified.contracts.structures import Prediction

BOXES = {"boxes_xyxy", "scores", "labels"}
BLANK = Prediction(size=(10, 10))


def boxes(names: tuple[str, ...], scores: list[float], labels: list[int]) -> Prediction:
    corners = torch.tensor(scores)[:, None].expand(-1, 4)
    return replace(
        BLANK,
        boxes_xyxy=corners,
        scores=torch.tensor(scores),
        labels=torch.tensor(labels, dtype=torch.int64),
        box_names=names,
    )


def test_boxes_stand_together_best_first_under_their_own_names() -> None:
    first, second = boxes(("cat", "dog"), [0.9, 0.4], [1, 0]), boxes(("helmet", "cat"), [0.5, 0.4, 0.1], [0, 1, 0])
    both = joined(first, second, BOXES)
    assert both.box_names == ("cat", "dog", "helmet")
    assert both.scores.tolist() == torch.tensor([0.9, 0.5, 0.4, 0.4, 0.1]).tolist()
    assert [both.box_names[i] for i in both.labels] == ["dog", "helmet", "cat", "cat", "helmet"]
    assert torch.equal(both.boxes_xyxy[:, 0], both.scores)


def test_no_boxes_leave_the_others_as_they_are() -> None:
    none, some = boxes(("a",), [], []), boxes(("b",), [0.5], [0])
    for pair in ((none, some), (some, none), (BLANK, some), (some, replace(BLANK, box_names=("a",)))):
        both = joined(*pair, BOXES)
        assert [both.box_names[i] for i in both.labels] == ["b"]
        assert both.scores.tolist() == [0.5]


def test_a_tag_that_both_know_has_the_score_of_the_first() -> None:
    first = replace(BLANK, tag_scores=torch.tensor([0.1, 0.2]), tag_names=("wet", "dark"))
    second = replace(BLANK, tag_scores=torch.tensor([0.9, 0.8]), tag_names=("dark", "foggy"))
    both = joined(first, second, {"tag_scores"})
    assert both.tag_names == ("wet", "dark", "foggy")
    assert both.tag_scores.tolist() == torch.tensor([0.1, 0.2, 0.8]).tolist()
    assert joined(BLANK, second, {"tag_scores"}).tags == second.tags


def test_the_first_vector_stays_and_what_only_the_second_said_is_taken() -> None:
    first, second = replace(BLANK, embedding=torch.ones(3)), replace(BLANK, embedding=torch.zeros(3), extras={"x": 1})
    both = joined(first, second, {"embedding", "box_embeddings"})
    assert torch.equal(both.embedding, torch.ones(3))
    assert both.extras == {"x": 1}
