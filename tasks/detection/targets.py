# SPDX-License-Identifier: Apache-2.0
"""What a batch teaches a detector: the boxes to find, the boxes to look away from, and the classes that are known.

Legend: T boxes of the whole batch in one flat list, B images, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unified.contracts.structures import Annotations, Batch, known, positive

EVERY_CLASS = -1


@dataclass(frozen=True)
class FlatBoxes:
    """Boxes of all images of a batch, flat, so that crowded images cost the others nothing."""

    image: Tensor  # (T,) int64 index into the batch
    boxes_xyxy: Tensor  # (T, 4) pixels
    labels: Tensor  # (T,) int64, EVERY_CLASS where a box stands for all of them

    def __len__(self) -> int:
        return len(self.image)

    def select(self, index: Tensor) -> FlatBoxes:
        """index: (M,) int64 or (T,) bool."""
        return FlatBoxes(self.image[index], self.boxes_xyxy[index], self.labels[index])

    def to(self, device: torch.device) -> FlatBoxes:
        return FlatBoxes(self.image.to(device), self.boxes_xyxy.to(device), self.labels.to(device))


@dataclass(frozen=True)
class BoxTargets:
    """The truth of a batch as far as it is known."""

    wanted: FlatBoxes
    ignored: FlatBoxes  # crowds, difficult objects, and boxes of classes that are not known in their image
    known: Tensor  # (B, K) bool: a yes or a no is known of this class in this image

    @classmethod
    def of(cls, batch: Batch, task: str, classes: int) -> BoxTargets:
        """The targets of a task with K ``classes``, on the device of the images."""
        device = batch.images.device
        states = known(batch.states(task, classes)).cpu()  # (B, K)
        boxes = flatten(batch.annotations)
        teaches = torch.cat([positive(a.box_states) for a in batch.annotations])
        teaches &= (boxes.labels >= 0) & states[boxes.image, boxes.labels.clamp(min=0)]
        boxed = (boxes.boxes_xyxy[:, 2:] > boxes.boxes_xyxy[:, :2]).all(-1)  # a crop may leave an empty box behind
        return cls(
            wanted=boxes.select(teaches & boxed).to(device),
            ignored=boxes.select(~teaches & boxed).to(device),
            known=states.to(device),
        )


def flatten(annotations: tuple[Annotations, ...]) -> FlatBoxes:
    """All boxes of a batch; crowds stand for every class, since nobody looked what else is in them."""
    counts = torch.tensor([len(a) for a in annotations])
    labels = torch.cat([a.box_labels for a in annotations])
    return FlatBoxes(
        image=torch.repeat_interleave(torch.arange(len(annotations)), counts),
        boxes_xyxy=torch.cat([a.boxes_xyxy for a in annotations]).float(),
        labels=torch.where(torch.cat([crowd(a) for a in annotations]), EVERY_CLASS, labels),
    )


def crowd(annotations: Annotations) -> Tensor:
    """(N,) bool; a source that does not speak of crowds has none."""
    given = annotations.box_crowd
    return given if len(given) == len(annotations) else torch.zeros(len(annotations), dtype=torch.bool)


def inside(boxes_xyxy: Tensor, points_xy: Tensor) -> Tensor:
    """Which points lie strictly inside which boxes: (T, 4), (P, 2) -> (T, P) bool."""
    x, y = points_xy.unbind(-1)
    left, top, right, bottom = boxes_xyxy[:, :, None].unbind(1)  # each (T, 1)
    return (x > left) & (x < right) & (y > top) & (y < bottom)
