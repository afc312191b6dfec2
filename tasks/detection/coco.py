# SPDX-License-Identifier: Apache-2.0
"""COCO's average precision and recall, by faster-coco-eval (the numbers of pycocotools, many times faster)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

IouType = Literal["bbox", "segm", "keypoints"]

BOX_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
KEYPOINT_NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")


class CocoEvaluation:
    """One finished evaluation of detections against a truth, both in COCO's format.

    Args:
        truth: images, categories and annotations, as in an instances file.
        detections: rows of image_id, category_id, score and bbox (x, y, width, height), segmentation or keypoints.
        iou_type: what overlaps are measured on.
    """

    def __init__(
        self, truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], iou_type: IouType = "bbox"
    ) -> None:
        from faster_coco_eval import COCO, COCOeval_faster  # only an evaluation needs it

        silent = {"print_function": _say_nothing}
        known = COCO({**truth, "annotations": [dict(row) for row in truth["annotations"]]}, **silent)
        found = known.loadRes([dict(row) for row in detections])
        self._evaluation = COCOeval_faster(known, found, iou_type, **silent)
        self._names = KEYPOINT_NAMES if iou_type == "keypoints" else BOX_NAMES
        self._evaluation.run()

    def scores(self) -> dict[str, float]:
        """COCO's scores by name in [0, 1]; those without evidence are left out."""
        values = self._evaluation.stats[: len(self._names)]
        return {name: float(value) for name, value in zip(self._names, values, strict=True) if value >= 0}

    def per_class(self) -> dict[int, float]:
        """AP by category id; categories without truth are left out."""
        precision = self._precision().mean(axis=(0, 1))  # (K,), a whole column is -1 where there is no truth
        return {k: float(p) for k, p in zip(self._evaluation.params.catIds, precision, strict=True) if p >= 0}

    def precision50(self) -> dict[int, np.ndarray]:
        """Precision at IoU 0.5 and recall 0, .01 .. 1 by category id; categories without truth are left out."""
        curves = self._precision()[0].T  # (K, 101)
        return {k: row for k, row in zip(self._evaluation.params.catIds, curves, strict=True) if row[0] >= 0}

    def _precision(self) -> np.ndarray:
        """(10 IoU thresholds, 101 recalls, K classes): all areas, most detections."""
        return np.asarray(self._evaluation.eval["precision"])[:, :, :, 0, -1]


def coco_scores(
    truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], iou_type: IouType = "bbox"
) -> dict[str, float]:
    """COCO's scores by name, such as AP, AP50 and AR100, in [0, 1]; those without evidence are left out."""
    return CocoEvaluation(truth, detections, iou_type).scores()


def _say_nothing(*_: Any, **__: Any) -> None:
    """In place of the library's prints."""
