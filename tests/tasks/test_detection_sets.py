# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from detection_scenes import VOCABULARY, annotations, batch_of
from torch import Tensor
from torchvision.ops import generalized_box_iou, sigmoid_focal_loss
from unified.tasks.detection import DetectionTask, set_loss
from unified.tasks.detection.matching import HungarianMatcher, assign, focal, normalised
from unified.tasks.detection.set_loss import covered
from unified.tasks.detection.targets import BoxTargets, FlatBoxes

from unified.boxes import generalized_iou_xyxy
from unified.contracts.structures import Annotations, Batch, LossTerm, Prediction, QueryBoxOutput

UNKNOWN, IGNORE, NO, YES, EMPTY = 0, 1, 2, 3, 4
SIZE = 64


@pytest.fixture
def task() -> DetectionTask:
    return DetectionTask("det", VOCABULARY)


def random_output(images: int = 2, queries: int = 6, layers: int = 2, classes: int = 3) -> QueryBoxOutput:
    boxes = torch.cat([torch.rand(layers, images, queries, 2), 0.1 + 0.3 * torch.rand(layers, images, queries, 2)], -1)
    logits = torch.randn(layers, images, queries, classes)
    return QueryBoxOutput(logits.requires_grad_(), boxes.requires_grad_(), (SIZE, SIZE))


def total(terms: dict[str, LossTerm]) -> Tensor:
    return sum((t.weight * t.sum / t.count.clamp(min=1) for t in terms.values()), torch.zeros(()))


def sums(terms: dict[str, LossTerm]) -> dict[str, float]:
    return {name: float(term.sum.detach()) for name, term in terms.items()}


def truth_output(batch: Batch, queries: int = 5, layers: int = 2, sure: float = 20.0) -> QueryBoxOutput:
    """What a head that knows everything would say: the truth in the last queries, nothing in the others."""
    logits = torch.full((layers, len(batch), queries, 3), -sure)
    boxes = torch.full((layers, len(batch), queries, 4), 0.9)
    for i, truth in enumerate(batch.annotations):
        for n, (box, label) in enumerate(zip(truth.boxes_xyxy, truth.box_labels, strict=True)):
            boxes[:, i, queries - 1 - n] = normalised(box[None], (SIZE, SIZE))[0]
            logits[:, i, queries - 1 - n, label] = sure
    return QueryBoxOutput(logits, boxes, (SIZE, SIZE))


TWO = batch_of(
    annotations([[4, 4, 20, 30], [30, 10, 60, 40]], [0, 2]),
    annotations([[10, 34, 50, 60]], [1]),
)

# --- matching -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (5, 3), (3, 5), (6, 0)])
def test_the_assignment_is_the_best_of_all(shape: tuple[int, int]) -> None:
    for _ in range(10):
        table = torch.randn(shape)
        pairs = assign(table)
        rows, columns = shape
        assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == min(shape)
        if rows >= columns:
            best = min(sum(float(table[r, c]) for c, r in enumerate(p)) for p in permutations(range(rows), columns))
        else:
            best = min(sum(float(table[r, c]) for r, c in enumerate(p)) for p in permutations(range(columns), rows))
        assert sum(float(table[r, c]) for r, c in pairs) == pytest.approx(best, abs=1e-5)


def test_the_nearest_is_not_always_taken() -> None:
    """Greedy matching would pay 0 + 10; together 1 + 1 is less."""
    assert sorted(assign(torch.tensor([[0.0, 1.0], [1.0, 10.0]]))) == [(0, 1), (1, 0)]


def test_numbers_of_a_diverged_network_are_no_crash() -> None:
    table = torch.tensor([[float("nan"), float("inf")], [0.0, float("nan")]])
    assert (1, 0) in assign(table)


def test_the_cost_by_hand() -> None:
    # Said (16, 16, 48, 48), true (16, 16, 48, 32) of 64 pixels: IoU .5 and no empty corner; cy, h differ by 1/8, 1/4.
    output = QueryBoxOutput(torch.zeros(1, 1, 1, 3), torch.tensor([0.5, 0.5, 0.5, 0.5]).view(1, 1, 1, 4), (64, 64))
    wanted = FlatBoxes(torch.zeros(1, dtype=torch.int64), torch.tensor([[16.0, 16, 48, 32]]), torch.tensor([1]))
    saved = (0.25 - 0.75) * 0.25 * math.log(2)  # focal loss of a yes less that of a no, at one half
    costs = HungarianMatcher(class_cost=2, l1_cost=5, giou_cost=3).costs(output, 0, wanted)
    assert costs.shape == (1, 1, 1)
    assert float(costs) == pytest.approx(2 * saved + 5 * 0.375 - 3 * 0.5, rel=1e-5)


def test_every_layer_and_image_is_matched_on_its_own() -> None:
    output = random_output(images=2, queries=5, layers=3)
    wanted = BoxTargets.of(TWO, "det", 3).wanted
    match = HungarianMatcher()(output, wanted)
    assert len(match.box) == 3 * 3
    for layer in range(3):
        here = match.layer == layer
        assert sorted(match.box[here].tolist()) == [0, 1, 2]
        assert torch.equal(match.image[here], wanted.image[match.box[here]])
        places = list(zip(match.image[here].tolist(), match.query[here].tolist(), strict=True))
        assert len(set(places)) == 3


def test_the_truth_finds_its_own_queries() -> None:
    output = truth_output(TWO)
    match = HungarianMatcher()(output, BoxTargets.of(TWO, "det", 3).wanted)
    for image, query, box in zip(match.image.tolist(), match.query.tolist(), match.box.tolist(), strict=True):
        assert query == {0: 4, 1: 3, 2: 4}[box] and image == {0: 0, 1: 0, 2: 1}[box]


def test_more_boxes_than_queries_leave_the_worst_without() -> None:
    boxes = [[4.0 * i, 4, 4.0 * i + 8, 20] for i in range(6)]
    batch = batch_of(annotations(boxes, [0] * 6))
    output = random_output(images=1, queries=4, layers=1)
    match = HungarianMatcher()(output, BoxTargets.of(batch, "det", 3).wanted)
    assert len(set(match.query.tolist())) == len(set(match.box.tolist())) == 4


# --- losses ---------------------------------------------------------------------------------------------------------


def test_generalised_iou_equals_torchvision() -> None:
    low = torch.rand(12, 2) * 50
    boxes = torch.cat([low, low + 1 + torch.rand(12, 2) * 40], -1)
    found = generalized_iou_xyxy(boxes[:, None], boxes[None])
    assert torch.allclose(found, generalized_box_iou(boxes, boxes), atol=1e-5)
    assert found.min() < -0.1
    apart = generalized_iou_xyxy(torch.tensor([0.0, 0, 1, 1]), torch.tensor([3.0, 0, 4, 1]))
    assert float(apart) == pytest.approx(-0.5)  # half of the enclosing 4 x 1 is empty


def test_focal_loss_equals_torchvision() -> None:
    logits = torch.randn(50) * 4
    for positive in (True, False):
        expected = sigmoid_focal_loss(logits, torch.full_like(logits, float(positive)), alpha=0.25, gamma=2)
        assert torch.allclose(focal(logits, positive), expected, atol=1e-6)


def test_losses_by_hand(task: DetectionTask) -> None:
    """Two queries, one box, every logit zero: of six answers one is a yes."""
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1]]).view(1, 1, 2, 4)
    output = QueryBoxOutput(torch.zeros(1, 1, 2, 3), boxes, (64, 64))
    terms = task.loss(output, batch_of(annotations([[16, 16, 48, 32]], [1])))
    bit = 0.25 * math.log(2)  # (1 - p)² log 2 at one half
    assert sums(terms) == pytest.approx({"class": (0.25 + 5 * 0.75) * bit, "l1": 0.375, "giou": 0.5}, rel=1e-5)
    assert {name: (float(t.count), t.weight) for name, t in terms.items()} == {
        "class": (1, 2.0), "l1": (1, 5.0), "giou": (1, 2.0),
    }  # fmt: skip


def test_layers_are_added_and_boxes_counted_once(task: DetectionTask) -> None:
    one = random_output(layers=1)
    three = replace(
        one, class_logits=one.class_logits.repeat(3, 1, 1, 1), boxes_cxcywh=one.boxes_cxcywh.repeat(3, 1, 1, 1)
    )
    single, triple = task.loss(one, TWO), task.loss(three, TWO)
    assert sums(triple) == pytest.approx({name: 3 * value for name, value in sums(single).items()}, rel=1e-5)
    assert all(float(term.count) == 3 for term in (*single.values(), *triple.values()))


def test_the_order_of_queries_changes_nothing(task: DetectionTask) -> None:
    output = random_output()
    order = torch.randperm(6)
    shuffled = replace(
        output, class_logits=output.class_logits[:, :, order], boxes_cxcywh=output.boxes_cxcywh[:, :, order]
    )
    assert sums(task.loss(shuffled, TWO)) == pytest.approx(sums(task.loss(output, TWO)), rel=1e-5)


def test_the_truth_costs_nothing_and_scores_everything(task: DetectionTask) -> None:
    output = truth_output(TWO)
    assert float(total(task.loss(output, TWO))) < 1e-4
    metric = task.metric()
    metric.update(output, task.predict(output, [Prediction((SIZE, SIZE))] * 2, confidence=0.0), TWO)
    assert metric.compute()["AP"] == pytest.approx(1.0)


def test_the_loss_falls_towards_the_truth(task: DetectionTask) -> None:
    truth, start = truth_output(TWO, sure=4.0), random_output(queries=5)
    values = []
    for share in torch.linspace(0, 1, 6):
        logits = (1 - share) * start.class_logits + share * truth.class_logits
        boxes = (1 - share) * start.boxes_cxcywh + share * truth.boxes_cxcywh
        values.append(float(total(task.loss(QueryBoxOutput(logits, boxes, (SIZE, SIZE)), TWO)).detach()))
    assert values == sorted(values, reverse=True)


def test_every_number_of_every_layer_is_taught(task: DetectionTask) -> None:
    output = random_output(queries=2)
    gradients = torch.autograd.grad(total(task.loss(output, TWO)), [output.class_logits, output.boxes_cxcywh])
    assert (gradients[0] != 0).all()
    assert (gradients[1][:, 0] != 0).any(dim=-1).all()  # both queries of the first image have a box to learn
    assert all(g.isfinite().all() for g in gradients)


def test_half_precision_is_finite(task: DetectionTask) -> None:
    output = random_output()
    half = replace(output, class_logits=(output.class_logits * 30).half())
    assert all(t.sum.isfinite() and t.sum.dtype == torch.float32 for t in task.loss(half, TWO).values())


# --- label states ---------------------------------------------------------------------------------------------------


def class_gradient(task: DetectionTask, truth: Annotations, output: QueryBoxOutput | None = None) -> Tensor:
    """Gradient of the class logits (L, Q, 3) of one image."""
    torch.manual_seed(1)
    output = output or random_output(images=1)
    return torch.autograd.grad(total(task.loss(output, batch_of(truth))), output.class_logits)[0][:, 0]


def teaches_the_unknown(task: DetectionTask, state: int) -> bool:
    """Whether a class of this state is pushed anywhere where nobody looked for it."""
    gradient = class_gradient(task, annotations([[10, 10, 40, 44]], [0], states=(YES, NO, state)))
    assert (gradient[..., :2] != 0).all()
    return bool((gradient[..., 2] != 0).any())


@pytest.mark.parametrize("state", [UNKNOWN, IGNORE])
def test_a_class_that_is_not_known_is_not_background(task: DetectionTask, state: int) -> None:
    assert not teaches_the_unknown(task, state)
    assert teaches_the_unknown(task, NO)


def test_without_the_guard_the_unknown_would_be_background(
    task: DetectionTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: the same question has the other answer once the mask is taken out."""
    partial = batch_of(annotations([[10, 10, 40, 44]], [0], states=(YES, NO, UNKNOWN)))
    output = random_output(images=1)
    with_guard = sums(task.loss(output, partial))
    monkeypatch.setattr(set_loss, "scored", lambda output, *_: torch.ones_like(output.class_logits, dtype=torch.bool))
    assert teaches_the_unknown(task, UNKNOWN)
    without = sums(task.loss(output, partial))
    assert without["class"] > with_guard["class"] + 0.1
    assert without["l1"] == with_guard["l1"]


def test_an_unlabelled_batch_gives_zeros_that_touch_the_graph(task: DetectionTask) -> None:
    output = random_output()
    batch = batch_of(annotations([[10, 10, 40, 44]], [0], states=None), annotations([], [], states=None))
    terms = task.loss(output, batch)
    assert [(float(t.sum.detach()), float(t.count)) for t in terms.values()] == [(0.0, 0.0)] * 3
    for gradient in torch.autograd.grad(sum(t.sum for t in terms.values()), [output.class_logits, output.boxes_cxcywh]):
        assert (gradient == 0).all()


def test_an_image_verified_as_empty_teaches_background(task: DetectionTask) -> None:
    output = random_output(images=1)
    terms = task.loss(output, batch_of(annotations([], [], states=(EMPTY,) * 3)))
    assert sums(terms)["l1"] == sums(terms)["giou"] == 0.0
    assert (torch.autograd.grad(terms["class"].sum, output.class_logits)[0] > 0).all()


@pytest.mark.parametrize(("how", "quiet"), [("ignored", [1]), ("crowd", [0, 1, 2])])
def test_queries_in_an_ignored_box_are_not_punished_for_its_class(
    task: DetectionTask, how: str, quiet: list[int]
) -> None:
    boxes = torch.tensor([[0.25, 0.25, 0.2, 0.2], [0.75, 0.75, 0.2, 0.2]])
    output = QueryBoxOutput(torch.zeros(1, 1, 2, 3).requires_grad_(), boxes.view(1, 1, 2, 4), (SIZE, SIZE))
    gradient = class_gradient(task, annotations([[0, 0, 32, 32]], [1], **{how: [0]}), output)[0]
    for label in range(3):
        assert (gradient[0, label] == 0) == (label in quiet)  # the query that lies inside
        assert gradient[1, label] > 0  # far away


def test_a_matched_query_in_an_ignored_box_learns_its_own(task: DetectionTask) -> None:
    truth = annotations([[0, 0, 64, 64], [16, 16, 48, 48]], [1, 1], crowd=[0])
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1]]).view(1, 1, 2, 4)
    output = QueryBoxOutput(torch.zeros(1, 1, 2, 3).requires_grad_(), boxes, (SIZE, SIZE))
    gradient = class_gradient(task, truth, output)[0]
    assert gradient[0, 1] < 0 and (gradient[0, [0, 2]] > 0).all()
    assert (gradient[1] == 0).all()


def test_the_share_of_a_box_that_is_covered_by_hand() -> None:
    ignored = FlatBoxes(torch.tensor([1, 0]), torch.tensor([[0.0, 0, 20, 20], [0, 0, 64, 64]]), torch.tensor([0, -1]))
    boxes = torch.tensor([[0.0, 0, 10, 10], [10, 10, 30, 20], [40, 40, 50, 50]]).expand(1, 2, 3, 4)
    assert torch.allclose(covered(boxes, ignored)[0], torch.tensor([[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]]))


# --- what is shown --------------------------------------------------------------------------------------------------


def test_predictions_are_the_best_scores_without_suppression(task: DetectionTask) -> None:
    output = random_output(queries=8)
    same = replace(output, boxes_cxcywh=output.boxes_cxcywh[:, :, :1].expand(-1, -1, 8, -1))
    shown = task.predict(same, [Prediction((SIZE, SIZE))] * 2, confidence=0.3, max_boxes=6)
    for image, prediction in enumerate(shown):
        assert prediction.scores is not None and prediction.labels is not None
        best = same.class_logits[-1, image].sigmoid().flatten().sort(descending=True)
        expected = best.values[best.values >= 0.3][:6]
        assert torch.allclose(prediction.scores, expected)
        assert torch.equal(prediction.labels, (best.indices % 3)[: len(expected)])
    asked = task.predict(same, [Prediction((SIZE, SIZE))] * 2, confidence=0.3, nms_iou=0.5)
    assert all(p.labels is not None and len(p.labels) == len(set(p.labels.tolist())) for p in asked)
