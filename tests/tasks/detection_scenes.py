# SPDX-License-Identifier: Apache-2.0
"""Hand-made truths and outputs for the detection tests."""

from collections.abc import Sequence

import torch
from torch import Tensor

from unified.contracts.structures import (
    Annotations,
    Batch,
    Frame,
    LabelState,
    PointBoxOutput,
    Vocabulary,
)

VOCABULARY = Vocabulary(boxes=("ant", "bee", "cow"))


def annotations(
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    *,
    ignored: Sequence[int] = (),
    crowd: Sequence[int] = (),
    states: Sequence[int] | None = (2, 2, 2),
) -> Annotations:
    """``ignored`` and ``crowd`` are indices of boxes; ``states`` of the task ``det``, None where it is unlabelled."""
    count = len(boxes)
    boxes_xyxy = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    box_states = torch.full((count,), int(LabelState.POSITIVE), dtype=torch.int8)
    box_crowd = torch.zeros(count, dtype=torch.bool)
    for i in (*ignored, *crowd):
        box_states[i] = int(LabelState.IGNORE)
    for i in crowd:
        box_crowd[i] = True
    return Annotations(
        boxes_xyxy=boxes_xyxy,
        box_labels=torch.tensor(labels, dtype=torch.int64),
        box_states=box_states,
        box_identities=torch.full((count,), -1),
        box_areas=(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(-1),
        box_crowd=box_crowd,
        states={} if states is None else {"det": torch.tensor(states, dtype=torch.int8)},
    )


def batch_of(*images: Annotations, size: int = 64) -> Batch:
    frames = tuple(Frame(str(i), (size, size)) for i in range(len(images)))
    return Batch(torch.zeros(len(images), 3, size, size), images, frames)


def grid(size: int = 64, strides: Sequence[int] = (8, 16)) -> tuple[Tensor, Tensor]:
    """Points (P, 2) and strides (P,) of a square image."""
    points, steps = [], []
    for stride in strides:
        line = (torch.arange(size // stride) + 0.5) * stride
        y, x = torch.meshgrid(line, line, indexing="ij")
        points.append(torch.stack([x, y], -1).reshape(-1, 2))
        steps.append(torch.full((len(points[-1]),), float(stride)))
    return torch.cat(points), torch.cat(steps)


def random_output(images: int, *, size: int = 64, classes: int = 3, bins: int = 8) -> PointBoxOutput:
    points, strides = grid(size)
    return PointBoxOutput(
        side_logits=torch.randn(images, len(points), 4 * bins).requires_grad_(),
        class_logits=torch.randn(images, len(points), classes).requires_grad_(),
        points_xy=points,
        strides=strides,
        bins=bins,
    )


def one_hot_sides(distances: Tensor, bins: int, sharpness: float = 40.0) -> Tensor:
    """Side logits (..., 4 * bins) whose expectation is ``distances`` (..., 4), in strides."""
    low = distances.floor()
    share = distances - low
    weights = torch.zeros(*distances.shape, bins)
    weights.scatter_(-1, low.long()[..., None], (1 - share)[..., None])
    weights.scatter_add_(-1, (low.long() + 1).clamp(max=bins - 1)[..., None], share[..., None])
    return weights.clamp(min=torch.tensor(-sharpness).exp()).log().flatten(-2)
