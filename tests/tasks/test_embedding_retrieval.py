# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from torch import Tensor
from torch.nn import functional as F
from unified.tasks.embedding import search
from unified.tasks.embedding.retrieval import RetrievalMetric
from unified.tasks.embedding.search import rank

from unified.contracts.structures import Annotations, Batch, EmbeddingOutput, Frame, LabelState

IGNORE, POSITIVE = int(LabelState.IGNORE), int(LabelState.POSITIVE)


def on_circle(*degrees: float) -> Tensor:
    angles = torch.tensor(degrees) * math.pi / 180
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_scores_by_hand() -> None:
    # Identities 0 at 0, 10 and 50 degrees, 1 at 20 and 75, and a lone 2 at 180.
    vectors, identities = on_circle(0, 10, 50, 20, 75, 180), torch.tensor([0, 0, 0, 1, 1, 2])
    ranking = rank(vectors, identities, torch.arange(6), 5)
    assert ranking is not None
    assert ranking.queries.tolist() == [0, 1, 2, 3, 4]  # the lone one finds nothing and asks nothing
    # The order of truth (1: same identity) seen by each query, nearest first:
    #   0 deg: 10, 20, 50, 75 -> 1 0 1 0     10 deg: 0 and 20 are equally far, so it is moved below.
    #   50 deg: 75, 20, 10, 0 -> 0 0 1 1     20 deg: 10, 0, 50, 75 -> 0 0 0 1     75 deg: 50, 20 -> 0 1
    assert ranking.first_match[[0, 2, 3, 4]].tolist() == [0, 2, 3, 1]
    # mAP@R: R is 2 for identity 0 and 1 for identity 1.
    assert ranking.precision_at_r[[0, 2, 3, 4]].tolist() == [1 / 2, 0.0, 0.0, 0.0]
    assert ranking.neighbours[0].tolist() == [1, 3, 2, 4, 5]


def test_own_group_is_not_seen() -> None:
    vectors, identities = on_circle(0, 1, 40, 41, 90), torch.tensor([0, 0, 0, 1, 1])
    groups = torch.tensor([7, 7, 8, 8, 7])
    ranking = rank(vectors, identities, groups, 4)
    assert ranking is not None
    assert ranking.queries.tolist() == [0, 1, 2, 3, 4]
    assert ranking.neighbours[0].tolist() == [2, 3, -1, -1]
    assert ranking.first_match.tolist() == [0, 0, 0, 2, 0]  # 41 degrees finds 1, 0 and only then 90
    assert rank(vectors, identities, torch.zeros(5, dtype=torch.int64), 4) is None  # one image: nothing to find


@pytest.mark.parametrize("cells", [1, 900, 16_000_000])
def test_equals_pytorch_metric_learning_whatever_the_chunk(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_CELLS", cells)
    identities = torch.randint(0, 12, (150,))
    centers = torch.randn(12, 8)
    vectors = F.normalize(centers[identities] + 0.8 * torch.randn(150, 8), dim=1)
    ranking = rank(vectors, identities, torch.arange(150), 5)
    assert ranking is not None
    include = ("precision_at_1", "mean_average_precision_at_r")
    calculator = AccuracyCalculator(
        include=include, k="max_bin_count", device=torch.device("cpu"), knn_func=CustomKNN(CosineSimilarity())
    )
    expected = calculator.get_accuracy(vectors, identities)
    assert ranking.recall(1) == pytest.approx(expected["precision_at_1"])
    assert ranking.map_at_r == pytest.approx(expected["mean_average_precision_at_r"])
    assert 0.2 < ranking.map_at_r < 0.9  # a comparison of perfect or of random scores would show little


def test_groups_equal_a_brute_force_search() -> None:
    vectors = F.normalize(torch.randn(60, 4), dim=1)
    identities, groups = torch.randint(0, 6, (60,)), torch.randint(0, 15, (60,))
    ranking = rank(vectors, identities, groups, 5)
    assert ranking is not None
    for row, query in enumerate(ranking.queries.tolist()):
        others = [i for i in range(60) if groups[i] != groups[query]]
        others.sort(key=lambda i: -float(vectors[i] @ vectors[query]))
        hits = [bool(identities[i] == identities[query]) for i in others]
        total = sum(hits)
        hand = sum(sum(hits[: i + 1]) / (i + 1) for i in range(total) if hits[i]) / total
        assert ranking.precision_at_r[row].item() == pytest.approx(hand)
        assert ranking.first_match[row] == min(hits.index(True), 5)


def test_order_of_vectors_does_not_matter() -> None:
    vectors, identities = F.normalize(torch.randn(80, 6), dim=1), torch.randint(0, 9, (80,))
    groups, order = torch.randint(0, 20, (80,)), torch.randperm(80)
    a, b = rank(vectors, identities, groups, 5), rank(vectors[order], identities[order], groups[order], 5)
    assert a is not None and b is not None
    assert (a.recall(1), a.recall(5), a.map_at_r) == pytest.approx((b.recall(1), b.recall(5), b.map_at_r))


# The metric, from outputs.


def image_with(
    number: int, cells: dict[tuple[int, int], tuple[int, int, int]], identity: int = -1, vector: Tensor | None = None
) -> tuple[EmbeddingOutput, Batch]:
    """An 8x8-cell map whose cell (x, y) points at an angle: {(x, y): (degrees, identity, state)}."""
    field = torch.zeros(1, 2, 8, 8)
    rows = []
    for (x, y), (degrees, _, _) in cells.items():
        field[0, :, y, x] = on_circle(degrees)[0]
        rows.append([x * 8 + 3.0, y * 8 + 3.0, x * 8 + 5.0, y * 8 + 5.0])
    annotations = Annotations(
        boxes_xyxy=torch.tensor(rows).reshape(-1, 4),
        box_labels=torch.zeros(len(rows), dtype=torch.int64),
        box_states=torch.tensor([s for _, _, s in cells.values()], dtype=torch.int8),
        box_identities=torch.tensor([i for _, i, _ in cells.values()], dtype=torch.int64),
        box_areas=torch.ones(len(rows)),
        box_crowd=torch.zeros(len(rows), dtype=torch.bool),
        identity=identity,
    )
    frame = Frame(f"image{number}", (128, 128), scale=(0.5, 0.5))
    output = EmbeddingOutput(torch.ones(1, 2) if vector is None else vector, field, 8)
    return output, Batch(torch.zeros(1, 3, 64, 64), (annotations,), (frame,))


def metric_of(*images: tuple[EmbeddingOutput, Batch]) -> RetrievalMetric:
    metric = RetrievalMetric()
    for output, batch in images:
        metric.update(output, [], batch)
    return metric


def test_boxes_are_scored_across_images_and_ignored_or_unlabelled_ones_are_absent() -> None:
    metric = metric_of(
        # The two 500s stand beside each other in one image; each must look elsewhere.
        image_with(0, {(1, 1): (0, 500, POSITIVE), (5, 5): (2, 500, POSITIVE), (3, 3): (31, -1, POSITIVE)}),
        image_with(1, {(1, 1): (30, 500, POSITIVE), (5, 5): (7, 3, POSITIVE), (3, 3): (1, 500, IGNORE)}),
        image_with(2, {(1, 1): (90, 3, POSITIVE)}),
    )
    scores = metric.compute()
    # 0: 7 (no), 30 (yes). 2: 7, 30. 30: 2 (yes). 7: 2 (no), 0, 90 (yes). 90: 30 (no), 7 (yes).
    assert scores["R@1"] == pytest.approx(1 / 5)
    assert scores["R@5"] == pytest.approx(1.0)
    assert scores["mAP@R"] == pytest.approx((0 + 0 + 1 + 0 + 0) / 5)  # R: 1, 1, 2, 1, 1
    assert set(scores) == {"R@1", "R@5", "mAP@R"}


def test_images_alone_stand_for_the_primary_score() -> None:
    truth = [(0, 0), (10, 0), (12, 1), (40, 1), (180, -1)]
    metric = metric_of(*(image_with(n, {}, identity, on_circle(d)) for n, (d, identity) in enumerate(truth)))
    scores = metric.compute()
    # 0: 10 (yes). 10: 12 (no), 0. 12: 10 (no), 0, 40. 40: 12 (yes).
    assert scores["image_R@1"] == scores["R@1"] == pytest.approx(2 / 4)
    assert scores["image_mAP@R"] == scores["mAP@R"] == pytest.approx(2 / 4)
    (line,) = metric.curves()["recall"]
    assert line.label == "images" and line.y[:3] == pytest.approx([0.5, 0.75, 1.0])


def test_with_both_the_primary_score_is_that_of_boxes() -> None:
    both = {n: {(1, 1): (n, 0, POSITIVE), (5, 5): (n + 10, 1, POSITIVE)} for n in (0, 90)}
    scores = metric_of(*(image_with(n, cells, 4, on_circle(n)) for n, cells in both.items())).compute()
    assert scores["image_R@1"] == 1.0
    assert scores["R@1"] == 0.5  # 0 meets 90 (yes), 10 meets 90 (no), 90 meets 10 (no), 100 meets 10 (yes)


def test_nothing_to_find_gives_no_score() -> None:
    metric = RetrievalMetric()
    assert metric.compute() == {} and metric.curves() == {} and metric.examples(3) == []
    metric = metric_of(image_with(0, {(1, 1): (0, 0, POSITIVE), (2, 2): (5, 0, POSITIVE)}))
    assert metric.compute() == {} and metric.examples(3) == []


def test_examples_name_places_in_original_pixels() -> None:
    metric = metric_of(
        image_with(0, {(1, 1): (0, 5, POSITIVE)}),
        image_with(1, {(2, 1): (10, 6, POSITIVE), (6, 6): (30, 5, POSITIVE)}),
    )
    ((place, found), _) = metric.examples(5)
    assert place == ("image0", (22.0, 22.0, 26.0, 26.0))  # the frame halves, so the original is twice as large
    assert found == [("image1", (38.0, 22.0, 42.0, 26.0), False), ("image1", (102.0, 102.0, 106.0, 106.0), True)]
    assert len(metric.examples(1)) == 1
