# SPDX-License-Identifier: Apache-2.0
"""Which box belongs to which track: costs in 0..1, and the cheapest set of pairs.

Legend: T tracks, N boxes, D embedding width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from unified.inference.motion import Floats

Pairs = NDArray[np.int64]
"""(M, 2): track, box."""


def cheapest(cost: Floats, most: float) -> Pairs:
    """The pairs of the least total cost, where leaving a pair apart costs ``most``.

    Args:
        cost: (T, N); infinite where a pair is impossible.
        most: pairs that cost as much or more are left apart.

    Returns:
        (M, 2) int64: rows and columns, each at most once.
    """
    rows, columns = linear_sum_assignment(np.minimum(cost, most))
    good = cost[rows, columns] < most
    return np.stack([rows[good], columns[good]], axis=1).astype(np.int64)


def overlaps(a_xyxy: Floats, b_xyxy: Floats) -> Floats:
    """Intersection over union (T, N) of boxes (T, 4) and (N, 4) in pixels."""
    low = np.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    high = np.minimum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=-1) for boxes in (a_xyxy, b_xyxy)]
    return np.asarray(shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9))


def cosine_distances(a: Floats, b: Floats) -> Floats:
    """(T, N) in 0..2 of unit vectors (T, D) and (N, D)."""
    return np.asarray(1.0 - a @ b.T)


def unit(vectors: Floats) -> Floats:
    """Vectors (N, D) at length one; a zero vector stays zero and is far from every other."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))
