# SPDX-License-Identifier: Apache-2.0
"""Four pictures in one, so that a network meets more objects, smaller and in stranger company.

Bochkovskiy et al. 2020, YOLOv4, section 3.3. Legend: S the side of the input in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from unified.contracts.config import AugmentConfig
from unified.contracts.structures import Annotations
from unified.data.picture import GREY
from unified.data.transforms import View, draw_affine, fitting_matrix, move, move_boxes


def mosaic(views: Sequence[View], rng: np.random.Generator, augment: AugmentConfig, side: int) -> View:
    """Four views around a random point of a (2 S, 2 S) grey canvas, seen through a random (S, S) window.

    Each picture keeps its shape and is fitted to S; the point lies in S / 2 .. 3 S / 2 on both axes. The whole-image
    identity is gone (-1): four scenes are nobody's.
    """
    x, y = (int(v) for v in rng.integers(side // 2, side + side // 2, 2, endpoint=True))
    canvas = Image.new("RGB", (2 * side, 2 * side), (GREY, GREY, GREY))
    tiles = [_tile(view, k, (x, y), side) for k, view in enumerate(views)]
    for tile, (left, top) in tiles:
        canvas.paste(tile.image, (left, top))
    joined = _joined([_shifted(tile, corner) for tile, corner in tiles])
    inside, cut = move_boxes(joined, np.eye(2, 3), 2 * side)  # the window may see past the canvas, where nothing is
    whole = View(canvas, inside, torch.cat([cut, *(tile.cut for tile, _ in tiles)]))
    return move(whole, draw_affine(rng, augment, (side, side), side), side)


def _tile(view: View, k: int, centre: tuple[int, int], side: int) -> tuple[View, tuple[int, int]]:
    """View k (left above, right above, left below, right below) fitted to S, and where its corner goes."""
    size = view.image.height, view.image.width
    width, height = _fitted(size, side)
    if (height, width) != size:
        scale_x, scale_y = width / size[1], height / size[0]
        boxes = view.annotations.boxes_xyxy * torch.tensor([scale_x, scale_y, scale_x, scale_y])
        image = view.image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
        view = replace(view, image=image, annotations=replace(view.annotations, boxes_xyxy=boxes))
    left = centre[0] - width if k % 2 == 0 else centre[0]
    top = centre[1] - height if k < 2 else centre[1]
    return view, (left, top)


def _fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(width, height) in pixels of an image of ``size`` (height, width) fitted to S."""
    matrix = fitting_matrix(size, side)
    return round(matrix[0, 0] * size[1]), round(matrix[1, 1] * size[0])


def _shifted(tile: View, corner: tuple[int, int]) -> Annotations:
    return replace(tile.annotations, boxes_xyxy=tile.annotations.boxes_xyxy + torch.tensor([*corner, *corner]).float())


def _joined(parts: Sequence[Annotations]) -> Annotations:
    """The boxes of several images as those of one. States are the first one's; the caller writes them anew."""
    names = ("boxes_xyxy", "box_labels", "box_states", "box_identities", "box_areas", "box_crowd")
    columns: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return replace(parts[0], identity=-1, extras={}, **columns)
