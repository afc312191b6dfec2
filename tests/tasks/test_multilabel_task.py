# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from unified.tasks.multilabel import MultilabelTask
from unified.tasks.multilabel.loss import asymmetric_loss

from unified.contracts.errors import ConfigError
from unified.contracts.structures import (
    Annotations,
    Batch,
    Frame,
    LabelState,
    Prediction,
    TagOutput,
    Vocabulary,
)

U, X, N, P, E = (int(LabelState[name]) for name in ("UNLABELLED", "IGNORE", "NEGATIVE", "POSITIVE", "EMPTY"))
VOCABULARY = Vocabulary(tags=("cat", "dark", "dog", "wet", "red"))


def batch_of(states: list[list[int] | None]) -> Batch:
    annotations = tuple(
        Annotations() if row is None else Annotations(states={"cls": torch.tensor(row, dtype=torch.int8)})
        for row in states
    )
    frames = tuple(Frame(str(i), (8, 8)) for i in range(len(states)))
    return Batch(torch.zeros(len(states), 3, 8, 8), annotations, frames)


def loss_of(logits: Tensor, states: list[list[int] | None], **options: object) -> tuple[float, float, Tensor]:
    """Sum, count and the gradient of the sum."""
    logits = logits.clone().requires_grad_()
    task = MultilabelTask("cls", VOCABULARY, **options)  # type: ignore[arg-type]
    (term,) = task.loss(TagOutput(logits), batch_of(states)).values()
    (grad,) = torch.autograd.grad(term.sum, logits)
    assert not term.count.requires_grad
    return term.sum.item(), term.count.item(), grad


def test_bce_by_hand_over_known_pairs() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, 9.0, 9.0], [3.0, 3.0, 3.0, 3.0, -2.0]])
    total, count, _ = loss_of(logits, [[P, N, E, U, X], [U, U, U, U, P]])

    def cost(x: float, positive: bool) -> float:
        return math.log1p(math.exp(-x if positive else x))

    assert count == 4
    assert total == pytest.approx(cost(2, True) + cost(-1, False) + cost(0.5, False) + cost(-2, True), rel=1e-6)


@pytest.mark.parametrize("loss", ["bce", "asymmetric"])
def test_unknown_labels_have_exactly_no_gradient_and_known_ones_have_some(loss: str) -> None:
    states = [[P, N, E, U, X], None, [X, U, P, N, N]]
    logits = torch.rand(3, 5) * 4 - 1
    _, count, grad = loss_of(logits, states, loss=loss)
    silent = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], dtype=torch.bool)
    assert not grad[silent].any()
    assert count == int((~silent).sum())
    by_hand = F.binary_cross_entropy_with_logits(logits, torch.zeros(3, 5), reduction="none")
    assert by_hand[silent].min() > 0  # read as background these would have cost something
    assert grad[0, 0] < 0 < grad[0, 1]
    assert grad[0, 2] > 0  # an image verified as empty teaches absence


def test_not_even_an_infinite_unknown_logit_leaks() -> None:
    logits = torch.tensor([[1.0, float("inf"), float("nan"), 0.0, 0.0]])
    total, count, grad = loss_of(logits, [[P, U, X, U, U]])
    assert math.isfinite(total) and torch.isfinite(grad).all() and count == 1


def test_nothing_labelled_gives_a_zero_on_the_graph() -> None:
    total, count, grad = loss_of(torch.randn(2, 5), [None, [U, U, X, X, U]])
    assert (total, count) == (0.0, 0.0)
    assert not grad.any()


def test_labels_of_another_task_are_not_read() -> None:
    batch = batch_of([[P, P, P, P, P]])
    (term,) = MultilabelTask("other", VOCABULARY).loss(TagOutput(torch.randn(1, 5)), batch).values()
    assert term.count == 0


def reference_asymmetric(x: float, y: int, gamma_negative: float, gamma_positive: float, clip: float) -> float:
    """Ridnik et al. 2021, eq. 5-7, in plain arithmetic."""
    p = 1 / (1 + math.exp(-x))
    if y:
        return -((1 - p) ** gamma_positive) * math.log(p)
    q = max(p - clip, 0.0)
    return -(q**gamma_negative) * math.log(1 - q)


@pytest.mark.parametrize("shape", [(4.0, 0.0, 0.05), (2.0, 1.0, 0.0), (0.0, 0.0, 0.0), (0.5, 0.5, 0.2)])
def test_asymmetric_loss_equals_the_written_formula(shape: tuple[float, float, float]) -> None:
    logits = torch.linspace(-6, 6, 25, dtype=torch.float64)
    for y in (0, 1):
        ours = asymmetric_loss(logits, torch.full_like(logits, y), *shape)
        hand = [reference_asymmetric(x, y, *shape) for x in logits.tolist()]
        assert torch.allclose(ours, torch.tensor(hand, dtype=torch.float64), atol=1e-7)


def test_asymmetric_gradient_equals_differences_and_is_finite_far_out() -> None:
    logits = torch.linspace(-4, 4, 9, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: asymmetric_loss(x, targets, 4.0, 1.0, 0.05), logits)
    far = torch.tensor([-200.0, 200.0, -200.0, 200.0], requires_grad=True)
    asymmetric_loss(far, torch.tensor([0.0, 0.0, 1.0, 1.0]), 0.5, 0.5, 0.05).sum().backward()
    assert far.grad is not None and torch.isfinite(far.grad).all()


def test_easy_negatives_cost_nothing_under_the_clip() -> None:
    _, _, grad = loss_of(torch.full((1, 5), -4.0), [[N, N, N, N, P]], loss="asymmetric")
    assert not grad[0, :4].any() and grad[0, 4] < 0
    _, _, control = loss_of(torch.full((1, 5), -4.0), [[N, N, N, N, P]], loss="bce")
    assert control[0, :4].all()


def test_loss_is_float32_for_bf16_logits() -> None:
    (term,) = (
        MultilabelTask("cls", VOCABULARY)
        .loss(TagOutput(torch.randn(1, 5).bfloat16()), batch_of([[P, N, N, N, N]]))
        .values()
    )
    assert term.sum.dtype == torch.float32


def test_predict_fills_scores_and_names_and_keeps_the_rest() -> None:
    task = MultilabelTask("cls", VOCABULARY)
    logits = torch.tensor([[0.0, 100.0, -100.0, 1.0, 2.0]], requires_grad=True)
    before = Prediction((8, 8), embedding=torch.ones(2))
    (after,) = task.predict(TagOutput(logits), [before])
    assert after.tag_scores is not None and not after.tag_scores.requires_grad
    assert after.tag_scores.tolist() == pytest.approx([0.5, 1.0, 0.0, 0.7310586, 0.8807970], abs=1e-6)
    assert next(iter(after.tags)) == "dark"
    assert after.embedding is before.embedding


def test_contract_words() -> None:
    task = MultilabelTask("cls", VOCABULARY)
    assert (task.labels, task.default_head, task.outputs, task.primary) == ("tags", "multilabel", 5, "mAP")
    assert task.provides == ("tag_scores",) and task.uses == ()
    assert list(task.parameters()) == []


def test_bad_options_are_named() -> None:
    with pytest.raises(ConfigError, match=r"task 'cls': no dataset of this run offers tags"):
        MultilabelTask("cls", Vocabulary())
    with pytest.raises(ConfigError, match=r"unknown loss 'asymetric'.*did you mean 'asymmetric'"):
        MultilabelTask("cls", VOCABULARY, loss="asymetric")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"clip must lie in \[0, 1\), got 4.0, 0.0 and 1.0"):
        MultilabelTask("cls", VOCABULARY, clip=1.0)
