# SPDX-License-Identifier: Apache-2.0
"""What of an evaluation a person is shown: confident boxes, the truth beside them, and nearest neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unified.boxes import iou_xyxy
from unified.contracts.answer import selected
from unified.contracts.protocols import Task
from unified.contracts.structures import Prediction, positive

if TYPE_CHECKING:
    from unified.training.evaluator import Shown
    from unified.training.sheet import Example

CONFIDENT = 0.3  # least score of a box on a sheet
MATCH = 0.5  # least overlap at which a predicted box is taken for a true one
LEAST_SIDE = 12  # pixels of a crop worth looking at


def pixels(shown: Shown) -> NDArray[np.uint8]:
    """The image as (H, W, 3) RGB."""
    return shown.image.permute(1, 2, 0).numpy()


def confident(prediction: Prediction, least: float = CONFIDENT) -> Prediction:
    """The prediction with its likely boxes only."""
    if prediction.scores is None:
        return prediction
    keep = prediction.scores >= least
    per_box = ("boxes_xyxy", "scores", "labels", "box_embeddings")
    kept = {name: value[keep] for name in per_box if (value := getattr(prediction, name)) is not None}
    return replace(prediction, **kept, extras=selected(prediction.extras, keep))


def truth(shown: Shown, tasks: Mapping[str, Task]) -> Prediction:
    """The annotations in the shape of a prediction; tags only where a task looked for them in this image."""
    known, said = shown.annotations, shown.prediction
    result = Prediction(
        size=said.size,
        boxes_xyxy=known.boxes_xyxy,
        labels=known.box_labels,
        scores=torch.ones(len(known)),
        box_names=said.box_names,
        extras={name: told for name, task in tasks.items() if (told := task.truth(known)) is not None},
    )
    for name, task in tasks.items():
        states = known.states.get(name)
        if task.labels == "tags" and states is not None and len(states) == len(said.tag_names):
            return replace(result, tag_scores=positive(states).float(), tag_names=said.tag_names)
    return result


@dataclass(frozen=True)
class _Object:
    """A predicted box that stands on a true one of known identity."""

    crop: NDArray[np.uint8]
    vector: Tensor  # (D,) unit length
    identity: int
    image: int  # which of the shown images


def retrieval_examples(shown: Sequence[Shown], rows: int = 6, neighbours: int = 6) -> list[Example]:
    """Queries with their nearest neighbours in other images, by cosine similarity of the box embeddings.

    Queries are objects that another image shows again, so that a hit is possible; each identity asks once.
    """
    objects = [found for i, one in enumerate(shown) for found in _objects(one, i)]
    examples: list[Example] = []
    asked: set[int] = set()
    for query in objects:
        gallery = [other for other in objects if other.image != query.image]
        if query.identity in asked or not any(other.identity == query.identity for other in gallery):
            continue
        asked.add(query.identity)
        near = sorted(gallery, key=lambda other: -float(query.vector @ other.vector))[:neighbours]
        examples.append((query.crop, [(other.crop, other.identity == query.identity) for other in near]))
    return examples[:rows]


def _objects(shown: Shown, image: int) -> list[_Object]:
    said, known = confident(shown.prediction), shown.annotations
    if said.boxes_xyxy is None or said.box_embeddings is None or not len(known) or not len(said.boxes_xyxy):
        return []
    boxes = said.boxes_xyxy.cpu()
    overlap, match = iou_xyxy(boxes[:, None], known.boxes_xyxy[None]).max(dim=1)  # (N,)
    vectors = said.box_embeddings.cpu().float()
    objects: list[_Object] = []
    seen: set[int] = set()
    for i in torch.nonzero(overlap >= MATCH).flatten().tolist():
        true = int(match[i])
        identity = int(known.box_identities[true]) if true < len(known.box_identities) else -1
        crop = _crop(pixels(shown), boxes[i])
        if identity >= 0 and true not in seen and crop is not None:
            seen.add(true)
            objects.append(_Object(crop, vectors[i], identity, image))
    return objects


def _crop(image: NDArray[np.uint8], box_xyxy: Tensor) -> NDArray[np.uint8] | None:
    x0, y0, x1, y1 = (max(0, round(v)) for v in box_xyxy.tolist())
    crop = image[y0:y1, x0:x1]
    return crop if min(crop.shape[:2]) >= LEAST_SIDE else None
