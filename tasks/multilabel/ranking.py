# SPDX-License-Identifier: Apache-2.0
"""How well scores put what holds before what does not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def scored_tags(truth: Mask, labelled: Mask) -> list[int]:
    """Tags with a known positive and a known negative; without both a ranking says nothing."""
    enough = (truth & labelled).any(axis=0) & (~truth & labelled).any(axis=0)
    return [int(a) for a in np.flatnonzero(enough)]


def precision_recall(scores: Array, truth: Mask) -> tuple[Array, Array]:
    """Precision and recall at every distinct score, highest first; equal scores are one step. scores, truth: (N,)."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(truth[order])
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))  # the last rank of each distinct score
    return hits[last] / (last + 1), hits[last] / hits[-1]


def average_precision(scores: Array, truth: Mask) -> float:
    """Area under the precision-recall steps: sum of precision times the growth of recall. scores, truth: (N,)."""
    precision, recall = precision_recall(scores, truth)
    return float(np.sum(precision * np.diff(recall, prepend=0.0)))
