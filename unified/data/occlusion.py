# SPDX-License-Identifier: Apache-2.0
"""Things in front of others: objects of another picture pasted in, or a rectangle painted over.

What is behind them follows: boxes shrink to what can still be seen where a mask tells, key points become hidden.
Legend: H, W height and width of the picture, N boxes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unified.contracts.config import AugmentConfig
from unified.contracts.extras import Masks
from unified.contracts.structures import Annotations, LabelState
from unified.data.mosaic import joined
from unified.data.picture import GREY
from unified.data.transforms import LEAST_SHARE, View

HALF_SEEN: Final = 0.5  # of a box: with less in sight, and no mask to say what is left, nobody can say what it shows
_LEAST_CUTOUT: Final = 0.25  # of the longest allowed side


def draw_cutout(view: View, rng: np.random.Generator, augment: AugmentConfig) -> View:
    """The view, by chance with a grey rectangle somewhere (DeVries and Taylor 2017, Cutout; here of any shape)."""
    if not augment.cutout or rng.random() >= augment.cutout:
        return view
    extent = np.array(view.image.size)
    sides = np.maximum(extent * augment.cutout_side * rng.uniform(_LEAST_CUTOUT, 1.0, 2), 1.0)
    low = (rng.uniform(0.0, 1.0, 2) * (extent - sides)).round().astype(int)
    high = np.minimum(low + sides.round().astype(int), extent)
    return cut_out(view, (int(low[0]), int(low[1]), int(high[0]), int(high[1])))


def cut_out(view: View, box_xyxy: tuple[int, int, int, int]) -> View:
    """The view with a rectangle of whole pixels painted grey."""
    x0, y0, x1, y1 = box_xyxy
    image = view.image.copy()
    image.paste((GREY, GREY, GREY), box_xyxy)
    hidden = torch.zeros(image.height, image.width, dtype=torch.bool)
    hidden[y0:y1, x0:x1] = True
    return behind(replace(view, image=image), hidden)


def pasteable(annotations: Annotations, by: str) -> Tensor:
    """(N,) bool: the objects that can be cut out: no crowds, and with ``by`` masks only those that have one."""
    fit = (annotations.box_states == LabelState.POSITIVE) & ~annotations.box_crowd
    masks: Masks | None = annotations.extras.get("masks")
    if by == "boxes":
        return fit
    if masks is None:
        return torch.zeros_like(fit)
    return fit & torch.tensor([each is not None for each in masks.stored], dtype=torch.bool)


def paste(view: View, donor: View, rows: Tensor) -> View:
    """The view with some objects of another one in front (Ghiasi et al. 2021, Simple Copy-Paste).

    Args:
        view, donor: of one size.
        rows: (M,) int64, the donor's objects; one without a mask comes as its whole rectangle.
    """
    objects = donor.annotations.select(rows)
    shapes = outlines(objects, (view.image.height, view.image.width))
    there = shapes.flatten(1).any(dim=1)
    if not bool(there.any()):
        return view
    objects, shapes = replace(objects.select(there), boxes_xyxy=tight(shapes[there])), shapes[there]
    hidden = shapes.any(dim=0)
    image = view.image.copy()
    image.paste(donor.image, (0, 0), Image.fromarray(hidden.numpy()))
    rest = behind(view, hidden)
    both = joined([rest.annotations, objects])
    return View(image, replace(both, identity=view.annotations.identity), rest.cut)


def outlines(annotations: Annotations, size: tuple[int, int]) -> Tensor:
    """(N, H, W) bool: the masks, and whole rectangles where there are none."""
    masks: Masks | None = annotations.extras.get("masks")
    boxes = torch.stack([_rectangle(box, size) for box in annotations.boxes_xyxy.tolist()])
    if masks is None:
        return boxes
    told = torch.tensor([each is not None for each in masks.stored], dtype=torch.bool)
    return torch.where(told[:, None, None], masks.draw(), boxes)


def _rectangle(box_xyxy: list[float], size: tuple[int, int]) -> Tensor:
    x0, y0, x1, y1 = (round(v) for v in box_xyxy)
    filled = torch.zeros(size, dtype=torch.bool)
    filled[y0:y1, x0:x1] = True
    return filled


def tight(shapes: Tensor) -> Tensor:
    """(N, H, W) bool, none of them empty -> the boxes (N, 4) around them."""
    bounds = []
    for axis in (1, 2):  # columns show x, rows show y
        lines = shapes.any(dim=axis).int()
        bounds.append((lines.argmax(dim=1), lines.shape[1] - lines.flip(1).argmax(dim=1)))
    (x0, x1), (y0, y1) = bounds
    return torch.stack([x0, y0, x1, y1], dim=1).float()


def behind(view: View, hidden: Tensor) -> View:
    """What is known of a picture once some pixels (H, W) bool show something else.

    With a mask, an object's box shrinks to what is left; without one the box stays, and is to be ignored where less
    than half of it is in sight. With less than a tenth in sight an object is dropped, and told as cut if any is.
    """
    found = view.annotations
    extras = {k: each.covered(hidden) if hasattr(each, "covered") else each for k, each in found.extras.items()}
    if not len(found):
        return replace(view, annotations=replace(found, extras=extras))
    before = outlines(found, (hidden.shape[0], hidden.shape[1]))
    after = before & ~hidden
    seen = after.flatten(1).sum(dim=1) / before.flatten(1).sum(dim=1).clamp(min=1)
    seen[(seen == 0) & ~before.flatten(1).any(dim=1)] = 1.0  # thinner than a pixel: nothing is known of it
    masks: Masks | None = found.extras.get("masks")
    masked = torch.tensor([masks is not None and masks.stored[k] is not None for k in range(len(found))])
    masked &= ~found.box_crowd
    shrink, vague = masked & (seen < 1) & (seen > 0), ~masked & (seen < HALF_SEEN)
    boxes, states = found.boxes_xyxy.clone(), found.box_states.clone()
    boxes[shrink] = _overlap(boxes[shrink], tight(after[shrink]))
    states[vague] = int(LabelState.IGNORE)
    keep = found.box_crowd | (seen >= LEAST_SHARE)
    placed = replace(found, boxes_xyxy=boxes, box_states=states, extras=extras).select(keep)
    return replace(view, annotations=placed, cut=torch.cat([view.cut, found.box_labels[~keep & (seen > 0)]]))


def _overlap(boxes_xyxy: Tensor, others_xyxy: Tensor) -> Tensor:
    """What of each box (M, 4) lies in the other one (M, 4); the other where that is nothing."""
    low = torch.maximum(boxes_xyxy[:, :2], others_xyxy[:, :2])
    high = torch.minimum(boxes_xyxy[:, 2:], others_xyxy[:, 2:])
    return torch.where((high > low).all(dim=1, keepdim=True), torch.cat([low, high], dim=1), others_xyxy)
