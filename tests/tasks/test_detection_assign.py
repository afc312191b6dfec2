# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from detection_scenes import grid
from unified.tasks.detection.aligned import AlignedAssigner, Assignment, candidates
from unified.tasks.detection.ratio import RatioAssigner, cells_around
from unified.tasks.detection.targets import FlatBoxes

from unified.boxes import iou_xyxy


def wanted(*rows: tuple[int, tuple[float, float, float, float], int]) -> FlatBoxes:
    images, boxes, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return FlatBoxes(
        torch.tensor(images, dtype=torch.int64),
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
    )


def as_dict(match: Assignment, truth: FlatBoxes) -> dict[tuple[int, tuple[float, ...]], float]:
    """(point, corners of its box) -> target: comparable whatever the order of the boxes."""
    rows = zip(match.point.tolist(), truth.boxes_xyxy[match.box].tolist(), match.score.tolist(), strict=True)
    return {(point, tuple(box)): round(score, 5) for point, box, score in rows}


def reference(
    boxes: torch.Tensor, logits: torch.Tensor, points: torch.Tensor, truth: FlatBoxes, topk: int
) -> dict[tuple[int, tuple[float, ...]], float]:
    """The same assignment, one box and one point at a time."""
    pairs = {}
    for t in range(len(truth)):
        image, box, label = int(truth.image[t]), truth.boxes_xyxy[t], int(truth.labels[t])
        inside = [p for p, (x, y) in enumerate(points.tolist()) if box[0] < x < box[2] and box[1] < y < box[3]]
        center = (box[:2] + box[2:]) / 2
        inside = inside or [int((points - center).square().sum(-1).argmin())]
        rows = []
        for p in inside:
            overlap = float(iou_xyxy(boxes[image, p], box))
            rows.append((float(logits[image, p, label].sigmoid()) ** 0.5 * overlap**6, overlap, image, p))
        for row in sorted(rows, reverse=True)[:topk]:
            pairs[t, row[2] * len(points) + row[3]] = row[:2]
    owner = {}
    for (t, flat), (_, overlap) in pairs.items():
        if flat not in owner or overlap > pairs[owner[flat], flat][1]:
            owner[flat] = t
    result = {}
    for flat, t in owner.items():
        mine = [pairs[t, other] for other, who in owner.items() if who == t]
        target = pairs[t, flat][0] / max(max(a for a, _ in mine), 1e-38) * max(o for _, o in mine)
        result[flat, tuple(truth.boxes_xyxy[t].tolist())] = round(target, 5)
    return result


def random_case(images: int = 3, boxes: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, FlatBoxes]:
    points, strides = grid()
    reach = torch.rand(images, len(points), 4) * 3 * strides[:, None]
    predicted = torch.cat([points - reach[..., :2], points + reach[..., 2:]], -1)
    low, sides = torch.rand(boxes, 2) * 40, torch.rand(boxes, 2) * 22 + 2
    truth = FlatBoxes(torch.randint(images, (boxes,)), torch.cat([low, low + sides], 1), torch.randint(3, (boxes,)))
    return predicted, torch.randn(images, len(points), 3), points, truth


def test_a_hand_made_case() -> None:
    points = torch.tensor([[4.0, 4.0], [12.0, 4.0], [30.0, 30.0]])
    predicted = torch.tensor([[[0.0, 0.0, 16.0, 8.0], [0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 16.0, 8.0]]])
    logits = torch.tensor([[[0.0], [0.0], [9.0]]])
    truth = wanted((0, (0.0, 0.0, 16.0, 8.0), 0))
    match = AlignedAssigner(topk=10)(predicted, logits, points, truth)
    # s = .5 at both points inside; IoU 1 and .5, so alignment sqrt(.5) and sqrt(.5) / 64; the third point is outside.
    assert match.point.tolist() == [0, 1]
    assert match.score.tolist() == pytest.approx([1.0, 1 / 64])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("topk", [1, 4, 10])
def test_it_equals_the_assignment_done_one_by_one(seed: int, topk: int) -> None:
    torch.manual_seed(seed)
    case = random_case()
    got = as_dict(AlignedAssigner(topk=topk)(*case), case[3])
    expected = reference(*case, topk=topk)
    assert got.keys() == expected.keys()
    assert list(got.values()) == pytest.approx([expected[key] for key in got], abs=2e-5)


def test_a_point_learns_one_box_and_a_box_at_most_topk_points() -> None:
    *case, truth = random_case(images=1, boxes=20)
    match = AlignedAssigner(topk=5)(*case, truth)
    assert len(match.point.unique()) == len(match.point) > 0
    assert match.box.bincount().max() <= 5
    assert ((match.score >= 0) & (match.score <= 1)).all()


def test_the_order_of_the_boxes_changes_nothing() -> None:
    *case, truth = random_case(boxes=12)
    shuffled = truth.select(torch.randperm(len(truth)))
    assigner = AlignedAssigner()
    assert as_dict(assigner(*case, truth), truth) == as_dict(assigner(*case, shuffled), shuffled)


def test_the_order_of_the_images_moves_the_points_with_them() -> None:
    predicted, logits, points, truth = random_case()
    swapped = FlatBoxes(2 - truth.image, truth.boxes_xyxy, truth.labels)
    straight = as_dict(AlignedAssigner()(predicted, logits, points, truth), truth)
    turned = as_dict(AlignedAssigner()(predicted.flip(0), logits.flip(0), points, swapped), truth)
    count = len(points)
    moved = {((2 - point // count) * count + point % count, box): score for (point, box), score in straight.items()}
    assert moved == turned


def test_a_box_between_the_points_learns_at_the_nearest() -> None:
    points, _ = grid()
    boxes = torch.tensor([[9.0, 9.0, 11.0, 11.0], [1.0, 1.0, 30.0, 30.0]])
    mask = candidates(boxes, points)
    assert points[mask[0]].tolist() == [[12.0, 12.0]]
    assert mask[1].sum() > 1


def test_poor_boxes_still_teach() -> None:
    """Alignments of an untrained network are tiny; their ratios are what counts."""
    points = torch.tensor([[4.0, 4.0], [12.0, 4.0]])
    predicted = torch.tensor([[[-500.0, -500.0, 500.0, 500.0]] * 2])
    truth = wanted((0, (0.0, 0.0, 16.0, 8.0), 0))
    match = AlignedAssigner()(predicted, torch.zeros(1, 2, 1), points, truth)
    overlap = 16 * 8 / 1000**2
    assert match.score.tolist() == pytest.approx([overlap, overlap])


def test_nothing_wanted_matches_nothing() -> None:
    predicted, logits, points, _ = random_case()
    match = AlignedAssigner()(predicted, logits, points, wanted())
    assert len(match.point) == len(match.box) == len(match.score) == 0


def test_a_centre_stands_in_its_cell_and_the_two_nearest() -> None:
    centers = torch.tensor([[2.3, 2.8], [0.2, 3.5], [7.8, 7.9]])
    index, cells = cells_around(centers, torch.tensor([8.0, 8.0]))
    found = {i: {tuple(cell) for cell in cells[index == i].tolist()} for i in range(3)}
    assert found[0] == {(2, 2), (1, 2), (2, 3)}
    assert found[1] == {(0, 3)}  # left of it there is nothing, and .5 is nearer to neither
    assert found[2] == {(7, 7)}


def test_anchors_learn_boxes_of_their_own_shape() -> None:
    truth = wanted((0, (0.0, 0.0, 40.0, 10.0), 0))
    anchors = torch.tensor([[10.1, 10.0], [10.0, 10.0], [40.0, 40.1], [100.0, 30.0]])
    match = RatioAssigner(limit=4.0)((8, 8), 8, anchors, truth)
    assert sorted(set(match.anchor.tolist())) == [0, 3]  # 40 / 10 and 40.1 / 10 are not below 4
