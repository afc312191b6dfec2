# SPDX-License-Identifier: Apache-2.0
"""Two tasks of one kind in one network: what both say of an image, as one prediction."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch

from unified.contracts.structures import Prediction


def joined(first: Prediction, second: Prediction, twice: Collection[str]) -> Prediction:
    """What one task has said of an image and what another, of the same kind, says beside it.

    Boxes stand together, best score first, and so do tags; classes and tags of equal names are one, and a tag that both
    know has the score of the first. Of vectors the first stay.

    Args:
        first: with the first task's fields.
        second: the same prediction with the second task's fields in their place.
        twice: names of the fields that both fill.
    """
    kept = {name: getattr(first, name) for name in twice}
    if "boxes_xyxy" in twice:
        kept |= _both_boxes(first, second)
    if "tag_scores" in twice:
        kept |= _both_tags(first, second)
    return replace(second, **kept)


def _both_boxes(first: Prediction, second: Prediction) -> dict[str, Any]:
    names = tuple(dict.fromkeys([*first.box_names, *second.box_names]))
    found: dict[str, Any] = {"box_names": names}
    if first.boxes_xyxy is None or first.scores is None or first.labels is None:
        return found | {name: getattr(second, name) for name in ("boxes_xyxy", "scores", "labels", "box_names")}
    if second.boxes_xyxy is None or second.scores is None or second.labels is None:
        return found
    places = first.labels.new_tensor([names.index(name) for name in second.box_names])
    order = torch.cat([first.scores, second.scores]).argsort(descending=True, stable=True)
    pairs = {
        "boxes_xyxy": (first.boxes_xyxy, second.boxes_xyxy),
        "scores": (first.scores, second.scores),
        "labels": (first.labels, places[second.labels]),
    }
    return found | {name: torch.cat(pair)[order] for name, pair in pairs.items()}


def _both_tags(first: Prediction, second: Prediction) -> dict[str, Any]:
    if first.tag_scores is None or second.tag_scores is None:
        said = second if first.tag_scores is None else first
        return {"tag_scores": said.tag_scores, "tag_names": said.tag_names}
    new = [i for i, name in enumerate(second.tag_names) if name not in first.tag_names]
    return {
        "tag_scores": torch.cat([first.tag_scores, second.tag_scores[new]]),
        "tag_names": (*first.tag_names, *(second.tag_names[i] for i in new)),
    }
