# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from torch import Tensor
from torchmetrics.functional.classification import multilabel_average_precision, multilabel_f1_score
from unified.tasks.multilabel import MultilabelTask
from unified.tasks.multilabel.metric import TagMetric, average_precision

from unified.contracts.structures import Annotations, Batch, Frame, LabelState, TagOutput, Vocabulary

U, X, N, P, E = (int(LabelState[name]) for name in ("UNLABELLED", "IGNORE", "NEGATIVE", "POSITIVE", "EMPTY"))


def metric_over(logits: Tensor, states: Tensor, parts: int = 1) -> TagMetric:
    tags = tuple(f"tag{a}" for a in range(logits.shape[1]))
    metric = MultilabelTask("cls", Vocabulary(tags=tags)).metric()
    for some_logits, some_states in zip(logits.chunk(parts), states.chunk(parts), strict=True):
        annotations = tuple(Annotations(states={"cls": row.to(torch.int8)}) for row in some_states)
        frames = tuple(Frame(str(i), (8, 8)) for i in range(len(annotations)))
        metric.update(TagOutput(some_logits), [], Batch(torch.zeros(len(annotations), 3, 8, 8), annotations, frames))
    return metric


def test_average_precision_by_hand() -> None:
    truth = np.array([True, False, True, False])
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.1]), truth) == pytest.approx((1 + 2 / 3) / 2)
    # Equal scores are one step: whoever comes first in the file must not matter.
    assert average_precision(np.array([0.5, 0.5, 0.5, 0.5]), truth) == pytest.approx(0.5)
    assert average_precision(np.array([0.5, 0.5, 0.5, 0.5]), truth[::-1]) == pytest.approx(0.5)


def test_fully_labelled_scores_equal_torchmetrics_and_scikit_learn() -> None:
    logits = (torch.randn(200, 6) * 2).round(decimals=1)  # rounding makes ties
    truth = torch.rand(200, 6) < torch.sigmoid(logits - 1)
    scores = metric_over(logits, torch.where(truth, P, N), parts=3).compute()
    p = logits.double().sigmoid()
    assert scores["mAP"] == pytest.approx(float(multilabel_average_precision(p, truth.int(), 6)), abs=1e-6)
    assert scores["mAP_micro"] == pytest.approx(
        float(multilabel_average_precision(p, truth.int(), 6, average="micro")), abs=1e-6
    )
    assert scores["F1_macro"] == pytest.approx(float(multilabel_f1_score(p, truth.int(), 6)), abs=1e-6)
    assert scores["F1_micro"] == pytest.approx(float(multilabel_f1_score(p, truth.int(), 6, average="micro")), abs=1e-6)
    assert scores["mAP"] == pytest.approx(average_precision_score(truth.numpy(), p.numpy(), average="macro"))
    assert scores["F1_macro"] == pytest.approx(f1_score(truth.numpy(), p.numpy() > 0.5, average="macro"))


def test_only_known_pairs_count() -> None:
    logits = torch.randn(300, 4)
    truth = torch.rand(300, 4) < torch.sigmoid(logits)
    states = torch.where(truth, P, N)
    hidden = torch.rand(300, 4) < 0.4
    blank = torch.where(torch.rand(300, 4) < 0.5, U, X)
    metric = metric_over(logits, torch.where(hidden, blank, states))
    scores = metric.compute()
    by_tag = [
        average_precision_score(truth[~hidden[:, a], a].numpy(), logits[~hidden[:, a], a].numpy()) for a in range(4)
    ]
    assert list(metric.per_class.values()) == pytest.approx(by_tag)
    assert scores["mAP"] == pytest.approx(np.mean(by_tag))
    assert scores["mAP_micro"] == pytest.approx(
        average_precision_score(truth[~hidden].numpy(), logits[~hidden].numpy())
    )
    # The same with the hidden labels read as absent is another number: the control of this test.
    wrong = metric_over(logits, torch.where(hidden, N, states)).compute()
    assert abs(wrong["mAP"] - scores["mAP"]) > 0.05
    # And what the network says where nobody looked changes nothing.
    other = metric_over(torch.where(hidden, -logits * 7, logits), torch.where(hidden, blank, states)).compute()
    assert other == scores


def test_tags_without_both_answers_are_left_out_and_empty_is_an_answer() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, 1.0], [-1.0, 2.0, 1.0, 0.5]])
    metric = metric_over(logits, torch.tensor([[P, P, N, P], [E, P, N, U]]))
    scores = metric.compute()
    assert metric.per_class == {"tag0": 1.0}
    assert scores["mAP"] == scores["F1_macro"] == 1.0
    # Known pairs: 2+ -1- 1+ 2+ 0- 1- 1+; at 0.5 all but -1 and 0 are said to hold: 4 right, 1 wrong, none missed.
    assert scores["F1_micro"] == pytest.approx(8 / 9)


def test_no_evidence_gives_no_score() -> None:
    metric = TagMetric("cls", ("a", "b"))
    assert metric.compute() == {} and metric.curves() == {}
    unlabelled = metric_over(torch.randn(3, 2), torch.full((3, 2), U))
    assert unlabelled.compute() == {} and unlabelled.curves() == {}


def test_order_of_images_does_not_matter() -> None:
    logits, states = torch.randn(50, 3).round(decimals=1), torch.randint(0, 5, (50, 3))
    order = torch.randperm(50)
    assert metric_over(logits, states).compute() == pytest.approx(metric_over(logits[order], states[order]).compute())


def test_curves_show_all_tags_and_at_most_ten_with_most_positives() -> None:
    logits = torch.randn(400, 12)
    share = torch.linspace(0.1, 0.9, 12)
    metric = metric_over(logits, torch.where(torch.rand(400, 12) < share, P, N))
    lines = metric.curves()["precision_recall"]
    assert [line.label for line in lines] == ["all tags", *(f"tag{a}" for a in range(11, 1, -1))]
    for line in lines:
        assert len(line.x) == len(line.y) <= 200
        assert list(line.x) == sorted(line.x) and line.x[-1] == 1.0
        assert all(0 <= y <= 1 for y in line.y)
