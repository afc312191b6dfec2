# SPDX-License-Identifier: Apache-2.0
"""Average precision and F1 of tags, over what was labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unified.contracts.protocols import Curve
from unified.contracts.section import Section
from unified.contracts.structures import Batch, Prediction, TagOutput, known, positive

from .ranking import average_precision as average_precision
from .ranking import precision_recall as precision_recall
from .ranking import scored_tags as scored_tags
from .sections import Place, Tags, sections

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


class TagMetric:
    """mAP, mAP_micro, F1_macro and F1_micro (a tag is said to hold above a score of 0.5).

    Only known (image, tag) pairs count. Macro scores are means over the tags with at least one known positive and one
    known negative; micro scores pool every known pair. After :meth:`compute`, ``per_class`` holds each such tag's AP.

    Args:
        task: the name under which images carry their label states.
        tags: the tags' names.
    """

    def __init__(self, task: str, tags: Sequence[str]) -> None:
        self.task = task
        self.tags = tuple(tags)
        self.per_class: dict[str, float] = {}
        self._scores: list[torch.Tensor] = []
        self._states: list[torch.Tensor] = []
        self._places: list[Place] = []

    def update(self, output: TagOutput, predictions: Sequence[Prediction], batch: Batch) -> None:
        self._scores.append(output.logits.detach().double().sigmoid().cpu())
        self._states.append(batch.states(self.task, len(self.tags)).cpu())
        self._places += [(batch.dataset, frame.image_id) for frame in batch.frames]

    def compute(self) -> dict[str, float]:
        scores, truth, labelled = self._evidence()
        self.per_class = {
            self.tags[a]: average_precision(scores[labelled[:, a], a], truth[labelled[:, a], a])
            for a in scored_tags(truth, labelled)
        }
        result = {}
        if self.per_class:
            result["mAP"] = float(np.mean(list(self.per_class.values())))
            result["F1_macro"] = float(np.mean(self._f1_of_tags(scores, truth, labelled)))
        if truth[labelled].any() and not truth[labelled].all():
            result["mAP_micro"] = average_precision(scores[labelled], truth[labelled])
            result["F1_micro"] = f1(scores[labelled] > 0.5, truth[labelled])
        return result

    def curves(self) -> dict[str, list[Curve]]:
        """Precision over recall, of all pairs together and of the ten tags with most positives."""
        scores, truth, labelled = self._evidence()
        often = sorted(scored_tags(truth, labelled), key=lambda a: -int(truth[labelled[:, a], a].sum()))
        if not often:
            return {}
        lines = [_precision_line("all tags", scores[labelled], truth[labelled])]
        for a in often[:10]:
            lines.append(_precision_line(self.tags[a], scores[labelled[:, a], a], truth[labelled[:, a], a]))
        return {"precision_recall": lines}

    def sections(self) -> list[Section]:
        """Tags, thresholds and the worst mistakes."""
        return sections(Tags(self.tags, *self._evidence(), self._places), self.per_class)

    def evidence(self) -> dict[str, Any]:
        """Scores and label states (images, tags), and the images' places."""
        scores, states = torch.zeros(0, len(self.tags), dtype=torch.float64), torch.zeros(0, len(self.tags))
        if self._scores:
            scores, states = torch.cat(self._scores), torch.cat(self._states)
        return {"scores": scores, "states": states, "places": self._places}

    def extend(self, evidence: Mapping[str, Any]) -> None:
        """Adds what another metric's :meth:`evidence` tells."""
        if len(evidence["scores"]):
            self._scores.append(evidence["scores"])
            self._states.append(evidence["states"])
            self._places += [(dataset, image) for dataset, image in evidence["places"]]

    def _evidence(self) -> tuple[Array, Mask, Mask]:
        """Scores, truth and what is known, each (images, tags)."""
        if not self._scores:
            blank = np.zeros((0, len(self.tags)))
            return blank, blank.astype(bool), blank.astype(bool)
        states = torch.cat(self._states)
        return torch.cat(self._scores).numpy(), positive(states).numpy(), known(states).numpy()

    def _f1_of_tags(self, scores: Array, truth: Mask, labelled: Mask) -> list[float]:
        said = scores > 0.5
        return [f1(said[labelled[:, a], a], truth[labelled[:, a], a]) for a in scored_tags(truth, labelled)]


def f1(said: Mask, truth: Mask) -> float:
    """2 TP / (2 TP + FP + FN). said, truth: (N,) with at least one true element."""
    return float(2 * (said & truth).sum() / (said.sum() + truth.sum()))


def _precision_line(name: str, scores: Array, truth: Mask) -> Curve:
    precision, recall = precision_recall(scores, truth)
    thin = np.unique(np.linspace(0, len(recall) - 1, 200).astype(int))
    return Curve(recall[thin].tolist(), precision[thin].tolist(), name, "recall", "precision")
