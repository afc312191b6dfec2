# SPDX-License-Identifier: Apache-2.0
"""Rows that are nearly the same: every pair is compared, and pairs that hang together make a group.

Legend: R rows, D width, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unified.contracts.errors import ConfigError, DataError
from unified.data.lint.likeness import NEAR, SAME, fingerprint
from unified.hardware import cores
from unified.index.protocol import VectorIndex
from unified.index.row import Row
from unified.index.scan import unit64

_STEP: Final = 2048  # rows compared with all later ones at a time
MOST_PAIRS: Final = 2_000_000


@dataclass(frozen=True)
class Group:
    """Rows that are nearly the same."""

    rows: tuple[Row, ...]  # the one with the most near copies first
    least: float  # cosine of the pair within the group's chain that is least alike

    def to_dict(self) -> dict[str, Any]:
        """The group as JSON knows it."""
        return {"least": round(self.least, 6), "rows": [row.to_dict() for row in self.rows]}


def duplicates(
    index: VectorIndex,
    threshold: float = 0.9,
    confirm: bool = True,
    say: Callable[[int], None] | None = None,
) -> list[Group]:
    """Groups of rows with a cosine of at least ``threshold``, the largest first.

    Args:
        index: whose rows are compared, each with each: R * R / 2 products.
        threshold: least cosine.
        confirm: look at the pictures, too: a pair counts only if their fine structure agrees, as that of copies,
            rescaled and recompressed ones does. Pictures that cannot be read, and boxes, count by their vectors.
        say: called with numbers of rows that are done.

    Raises:
        ConfigError: a threshold that is no cosine.
        DataError: more pairs than can be held.
    """
    if not -1 <= threshold <= 1:
        raise ConfigError(f"threshold must lie in -1..1, got {threshold}")
    vectors, positions = index.vectors()
    pairs, scores = _pairs(unit64(vectors, index.layout).float(), threshold, say)
    if confirm and len(pairs):
        kept = _confirmed(index, positions, pairs)
        pairs, scores = pairs[kept], scores[kept]
    return list(_groups(index, positions, pairs, scores))


def _pairs(
    vectors: Tensor, threshold: float, say: Callable[[int], None] | None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows of the pairs (P, 2), the first before the second, and their cosines (P,). vectors: (R, D) unit length."""
    found: list[Tensor] = []
    scores: list[Tensor] = []
    total = 0
    for start in range(0, len(vectors), _STEP):
        some = vectors[start : start + _STEP]
        for other in range(start, len(vectors), _STEP):
            alike = some @ vectors[other : other + _STEP].T
            places = (alike >= threshold).nonzero()
            places = places[places[:, 0] + start < places[:, 1] + other]
            found.append(places + torch.tensor([start, other]))
            scores.append(alike[places[:, 0], places[:, 1]])
            total += len(places)
            if total > MOST_PAIRS:
                raise DataError(f"more than {MOST_PAIRS:,} pairs reach {threshold:g}; raise --threshold")
        if say is not None:
            say(len(some))
    if not found:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.float32)
    return torch.cat(found).numpy(), torch.cat(scores).numpy()


def _confirmed(index: VectorIndex, positions: Tensor, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(P,): whether the pictures of each pair look the same, too."""
    needed = np.unique(pairs).tolist()
    with ThreadPoolExecutor(cores()) as pool:
        looks = dict(zip(needed, pool.map(lambda k: _look(index.row(int(positions[k]))), needed), strict=True))

    def same(a: int, b: int) -> bool:
        one, two = looks[a], looks[b]
        if one is None or two is None:
            return True
        bits = (one[0] ^ two[0]).bit_count()
        return bits <= NEAR and float(one[1].astype(np.float32) @ two[1].astype(np.float32)) >= SAME

    return np.array([same(a, b) for a, b in pairs.tolist()], dtype=np.bool_)


def _look(row: Row) -> tuple[int, NDArray[np.float16]] | None:
    return None if row.path is None or row.box is not None else fingerprint(Path(row.path))


def _groups(
    index: VectorIndex, positions: Tensor, pairs: NDArray[np.int64], scores: NDArray[np.float32]
) -> Iterator[Group]:
    """Connected rows, the largest group first."""
    if not len(pairs):
        return
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows, place = np.unique(pairs, return_inverse=True)
    place = place.reshape(pairs.shape)
    graph = coo_matrix((np.ones(len(place)), (place[:, 0], place[:, 1])), shape=(len(rows),) * 2)
    _, labels = connected_components(graph, directed=False)
    near = np.bincount(place.ravel(), minlength=len(rows))
    sizes = np.bincount(labels)
    for label in np.argsort(-sizes, kind="stable").tolist():
        own = np.flatnonzero(labels == label)
        own = own[np.argsort(-near[own], kind="stable")]
        least = float(scores[labels[place[:, 0]] == label].min())
        yield Group(tuple(index.row(int(positions[rows[k]])) for k in own), least)
