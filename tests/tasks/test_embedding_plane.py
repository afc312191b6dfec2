# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from unified.tasks.embedding.plane import principal, spread
from unified.tasks.embedding.retrieval import RetrievalMetric

from unified.contracts.section import Gallery, Histogram, Scatter, Table
from unified.contracts.structures import Annotations, Batch, EmbeddingOutput, Frame, LabelState


def clusters(noise: float = 0.25, count: int = 90) -> tuple[Tensor, Tensor]:
    kind = torch.arange(count) % 6
    centers = F.normalize(torch.randn(6, 16), dim=1)
    return F.normalize(centers[kind] + noise * torch.randn(count, 16), dim=1), kind


def test_the_principal_plane_holds_the_variance_that_pca_finds() -> None:
    pca = pytest.importorskip("sklearn.decomposition").PCA
    vectors, _ = clusters()
    expected = pca(2).fit(vectors.numpy()).explained_variance_
    mine = principal(vectors).var(dim=0)
    assert mine.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_neighbours_stay_neighbours_better_than_in_a_plane() -> None:
    trustworthiness = pytest.importorskip("sklearn.manifold").trustworthiness
    vectors, kind = clusters()
    near, flat = spread(vectors), principal(vectors)
    scores = [trustworthiness(vectors.numpy(), points.numpy(), n_neighbors=5) for points in (near, flat)]
    assert scores[0] > 0.9
    assert scores[0] > scores[1]
    apart = torch.cdist(near, near).fill_diagonal_(torch.inf)
    assert (kind[apart.argmin(dim=1)] == kind).float().mean() > 0.95


def test_a_map_is_the_same_every_time_and_touches_no_dice() -> None:
    vectors, _ = clusters()
    before = torch.get_rng_state()
    assert torch.equal(spread(vectors), spread(vectors))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("vectors", [torch.ones(20, 4), torch.eye(3), torch.ones(1, 5), torch.zeros(9, 1)])
def test_what_has_no_spread_still_has_places(vectors: Tensor) -> None:
    points = spread(vectors)
    assert points.shape == (len(vectors), 2)
    assert torch.isfinite(points).all()


def test_sections_of_boxes_mark_right_and_wrong() -> None:
    degrees = torch.tensor([0.0, 4, 90, 94, 2, 180]) * torch.pi / 180
    vectors = torch.stack([degrees.cos(), degrees.sin()], dim=1)
    identities = [0, 0, 1, 1, 1, 2]
    metric = RetrievalMetric(identities=("bolt", "nut"))

    class Given(EmbeddingOutput):
        def box_vectors(self, boxes_xyxy: object, grid: int = 5) -> list[Tensor]:
            return [row[None] for row in vectors]

    known = tuple(
        Annotations(
            boxes_xyxy=torch.tensor([[1.0, 2, 30, 40]]),
            box_labels=torch.zeros(1, dtype=torch.int64),
            box_states=torch.tensor([int(LabelState.POSITIVE)], dtype=torch.int8),
            box_identities=torch.tensor([identity]),
            box_areas=torch.ones(1),
            box_crowd=torch.zeros(1, dtype=torch.bool),
        )
        for identity in identities
    )
    frames = tuple(Frame(str(k), (64, 64)) for k in range(6))
    batch = Batch(torch.zeros(6, 3, 64, 64), known, frames, dataset="d", tasks=("emb",))
    metric.update(Given(vectors, torch.zeros(6, 2, 8, 8), 8), [], batch)
    (section,) = metric.sections()
    strips = [part for part in section.parts if isinstance(part, Gallery)]
    first = next(row for row in strips[0].rows if row[0].image_id == "0")
    assert first[0].caption == "bolt"
    assert first[0].crop == (1, 2, 30, 40)
    assert [(view.image_id, view.verdict) for view in first[1:3]] == [("4", "wrong"), ("1", "right")]
    assert {part.kind for part in section.parts} == {"gallery", "scatter", "histogram", "chart", "table"}
    dots = next(part for part in section.parts if isinstance(part, Scatter)).points
    assert sorted(point.group for point in dots) == ["bolt", "bolt", "identity 2", "nut", "nut", "nut"]
    pairs = next(part for part in section.parts if isinstance(part, Histogram))
    assert {series.label: sum(series.counts) for series in pairs.series} == {"same": 4, "different": 11}
    table = next(part for part in section.parts if isinstance(part, Table))
    assert {row[0] for row in table.rows} == {"bolt", "nut"}  # the lone one has nothing to find
