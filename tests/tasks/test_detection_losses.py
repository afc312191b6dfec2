# SPDX-License-Identifier: Apache-2.0
import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from detection_scenes import VOCABULARY, annotations, batch_of, grid, one_hot_sides, random_output
from unified.heads.detect_anchor import PUBLISHED
from unified.tasks.detection import DetectionTask
from unified.tasks.detection.aligned import Assignment
from unified.tasks.detection.point_loss import box_loss, class_loss, distribution_loss

from unified.boxes import cxcywh_to_xyxy
from unified.contracts.errors import UnifiedError
from unified.contracts.structures import (
    AnchorBoxOutput,
    Annotations,
    Batch,
    Frame,
    LossTerm,
    PointBoxOutput,
    Vocabulary,
)

UNKNOWN, IGNORE, NO, YES = 0, 1, 2, 3


@pytest.fixture
def task() -> DetectionTask:
    return DetectionTask("det", VOCABULARY)


def total(terms: dict[str, LossTerm]) -> torch.Tensor:
    return sum((t.weight * t.sum / t.count.clamp(min=1) for t in terms.values()), torch.zeros(()))


def values(terms: dict[str, LossTerm]) -> list[float]:
    return [x.item() for term in terms.values() for x in (term.sum, term.count)]


def random_maps(images: int = 2) -> AnchorBoxOutput:
    maps = tuple(torch.randn(images, 3, n, n, 8).requires_grad_() for n in (8, 4, 2))
    return AnchorBoxOutput(maps, torch.tensor(PUBLISHED[3], dtype=torch.float32), (8, 16, 32))


OUTPUTS = {"points": random_output, "anchors": random_maps}


def parameters(output: PointBoxOutput | AnchorBoxOutput) -> list[torch.Tensor]:
    return [output.side_logits, output.class_logits] if output.criterion == "points" else list(output.maps)


# --- hand numbers ---------------------------------------------------------------------------------------------------


def single(distances: list[float], bins: int = 8) -> PointBoxOutput:
    """One point at (16, 16) of stride 8."""
    return PointBoxOutput(
        one_hot_sides(torch.tensor([[distances]], dtype=torch.float32), bins),
        torch.zeros(1, 1, 3),
        torch.tensor([[16.0, 16.0]]),
        torch.tensor([8.0]),
        bins,
    )


def test_box_loss_by_hand() -> None:
    # Predicted (8, 8, 24, 24), true (8, 8, 40, 24): IoU .5, centres 8 px apart, diagonal 32² + 16².
    aspect = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
    expected = 1 - (0.5 - 64 / 1280 - aspect**2 / (0.5 + aspect))
    got = box_loss(single([1, 1, 1, 1]), torch.tensor([[8.0, 8.0, 40.0, 24.0]]), torch.tensor([0.5]))
    assert float(got) == pytest.approx(0.5 * expected, rel=1e-5)


def test_distribution_loss_by_hand() -> None:
    output = replace(single([1, 1, 1, 1]), side_logits=torch.zeros(1, 1, 32))
    uniform = distribution_loss(output, torch.tensor([[8.0, 8.0, 24.0, 24.0]]), torch.tensor([2.0]))
    assert float(uniform) == pytest.approx(2 * math.log(8), rel=1e-6)
    # The left side's truth is 1.25 strides: .75 of bin 1 and .25 of bin 2; the others lie on bin 1.
    logits = torch.zeros(1, 1, 4, 8)
    logits[0, 0, 0, 1] = 1.0
    got = distribution_loss(
        replace(output, side_logits=logits.flatten(2)), torch.tensor([[6.0, 8.0, 24.0, 24.0]]), torch.ones(1)
    )
    norm = math.log(7 + math.e)
    assert float(got) == pytest.approx((0.75 * (norm - 1) + 0.25 * norm + 3 * math.log(8)) / 4, rel=1e-6)


def test_class_loss_equals_the_dense_cross_entropy() -> None:
    logits, truth = torch.randn(2, 5, 3), torch.zeros(2, 5, 3)
    match = Assignment(torch.tensor([1, 7]), torch.tensor([0, 1]), torch.tensor([0.3, 0.9]))
    labels = torch.tensor([2, 0])
    truth[0, 1, 2], truth[1, 2, 0] = 0.3, 0.9
    dense = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
    assert float(class_loss(logits, torch.ones(2, 1, 3, dtype=torch.bool), match, labels)) == pytest.approx(
        float(dense)
    )


# --- the published loss ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["yolor_csp", "yolor_p6"])
def test_anchor_losses_are_those_of_yolor(shared: Path, name: str) -> None:
    data = np.load(shared / "fixtures" / "yolor" / f"{name}.npz")
    gains = json.loads((shared / "fixtures" / "yolor" / f"{name}.hyp.json").read_text())
    maps = tuple(torch.from_numpy(data[key]) for key in sorted(k for k in data.files if k.startswith("raw")))
    output = AnchorBoxOutput(maps, torch.tensor(PUBLISHED[len(maps)]).float(), (8, 16, 32, 64)[: len(maps)])
    assert (output.decoded - torch.from_numpy(data["decoded"])).abs().max() < 0.02
    height, width = data["image_hw"].tolist()
    rows = torch.from_numpy(data["targets"])
    truth = Annotations(
        boxes_xyxy=cxcywh_to_xyxy(rows[:, 2:] * torch.tensor([width, height, width, height])),
        box_labels=rows[:, 1].long(),
        box_states=torch.full((len(rows),), YES, dtype=torch.int8),
        states={"det": torch.full((80,), NO, dtype=torch.int8)},
    )
    task = DetectionTask(
        "det",
        Vocabulary(boxes=tuple(f"c{i}" for i in range(80))),
        anchor_box_gain=gains["box"],
        anchor_class_gain=gains["cls"],
        anchor_object_gain=gains["obj"],
        anchor_ratio=gains["anchor_t"],
    )
    batch = Batch(torch.zeros(1, 3, height, width), (truth,), (Frame("0", (height, width)),))
    terms = task.loss(output, batch)
    got = [float(terms[k].weight * terms[k].sum / terms[k].count) for k in ("box", "object", "class")]
    assert [*got, sum(got)] == pytest.approx(data["loss_items_box_obj_cls_total"].tolist(), rel=1e-4)


# --- properties of both ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OUTPUTS)
def test_images_in_another_order_give_the_same_loss(task: DetectionTask, kind: str) -> None:
    output = OUTPUTS[kind](2)
    a, b = annotations([[5, 5, 30, 28]], [0]), annotations([[20, 20, 60, 50], [2, 40, 22, 62]], [1, 2])
    if output.criterion == "points":
        turned = replace(output, side_logits=output.side_logits.flip(0), class_logits=output.class_logits.flip(0))
    else:
        turned = replace(output, maps=tuple(m.flip(0) for m in output.maps))
    expected = values(task.loss(output, batch_of(a, b)))
    assert values(task.loss(turned, batch_of(b, a))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", OUTPUTS)
def test_boxes_in_another_order_give_the_same_loss(task: DetectionTask, kind: str) -> None:
    output = OUTPUTS[kind](1)
    boxes, labels = [[20, 20, 60, 50], [2, 40, 22, 62], [40, 2, 62, 18]], [1, 2, 0]
    forth = values(task.loss(output, batch_of(annotations(boxes, labels))))
    back = values(task.loss(output, batch_of(annotations(boxes[::-1], labels[::-1]))))
    assert forth == pytest.approx(back, rel=1e-5)


@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_batch_is_the_sum_of_its_images_where_terms_are_sums(task: DetectionTask, kind: str) -> None:
    output = OUTPUTS[kind](2)
    a, b = annotations([[5, 5, 30, 28]], [0]), annotations([], [])
    both = task.loss(output, batch_of(a, b))
    if kind == "anchors":  # means over the batch, each image counted
        assert {float(t.count) for t in both.values()} == {2.0}
        return
    parts = [
        task.loss(
            replace(output, side_logits=output.side_logits[i : i + 1], class_logits=output.class_logits[i : i + 1]),
            batch_of(x),
        )
        for i, x in enumerate((a, b))
    ]
    for name, term in both.items():
        assert term.sum.item() == pytest.approx(sum(p[name].sum.item() for p in parts), rel=1e-5)
        assert float(term.count) == pytest.approx(sum(float(p[name].count) for p in parts), rel=1e-5)


def test_losses_fall_as_the_prediction_nears_the_truth(task: DetectionTask) -> None:
    points, strides = grid(strides=(8,))
    truth = torch.tensor([16.0, 16.0, 40.0, 40.0])
    inside = ((points > 16) & (points < 40)).all(-1)
    right = torch.cat([points - truth[:2], truth[2:] - points], -1) / strides[:, None]
    batch = batch_of(annotations([truth.tolist()], [1]))
    losses = []
    for error in (1.0, 0.6, 0.3, 0.1, 0.0):
        sides = one_hot_sides((right + error).clamp(0, 7).masked_fill(~inside[:, None], 1.0), 8, sharpness=6.0)
        logits = torch.full((1, len(points), 3), -3 + 6 * error - 3)
        logits[0, inside, 1] = 4 - 8 * error
        terms = task.loss(PointBoxOutput(sides[None], logits, points, strides, 8), batch)
        losses.append([float(t.sum / t.count) for t in terms.values()])
    for falling in zip(*losses, strict=True):
        assert all(a > b for a, b in pairwise(falling)), falling


@pytest.mark.parametrize("kind", OUTPUTS)
def test_every_parameter_is_taught(task: DetectionTask, kind: str) -> None:
    output = OUTPUTS[kind](2)
    batch = batch_of(annotations([[5, 5, 30, 28]], [0]), annotations([[20, 20, 60, 50]], [1]))
    for gradient in torch.autograd.grad(total(task.loss(output, batch)), parameters(output)):
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


def test_an_output_of_another_kind_is_refused(task: DetectionTask) -> None:
    with pytest.raises(UnifiedError, match=r"'det' has no losses for object; .*points, anchors"):
        task.loss(object(), batch_of(annotations([], [])))


# --- label states ---------------------------------------------------------------------------------------------------


def class_gradient(task: DetectionTask, kind: str, truth: Annotations) -> torch.Tensor:
    """Sum of |gradient| of each class's logits, (3,)."""
    torch.manual_seed(1)
    output = OUTPUTS[kind](1)
    terms = task.loss(output, batch_of(truth))
    gradients = torch.autograd.grad(total(terms), parameters(output), allow_unused=True)
    if kind == "points":
        return gradients[1].abs().sum((0, 1))
    return torch.stack([g[..., 5:].abs().sum((0, 1, 2, 3)) for g in gradients]).sum(0)


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("state", [UNKNOWN, IGNORE])
def test_a_class_that_is_not_known_has_no_gradient(task: DetectionTask, kind: str, state: int) -> None:
    box, label = [[10, 10, 40, 44]], [0]
    unknown = class_gradient(task, kind, annotations(box, label, states=(YES, NO, state)))
    assert unknown[2] == 0
    assert (unknown[:2] > 0).all()
    negative = class_gradient(task, kind, annotations(box, label, states=(YES, NO, NO)))
    assert (negative > 0).all()


def test_objectness_of_the_background_needs_every_class(task: DetectionTask) -> None:
    output = random_maps(1)
    box = [[10, 10, 40, 44]]
    partial = task.loss(output, batch_of(annotations(box, [0], states=(YES, NO, UNKNOWN))))["object"].sum
    taught = sum(int((g[..., 4] != 0).sum()) for g in torch.autograd.grad(partial, output.maps, retain_graph=True))
    full = task.loss(output, batch_of(annotations(box, [0])))["object"].sum
    everywhere = sum(int((g[..., 4] != 0).sum()) for g in torch.autograd.grad(full, output.maps))
    assert 0 < taught < 40  # the matched cells only
    assert everywhere == sum(m[..., 4].numel() for m in output.maps)


@pytest.mark.parametrize("kind", OUTPUTS)
def test_an_unlabelled_batch_gives_zeros_that_touch_the_graph(task: DetectionTask, kind: str) -> None:
    output = OUTPUTS[kind](2)
    batch = batch_of(annotations([[10, 10, 40, 44]], [0], states=None), annotations([], [], states=None))
    terms = task.loss(output, batch)
    assert values(terms) == [0.0] * 6
    for gradient in torch.autograd.grad(sum(t.sum for t in terms.values()), parameters(output)):
        assert (gradient == 0).all()


@pytest.mark.parametrize("kind", OUTPUTS)
def test_an_image_with_nothing_in_it_teaches_background(task: DetectionTask, kind: str) -> None:
    output = OUTPUTS[kind](1)
    terms = task.loss(output, batch_of(annotations([], [], states=(4, 4, 4))))
    assert terms["box"].sum.item() == 0.0
    background = terms["class" if kind == "points" else "object"]
    gradient = torch.autograd.grad(background.sum, parameters(output)[-1])[0]
    taught = gradient if kind == "points" else gradient[..., 4]
    assert (taught > 0).all()


def point_gradient(task: DetectionTask, truth: Annotations) -> torch.Tensor:
    """Gradient of the class logits (P, 3)."""
    torch.manual_seed(1)
    output = random_output(1)
    return torch.autograd.grad(total(task.loss(output, batch_of(truth))), output.class_logits)[0][0]


@pytest.mark.parametrize(("how", "quiet"), [("ignored", [1]), ("crowd", [0, 1, 2])])
def test_points_in_an_ignored_box_teach_nothing_of_its_class(task: DetectionTask, how: str, quiet: list[int]) -> None:
    points, _ = grid()
    within = ((points > torch.tensor([32.0, 32.0])) & (points < torch.tensor([64.0, 60.0]))).all(-1)
    ignored = {how: [0]}
    gradient = point_gradient(task, annotations([[32, 32, 64, 60]], [1], **ignored))
    for label in range(3):
        silent = gradient[:, label] == 0
        assert torch.equal(silent, within if label in quiet else torch.zeros_like(within))
    wanted = point_gradient(task, annotations([[32, 32, 64, 60]], [1]))
    assert (wanted != 0).all()


def test_a_box_to_find_inside_an_ignored_one_is_still_learnt(task: DetectionTask) -> None:
    truth = annotations([[0, 0, 64, 64], [24, 24, 44, 44]], [1, 1], crowd=[0])
    gradient = point_gradient(task, truth)
    assert (gradient != 0).any()
    output = random_output(1)
    assert float(task.loss(output, batch_of(truth))["box"].count) > 0


def test_objectness_inside_an_ignored_box_is_not_learnt(task: DetectionTask) -> None:
    output = random_maps(1)
    terms = task.loss(output, batch_of(annotations([[0, 0, 32, 64]], [1], ignored=[0])))
    gradient = torch.autograd.grad(terms["object"].sum, output.maps)[0][..., 4]
    assert (gradient[..., :4] == 0).all()
    assert (gradient[..., 4:] != 0).all()


def test_a_box_of_a_class_unknown_in_its_image_is_not_a_target(task: DetectionTask) -> None:
    terms = task.loss(random_output(1), batch_of(annotations([[10, 10, 40, 44]], [2], states=(NO, NO, UNKNOWN))))
    assert float(terms["box"].count) == 0.0


def test_losses_of_half_precision_outputs_are_finite(task: DetectionTask) -> None:
    output = random_output(1)
    half = replace(output, side_logits=output.side_logits.half(), class_logits=(output.class_logits * 30).half())
    terms = task.loss(half, batch_of(annotations([[10, 10, 40, 44]], [2])))
    assert all(t.sum.isfinite() and t.sum.dtype == torch.float32 for t in terms.values())
