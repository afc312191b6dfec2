# SPDX-License-Identifier: Apache-2.0
"""COCO's scores over a validation set, in the pixels of the original images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unified.boxes import area_xyxy
from unified.contracts.protocols import Curve
from unified.contracts.section import Section
from unified.contracts.structures import Annotations, Batch, Frame, LabelState, Prediction, known

from .coco import CocoEvaluation
from .evidence import Boxes, Evidence
from .sections import Place, sections
from .targets import crowd

REPORTED = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
DRAWN = 10  # classes with a line of their own


class DetectionMetric:
    """Gathers boxes and compares them as COCO does.

    An image where a class is not known counts for that class neither as a hit nor as a miss: detections and boxes of it
    are left out there. Crowds and boxes in the state IGNORE are taken as COCO takes crowds: what lies inside them is
    neither right nor wrong.

    Attributes:
        per_class: AP by class name, filled by :meth:`compute`; classes without truth are left out.
    """

    def __init__(self, task: str, names: Sequence[str]) -> None:
        self.task = task
        self.names = tuple(names)
        self.per_class: dict[str, float] = {}
        self._images: list[dict[str, Any]] = []
        self._places: list[Place] = []
        self._truth: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []
        self._evaluation: CocoEvaluation | None = None

    def update(self, output: Any, predictions: Sequence[Prediction], batch: Batch) -> None:
        """One batch; predictions and annotations in input pixels, their frames lead to the original ones."""
        self._evaluation = None
        states = batch.states(self.task, len(self.names)).cpu()
        rows = zip(predictions, batch.annotations, batch.frames, known(states), strict=True)
        for prediction, truth, frame, sure in rows:
            number = len(self._images) + 1
            self._images.append({"id": number, "height": frame.size[0], "width": frame.size[1]})
            self._places.append((batch.dataset, frame.image_id))
            self._truth += truth_rows(truth, frame, sure, number, first=len(self._truth) + 1)
            self._found += found_rows(prediction, frame, sure, number)

    def compute(self) -> dict[str, float]:
        """COCO's scores in [0, 1]; AP is 0 where nothing was found and left out where there was nothing to find."""
        evaluation = self._evaluate()
        if evaluation is None:
            return {}
        self.per_class = {self.names[k]: ap for k, ap in evaluation.per_class().items()}
        scores = evaluation.scores()
        return {name: scores[name] for name in REPORTED if name in scores}

    def curves(self) -> dict[str, list[Curve]]:
        """Precision over recall at IoU 0.5: the mean, then the classes with the most boxes."""
        evaluation = self._evaluate()
        rows = evaluation.precision50() if evaluation else {}
        if not rows:
            return {}
        boxes = np.bincount([row["category_id"] for row in self._truth], minlength=len(self.names))
        largest = sorted(rows, key=lambda k: -boxes[k])[:DRAWN]
        lines = [pr_curve(np.mean(list(rows.values()), axis=0), "mean")]
        return {"pr": lines + [pr_curve(rows[k], self.names[k]) for k in largest]}

    def sections(self) -> list[Section]:
        """Classes, thresholds, confusions and the worst mistakes."""
        evaluation = self._evaluate()
        if evaluation is None:
            return []
        evidence = Evidence(Boxes.of(self._found), Boxes.of(self._truth), len(self._images))
        return sections(evidence, self.names, self._places, evaluation.per_class(), evaluation.precision50())

    def evidence(self) -> dict[str, Any]:
        """Sizes and places of images, and as rows of numbers the true boxes (M, 8) and the found ones (N, 7)."""
        sizes = [[image["height"], image["width"]] for image in self._images]
        truth = [[t["image_id"], t["category_id"], *t["bbox"], t["area"], t["iscrowd"]] for t in self._truth]
        found = [[f["image_id"], f["category_id"], *f["bbox"], f["score"]] for f in self._found]
        rows = {"truth": torch.tensor(truth, dtype=torch.float64), "found": torch.tensor(found, dtype=torch.float64)}
        return {"sizes": sizes, "places": self._places, **rows}

    def extend(self, evidence: Mapping[str, Any]) -> None:
        """Adds what another metric's :meth:`evidence` tells; its images are numbered on from these."""
        self._evaluation = None
        images, boxes = len(self._images), len(self._truth)
        for k, (height, width) in enumerate(evidence["sizes"], start=images + 1):
            self._images.append({"id": k, "height": height, "width": width})
        self._places += [(dataset, image) for dataset, image in evidence["places"]]
        for k, (image, label, *box, area, skip) in enumerate(evidence["truth"].tolist(), start=boxes + 1):
            row = {"id": k, "image_id": images + int(image), "category_id": int(label), "bbox": box, "area": area}
            self._truth.append({**row, "iscrowd": int(skip)})
        for image, label, *box, score in evidence["found"].tolist():
            row = {"image_id": images + int(image), "category_id": int(label), "bbox": box, "score": score}
            self._found.append(row)

    def _evaluate(self) -> CocoEvaluation | None:
        if self._evaluation is None and self._truth:
            categories = [{"id": k, "name": name} for k, name in enumerate(self.names)]
            truth = {"images": self._images, "categories": categories, "annotations": self._truth}
            self._evaluation = CocoEvaluation(truth, self._found)
        return self._evaluation


def truth_rows(annotations: Annotations, frame: Frame, sure: Tensor, image: int, first: int) -> list[dict[str, Any]]:
    """COCO annotations of one image, of its known classes only; ``first`` is the id of the first row."""
    labels = annotations.box_labels
    kept = annotations.select((labels >= 0) & sure[labels.clamp(min=0)]) if len(annotations) else annotations
    boxes = frame.to_original(kept.boxes_xyxy.float())
    ignored = crowd(kept) | (kept.box_states == LabelState.IGNORE)
    areas = kept.box_areas if len(kept.box_areas) == len(kept) else area_xyxy(boxes)
    columns = zip(xywh(boxes), kept.box_labels.tolist(), areas.tolist(), ignored.tolist(), strict=True)
    return [
        {"id": i, "image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": int(skip)}
        for i, (box, label, area, skip) in enumerate(columns, start=first)
    ]


def found_rows(prediction: Prediction, frame: Frame, sure: Tensor, image: int) -> list[dict[str, Any]]:
    """COCO detections of one image, of its known classes only."""
    shown = prediction.in_frame(frame)
    if shown.boxes_xyxy is None or shown.scores is None or shown.labels is None:
        return []
    labels = shown.labels.cpu()
    kept = sure[labels]
    columns = zip(
        xywh(shown.boxes_xyxy.cpu()[kept]), labels[kept].tolist(), shown.scores.cpu()[kept].tolist(), strict=True
    )
    return [{"image_id": image, "category_id": label, "bbox": box, "score": score} for box, label, score in columns]


def xywh(boxes_xyxy: Tensor) -> list[list[float]]:
    """COCO's box form: left, top, width, height."""
    boxes = boxes_xyxy.double()
    rows: list[list[float]] = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
    return rows


def pr_curve(precision: np.ndarray, label: str) -> Curve:
    """precision: (101,) at recalls 0, .01 .. 1."""
    return Curve(np.linspace(0, 1, len(precision)).tolist(), precision.tolist(), label, "recall", "precision")
