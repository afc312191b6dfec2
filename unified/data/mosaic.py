# SPDX-License-Identifier: Apache-2.0
"""Several pictures in one, so that a network meets more objects, smaller and in stranger company.

Four around a point: Bochkovskiy et al. 2020, YOLOv4, section 3.3. Legend: S the side of the input in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from unified.contracts.config import AugmentConfig
from unified.contracts.extras import Matrix
from unified.contracts.structures import Annotations
from unified.data.brush import draw, ground
from unified.data.transforms import View, compose, draw_affine, fitting_matrix, move_boxes

Extent = tuple[int, int]  # (width, height) or (x, y) in pixels


def mosaic(views: Sequence[View], rng: np.random.Generator, augment: AugmentConfig, side: int) -> View:
    """Four or nine views side by side on grey, seen through a random (S, S) window.

    Each picture keeps its shape and is fitted to S. Four meet in a random point, S / 2 .. 3 S / 2 on both axes of a
    plane whose middle is (S, S). Of nine the first has its corner in a random point, 0 .. S on both axes, and the
    others stand around it. A random affine map takes the middle near that of the window; each picture is drawn through
    its own product of fitting, place and that map, so that it is resampled once, where it can be seen. The whole-image
    identity is gone (-1): several scenes are nobody's.
    """
    extents = [_fitted((view.image.height, view.image.width), side) for view in views]
    if len(views) == 4:
        corners = _around_a_point(extents, _draw_point(rng, side // 2, side + side // 2))
    else:
        corners = _around_the_first(extents, _draw_point(rng, 0, side))
    seen, canvas = draw_affine(rng, augment, (side, side), side), ground((side, side))
    parts, cut = [], [view.cut for view in views]
    for view, extent, corner in zip(views, extents, corners, strict=True):
        matrix = _through(seen, view.image.size, extent, corner)
        draw(canvas, view.image, matrix)
        inside, lost = move_boxes(view.annotations, matrix, side)
        parts.append(inside)
        cut.append(lost)
    return View(canvas, joined(parts), torch.cat(cut))


def mixup(first: View, second: View, share: float) -> View:
    """Two views of one size, blended: ``share`` of the first, with the objects of both (Zhang et al. 2018, mixup).

    Both pictures' objects count in full, whatever the share: with Beta(8, 8) neither picture fades away.
    """
    image = Image.blend(second.image, first.image, share)
    return View(image, joined([first.annotations, second.annotations]), torch.cat([first.cut, second.cut]))


def _draw_point(rng: np.random.Generator, low: int, high: int) -> Extent:
    x, y = (int(v) for v in rng.integers(low, high, 2, endpoint=True))
    return x, y


def _fitted(size: tuple[int, int], side: int) -> Extent:
    """(width, height) in pixels of an image of ``size`` (height, width) fitted to S."""
    matrix = fitting_matrix(size, side)
    return round(matrix[0, 0] * size[1]), round(matrix[1, 1] * size[0])


def _around_a_point(extents: Sequence[Extent], point: Extent) -> list[Extent]:
    """Upper left corners of four pictures: left above, right above, left below, right below of the point."""
    x, y = point
    return [(x - w if k % 2 == 0 else x, y - h if k < 2 else y) for k, (w, h) in enumerate(extents)]


def _around_the_first(extents: Sequence[Extent], corner: Extent) -> list[Extent]:
    """Upper left corners of nine pictures: the first at ``corner``, and a pinwheel of four arms of two around it.

    An arm begins flush with one corner of the first picture and runs past the next one, so that pictures of any shapes
    never overlap: above to the right, right downwards, below to the left, left upwards.
    """
    (left, top), (width, height) = corner, extents[0]
    right, bottom = left + width, top + height
    (w1, h1), (_, h2), (_, h3), _, (w5, _), (w6, _), (w7, h7), (w8, h8) = extents[1:]
    above = [(left, top - h1), (left + w1, top - h2)]
    beside = [(right, top), (right, top + h3)]
    below = [(right - w5, bottom), (right - w5 - w6, bottom)]
    before = [(left - w7, bottom - h7), (left - w8, bottom - h7 - h8)]
    return [corner, *above, *beside, *below, *before]


def _through(seen: Matrix, size: Extent, extent: Extent, corner: Extent) -> Matrix:
    """The matrix of a picture of ``size`` that is scaled to ``extent`` and put at ``corner`` of what is ``seen``.

    Where nothing is turned or sheared, edges fall on whole pixels; neighbours share theirs.
    """
    if seen[0, 1] or seen[1, 0]:
        scale = extent[0] / size[0], extent[1] / size[1]
        return compose(seen, np.array([[scale[0], 0, corner[0]], [0, scale[1], corner[1]]]))
    matrix = np.zeros((2, 3))
    for axis in (0, 1):
        low, high = (round(seen[axis, axis] * v + seen[axis, 2]) for v in (corner[axis], corner[axis] + extent[axis]))
        matrix[axis, axis], matrix[axis, 2] = max(high - low, 1) / size[axis], low
    return matrix


def joined(parts: Sequence[Annotations]) -> Annotations:
    """The boxes of several images as those of one, with what extras the boxes of all have.

    States are the first one's; the caller writes them anew.
    """
    names = ("boxes_xyxy", "box_labels", "box_states", "box_identities", "box_areas", "box_crowd")
    columns: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    first, others = parts[0].extras, [part.extras for part in parts[1:]]
    shared = {k for k, each in first.items() if hasattr(each, "joined") and all(k in extras for extras in others)}
    extras = {k: first[k].joined([extras[k] for extras in others]) for k in sorted(shared)}
    return replace(parts[0], identity=-1, extras=extras, **columns)
