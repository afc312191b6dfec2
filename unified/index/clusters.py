# SPDX-License-Identifier: Apache-2.0
"""Rows in clusters: by density (HDBSCAN; Campello et al. 2013), or in a given number (k-means).

Both are scikit-learn's. Vectors are compared at unit length, where Euclidean distances order pairs as cosines do.
Legend: R rows, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unified.contracts.errors import ConfigError, DataError
from unified.index.protocol import VectorIndex
from unified.index.row import Row
from unified.index.scan import unit64

MOST_BY_DENSITY: Final = 20_000  # rows: HDBSCAN compares each with each, some minutes of one core
_SMALL: Final = 20_000  # rows from which k-means takes small batches

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Cluster:
    """Rows that lie together, the one nearest to their centre first."""

    rows: tuple[Row, ...]
    closeness: float  # mean cosine of its rows with its centre

    def to_dict(self) -> dict[str, Any]:
        """The cluster as JSON knows it."""
        return {"closeness": round(self.closeness, 6), "rows": [row.to_dict() for row in self.rows]}


@dataclass(frozen=True)
class Clusters:
    """All clusters, the largest first, and the rows that belong to none."""

    clusters: tuple[Cluster, ...]
    loose: tuple[Row, ...]
    labels: NDArray[np.int64]  # (R,) of the rows in the order of ``index.vectors()``; -1: loose

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON knows it."""
        rows = [each.to_dict() for each in self.clusters]
        return {"clusters": rows, "loose": [row.to_dict() for row in self.loose]}


def clusters(index: VectorIndex, count: int | None = None, least: int = 5, seed: int = 0) -> Clusters:
    """Clusters of all rows.

    Args:
        index: whose rows.
        count: so many, by k-means; None: as many as there are dense places, by HDBSCAN.
        least: rows of the smallest cluster, of HDBSCAN.
        seed: of k-means.

    Raises:
        ConfigError: a count or size that does not fit.
        DataError: too many rows for HDBSCAN, or too few.
    """
    vectors, positions = index.vectors()
    points = unit64(vectors, index.layout).float().numpy()
    if least < 2:
        raise ConfigError(f"the smallest cluster must have 2 rows or more, got {least}")
    if count is not None and not 1 <= count <= len(points):
        raise ConfigError(f"{count} clusters do not fit {len(points)} rows")
    if count is None and len(points) > MOST_BY_DENSITY:
        raise DataError(f"{len(points):,} rows are too many to find the number of clusters; give one with --count")
    found = _by_density(points, least) if count is None else _by_count(points, count, seed)
    order = [label for label, _ in sorted(_sizes(found).items(), key=lambda pair: (-pair[1], pair[0]))]
    labels = np.full(len(found), -1, dtype=np.int64)
    made = []
    for number, label in enumerate(order):
        own = np.flatnonzero(found == label)
        labels[own] = number
        centre = points[own].mean(axis=0)
        near = points[own] @ (centre / max(float(np.linalg.norm(centre)), 1e-12))
        rows = tuple(index.row(int(positions[k])) for k in own[np.argsort(-near, kind="stable")])
        made.append(Cluster(rows, float(near.mean())))
    loose = tuple(index.row(int(positions[k])) for k in np.flatnonzero(labels < 0))
    return Clusters(tuple(made), loose, labels)


def _by_density(points: Matrix, least: int) -> NDArray[np.int64]:
    if len(points) < 2 * least:
        return np.full(len(points), -1, dtype=np.int64)
    from sklearn.cluster import HDBSCAN

    found: NDArray[np.int64] = HDBSCAN(min_cluster_size=least, copy=True).fit_predict(points).astype(np.int64)
    return found


def _by_count(points: Matrix, count: int, seed: int) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans, MiniBatchKMeans

    method = KMeans if len(points) <= _SMALL else MiniBatchKMeans
    found: NDArray[np.int64] = method(count, n_init=4, random_state=seed).fit_predict(points).astype(np.int64)
    return found


def _sizes(labels: NDArray[np.int64]) -> dict[int, int]:
    values, counts = np.unique(labels[labels >= 0], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
