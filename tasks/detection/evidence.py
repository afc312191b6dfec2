# SPDX-License-Identifier: Apache-2.0
"""Which detections were right: one finished comparison at one overlap, from which curves, tables and pictures follow.

Legend: D detections, T true boxes, K classes, of the whole validation set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

OVERLAP = 0.5  # least IoU of a detection that is right

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Boxes:
    """Boxes of many images, those of one image together. ``image`` counts from 1, as COCO's rows do."""

    image: Ints  # (N,)
    label: Ints  # (N,)
    xyxy: Floats  # (N, 4) original pixels
    score: Floats  # (N,) detections only; zeros of a truth
    ignored: Mask  # (N,) truth only: neither to be found nor to be missed

    @staticmethod
    def of(rows: Sequence[Mapping[str, Any]]) -> Boxes:
        """COCO rows, the best score of an image first."""
        image = np.array([row["image_id"] for row in rows], dtype=np.int64)
        score = np.array([row.get("score", 0.0) for row in rows], dtype=np.float64)
        xywh = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
        label = np.array([row["category_id"] for row in rows], dtype=np.int64)
        ignored = np.array([bool(row.get("iscrowd", 0)) for row in rows], dtype=np.bool_)
        order = np.lexsort((-score, image))
        xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        return Boxes(image[order], label[order], xyxy[order], score[order], ignored[order])

    def __len__(self) -> int:
        return len(self.image)

    def of_images(self, count: int) -> list[slice]:
        """Where the boxes of images 1..count stand."""
        ends = np.searchsorted(self.image, np.arange(count + 1), side="right")
        return [slice(a, b) for a, b in pairwise(ends.tolist())]


class Matching:
    """Every detection's partner: a free true box that it overlaps best, the best score of an image choosing first.

    Args:
        found, truth: detections and true boxes.
        images: their number.
        least: detections below this score take no part.
        any_class: a box of another class is a partner too.
    """

    def __init__(self, found: Boxes, truth: Boxes, images: int, *, least: float = 0.0, any_class: bool = False) -> None:
        self.found, self.truth = found, truth
        self.partner = np.full(len(found), -1)  # (D,) row of the truth, -1 for none
        self.excused = np.zeros(len(found), dtype=np.bool_)  # (D,) lies on something to be ignored
        self.taken = np.zeros(len(truth), dtype=np.bool_)  # (T,)
        self.active = found.score >= least
        for of_found, of_truth in zip(found.of_images(images), truth.of_images(images), strict=True):
            if of_found.stop > of_found.start and of_truth.stop > of_truth.start:
                self._match(of_found, of_truth, any_class)

    def _match(self, of_found: slice, of_truth: slice, any_class: bool) -> None:
        overlap = iou(self.found.xyxy[of_found], self.truth.xyxy[of_truth])
        if not any_class:
            overlap = overlap * (self.found.label[of_found, None] == self.truth.label[None, of_truth])
        overlap[~self.active[of_found]] = 0.0
        ignored = self.truth.ignored[of_truth]
        for row in np.flatnonzero(overlap.max(axis=1) >= OVERLAP).tolist():
            free = np.where(self.taken[of_truth] | ignored, 0.0, overlap[row])
            best = int(free.argmax())
            if free[best] >= OVERLAP:
                self.partner[of_found.start + row] = of_truth.start + best
                self.taken[of_truth.start + best] = True
            elif (overlap[row] * ignored).max() >= OVERLAP:
                self.excused[of_found.start + row] = True

    @property
    def false(self) -> Mask:
        """(D,) detections of nothing."""
        return self.active & (self.partner < 0) & ~self.excused

    @property
    def missed(self) -> Mask:
        """(T,) true boxes that nothing found."""
        return ~self.taken & ~self.truth.ignored


@dataclass(frozen=True)
class Trade:
    """Precision, recall and F1 of one class at every threshold of a grid. Arrays are (G,)."""

    precision: Floats
    recall: Floats
    f1: Floats

    @property
    def best(self) -> int:
        """Where F1 is highest; of equal ones the middle."""
        tops = np.flatnonzero(self.f1 >= self.f1.max() - 1e-12)
        return int(tops[len(tops) // 2])


GRID = np.linspace(0.0, 1.0, 101)
"""Thresholds on the score."""


class Evidence:
    """All that follows from detections compared with the truth at an IoU of 0.5."""

    def __init__(self, found: Boxes, truth: Boxes, images: int) -> None:
        self.found, self.truth, self.images = found, truth, images

    @cached_property
    def by_class(self) -> Matching:
        """Detections and truth of the same class."""
        return Matching(self.found, self.truth, self.images)

    @cached_property
    def counts(self) -> dict[int, int]:
        """True boxes by class, of the classes that have any."""
        labels, counts = np.unique(self.truth.label[~self.truth.ignored], return_counts=True)
        return dict(zip(labels.tolist(), counts.tolist(), strict=True))

    @cached_property
    def trades(self) -> dict[int, Trade]:
        """Of every class with true boxes."""
        right = self.by_class.partner >= 0
        judged = ~self.by_class.excused
        return {
            k: trade(self.found.score[rows], right[rows], total)
            for k, total in self.counts.items()
            for rows in [judged & (self.found.label == k)]
        }

    @cached_property
    def overall(self) -> Trade:
        """The mean over classes, each as much as any other."""
        rows = list(self.trades.values())
        return Trade(*(np.mean([getattr(row, name) for row in rows], axis=0) for name in ("precision", "recall", "f1")))

    @cached_property
    def threshold(self) -> float:
        """The score at which the mean F1 is highest."""
        return float(GRID[self.overall.best])

    @cached_property
    def shown(self) -> Matching:
        """Detections at that score and above."""
        return Matching(self.found, self.truth, self.images, least=self.threshold)

    def confusion(self, classes: int) -> Ints:
        """(K + 1, K + 1) boxes by true class (row) and said class; the last row is background, the last column missed.

        At the score of the best mean F1; a detection's partner may be of another class.
        """
        matching = Matching(self.found, self.truth, self.images, least=self.threshold, any_class=True)
        table = np.zeros((classes + 1, classes + 1), dtype=np.int64)
        met = matching.partner >= 0
        np.add.at(table, (self.truth.label[matching.partner[met]], self.found.label[met]), 1)
        np.add.at(table[classes], self.found.label[matching.false], 1)
        np.add.at(table[:, classes], self.truth.label[matching.missed], 1)
        return table


def trade(score: Floats, right: Mask, total: int) -> Trade:
    """score, right: (D,) of one class; total: its true boxes. Where nothing is said, precision is 1."""
    order = np.argsort(score)
    score, hits = score[order], np.append(0, np.cumsum(right[order][::-1]))[::-1]  # hits from here up
    at = np.searchsorted(score, GRID, side="left")
    said, true = len(score) - at, hits[at].astype(np.float64)
    precision = np.where(said > 0, true / np.maximum(said, 1), 1.0)
    recall = true / max(total, 1)
    f1 = 2 * true / np.maximum(said + total, 1)
    return Trade(precision, recall, f1)


def iou(a: Floats, b: Floats) -> Floats:
    """(N, M) overlaps of boxes xyxy (N, 4) and (M, 4)."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(np.clip(side[:, 2:] - side[:, :2], 0, None), axis=1) for side in (a, b)]
    result: Floats = both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-9)
    return result
