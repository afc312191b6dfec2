# SPDX-License-Identifier: Apache-2.0
"""Object detection as a task: which losses fit which head, what is shown, how it is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any, ClassVar

from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Labels, Task
from unified.contracts.structures import (
    AnchorBoxOutput,
    Batch,
    LossTerm,
    PointBoxOutput,
    Prediction,
    QueryBoxOutput,
    Vocabulary,
)

from .aligned import AlignedAssigner
from .anchor_loss import AnchorCriterion
from .matching import HungarianMatcher
from .metric import DetectionMetric
from .point_loss import PointCriterion
from .ratio import RatioAssigner
from .selection import Selection
from .set_loss import SetCriterion
from .targets import BoxTargets


class DetectionTask(Task):
    """Finds the boxes of the vocabulary's classes.

    The head's output says by its ``criterion`` which losses train it: ``points`` (anchor-free), ``anchors`` or
    ``queries``.

    Args:
        name: the task's name in the run; it indexes ``Annotations.states``.
        vocabulary: its ``boxes`` are the classes.
        box_gain, class_gain, dfl_gain: weights of the anchor-free losses.
        topk, alpha, beta: of the task-aligned assignment (Feng et al. 2021, TOOD, eq. 3).
        anchor_box_gain, anchor_class_gain, anchor_object_gain: weights of the anchor-based losses (YOLOR's recipe; the
            class weight is for 80 classes and is scaled with their number).
        anchor_ratio: an anchor learns boxes whose sides differ from its own by a factor below this.
        anchor_balance: weights of the levels' objectness, finest first; further levels take the last one.
        query_class_gain, query_l1_gain, query_giou_gain: weights of the set losses, and costs of the matching before
            them (Carion et al. 2020, DETR, section 3.1; values of Zhu et al. 2021, Deformable DETR).
        confidence, nms_iou, max_boxes, candidates, multi_label: what is shown, see :class:`Selection`; each can be
            given to :meth:`predict` as well.
    """

    labels: ClassVar[Labels] = "boxes"
    default_head: ClassVar[str] = "detect_free"
    provides: ClassVar[tuple[str, ...]] = ("boxes_xyxy", "scores", "labels")
    primary: ClassVar[str] = "AP"
    scores: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "AP": "area under precision over recall, mean over classes and over overlaps 0.5 to 0.95; 1 is perfect",
            "AP50": "the same where an overlap (IoU) of 0.5 makes a box right",
            "AP75": "the same where the overlap must be 0.75: how exactly boxes sit",
            "APs": "AP of small objects, under 32 x 32 pixels",
            "APm": "AP of medium objects",
            "APl": "AP of large objects, over 96 x 96 pixels",
            "AR100": "share of objects found among the 100 best boxes of an image, mean over overlaps",
        }
    )

    def __init__(
        self,
        name: str,
        vocabulary: Vocabulary,
        *,
        box_gain: float = 7.5,
        class_gain: float = 0.5,
        dfl_gain: float = 1.5,
        topk: int = 10,
        alpha: float = 0.5,
        beta: float = 6.0,
        anchor_box_gain: float = 0.05,
        anchor_class_gain: float = 0.5,
        anchor_object_gain: float = 1.0,
        anchor_ratio: float = 4.0,
        anchor_balance: Sequence[float] = (4.0, 1.0, 0.4, 0.1),
        query_class_gain: float = 2.0,
        query_l1_gain: float = 5.0,
        query_giou_gain: float = 2.0,
        confidence: float = 0.05,
        nms_iou: float = 0.65,
        max_boxes: int = 300,
        candidates: int = 1000,
        multi_label: bool = True,
    ) -> None:
        super().__init__()
        if not vocabulary.boxes:
            raise ConfigError(f"task '{name}' detects boxes, but no dataset of the run names a box class; add one")
        self.name, self.vocabulary, self.outputs = name, vocabulary, len(vocabulary.boxes)
        self.selection = Selection(confidence, nms_iou, max_boxes, candidates, multi_label)
        self.criteria: dict[str, Callable[[Any, BoxTargets], dict[str, LossTerm]]] = {
            PointBoxOutput.criterion: PointCriterion(
                AlignedAssigner(topk, alpha, beta), box_gain, class_gain, dfl_gain
            ),
            AnchorBoxOutput.criterion: AnchorCriterion(
                RatioAssigner(anchor_ratio),
                anchor_box_gain,
                anchor_class_gain,
                anchor_object_gain,
                tuple(anchor_balance),
            ),
            QueryBoxOutput.criterion: SetCriterion(
                HungarianMatcher(query_class_gain, query_l1_gain, query_giou_gain),
                query_class_gain,
                query_l1_gain,
                query_giou_gain,
            ),
        }

    def loss(self, output: Any, batch: Batch) -> Mapping[str, LossTerm]:
        """Loss terms of a detection head's output; what is not labelled adds nothing.

        Raises:
            ConfigError: the head's output is of no kind this task has losses for.
        """
        criterion = self.criteria.get(getattr(output, "criterion", ""))
        if criterion is None:
            raise ConfigError(
                f"task '{self.name}' has no losses for {type(output).__name__}; give it a head whose output's "
                f"`criterion` is one of: {', '.join(self.criteria)}"
            )
        return criterion(output, BoxTargets.of(batch, self.name, self.outputs))

    def predict(self, output: Any, predictions: Sequence[Prediction], **options: Any) -> list[Prediction]:
        """Adds boxes in input pixels, best first, float32 on the CPU. ``options``: fields of :class:`Selection`.

        Where the output says that it answers an object once (``single``), repeats are suppressed only on request.
        """
        known = {field.name for field in fields(Selection)}
        own = {"nms_iou": 1.0} if getattr(output, "single", False) else {}
        given = {k: v for k, v in options.items() if k in known and v is not None}
        select = replace(self.selection, **{**own, **given})
        shown = select(*output.decode())
        return [
            replace(p, boxes_xyxy=boxes, scores=scores, labels=labels, box_names=self.vocabulary.boxes)
            for p, (boxes, scores, labels) in zip(predictions, shown, strict=True)
        ]

    def metric(self) -> DetectionMetric:
        """A fresh COCO metric."""
        return DetectionMetric(self.name, self.vocabulary.boxes)
