# SPDX-License-Identifier: Apache-2.0
"""A made-up batch that knows everything there is to know of an image, and one of which nobody knows anything.

Legend: B images, N boxes of an image, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unified.contracts.extras import Bitmap, Keypoints, Masks
from unified.contracts.protocols import Labels
from unified.contracts.structures import Annotations, Batch, Frame, LabelState, Vocabulary

VOCABULARY = Vocabulary(
    boxes=("ant", "bee", "cat", "dog"),
    tags=("wet", "dark", "near"),
    identities=("a", "b", "c", "d", "e", "f"),
    image_identities=("x", "y"),
)
SIZE = (64, 96)  # (height, width) pixels
_BOXES = (
    ((4.0, 6.0, 30.0, 28.0), (40.0, 20.0, 70.0, 60.0), (60.0, 2.0, 90.0, 30.0)),
    ((10.0, 30.0, 50.0, 62.0), (52.0, 8.0, 84.0, 40.0)),
)
_LABELS = ((0, 1, 1), (2, 0))
_CAPTIONS = (("an ant beside two bees", "three things"), ("a cat over an ant", "a large thing above another"))
_TAGS = (
    (LabelState.POSITIVE, LabelState.NEGATIVE, LabelState.UNLABELLED),
    (LabelState.NEGATIVE, LabelState.POSITIVE, LabelState.POSITIVE),
)


def scene(task: str, labels: Labels, vocabulary: Vocabulary = VOCABULARY, size: tuple[int, int] = SIZE) -> Batch:
    """Two images with boxes, tags, identities, key points (``centre``, ``head``), masks and captions.

    The second image's classes beyond the first three are unlabelled.

    Args:
        task: its name, under which the label states stand.
        labels: the table it learns from.
        vocabulary: at least three classes, and as many tags as :data:`VOCABULARY`.
        size: (height, width) pixels of the input, at least 64 x 96.
    """
    found = tuple(_image(i, task, labels, vocabulary, size) for i in range(len(_BOXES)))
    return _batch(found, task, size)


def blank(task: str, labels: Labels, vocabulary: Vocabulary = VOCABULARY, size: tuple[int, int] = SIZE) -> Batch:
    """Two images of which nothing is known: every state is UNLABELLED, and there is no box."""
    states = {task: torch.zeros(_width(labels, vocabulary), dtype=torch.int8)}
    return _batch(tuple(Annotations(states=states) for _ in range(2)), task, size)


def twice(batch: Batch) -> Batch:
    """The same images, each a second time."""
    return Batch(
        torch.cat([batch.images, batch.images]), batch.annotations * 2, batch.frames * 2, batch.dataset, batch.tasks
    )


def _batch(annotations: tuple[Annotations, ...], task: str, size: tuple[int, int]) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (len(annotations), 3, *size), generator=generator, dtype=torch.uint8)
    frames = tuple(Frame(f"image {i}", size) for i in range(len(annotations)))
    return Batch(images, annotations, frames, "scene", (task,))


def _image(i: int, task: str, labels: Labels, vocabulary: Vocabulary, size: tuple[int, int]) -> Annotations:
    boxes = torch.tensor(_BOXES[i])
    count = len(boxes)
    sides = boxes[:, 2:] - boxes[:, :2]
    masks = tuple(Bitmap(_filled(box.tolist(), size)) for box in boxes)
    return Annotations(
        boxes_xyxy=boxes,
        box_labels=torch.tensor(_LABELS[i]),
        box_states=torch.full((count,), int(LabelState.POSITIVE), dtype=torch.int8),
        box_identities=torch.arange(count) % max(len(vocabulary.identities), 1)
        if vocabulary.identities
        else -torch.ones(count, dtype=torch.int64),
        box_areas=sides.prod(dim=1),
        box_crowd=torch.zeros(count, dtype=torch.bool),
        identity=i if len(vocabulary.image_identities) > i else -1,
        states={task: _states(i, labels, vocabulary)},
        extras={
            "keypoints": Keypoints(_points(boxes), ("centre", "head"), ((0, 1),)),
            "masks": Masks(size, masks),
            "captions": _CAPTIONS[i],  # of every image its own: what is true of all tells none apart
        },
    )


def _states(i: int, labels: Labels, vocabulary: Vocabulary) -> Tensor:
    states = torch.full((_width(labels, vocabulary),), int(LabelState.NEGATIVE), dtype=torch.int8)
    if labels == "boxes":
        states[torch.tensor(_LABELS[i])] = int(LabelState.POSITIVE)
        states[3:] = int(LabelState.NEGATIVE if i == 0 else LabelState.UNLABELLED)
    elif labels == "tags":
        told = torch.tensor([int(state) for state in _TAGS[i]], dtype=torch.int8)[: len(states)]
        states[: len(told)] = told
    elif labels == "identities":
        states[:] = int(LabelState.POSITIVE)
    return states


def _width(labels: Labels, vocabulary: Vocabulary) -> int:
    return {"boxes": len(vocabulary.boxes), "tags": len(vocabulary.tags), "identities": 1}.get(labels, 0)


def _points(boxes: Tensor) -> Tensor:
    """(N, 2, 3): the middle of each box, and a point on the way to a corner, each box another one; all visible."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    corner = torch.stack([boxes[torch.arange(len(boxes)), 2 * (torch.arange(len(boxes)) % 2)], boxes[:, 1]], dim=1)
    points = torch.stack([middle, (middle + corner) / 2], dim=1)
    return torch.cat([points, torch.full((len(boxes), 2, 1), 2.0)], dim=2)


def _filled(box: list[float], size: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    pixels = np.zeros(size, dtype=np.bool_)
    x0, y0, x1, y1 = (int(v) for v in box)
    pixels[y0:y1, x0:x1] = True
    return pixels
