# SPDX-License-Identifier: Apache-2.0
"""Pictures drawn through matrices onto grey, with one resampling each.

Coordinates are continuous: pixel k covers k..k + 1. A matrix is (2, 3) and takes pixels of the picture to pixels of
what is drawn on.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from unified.contracts.extras import Matrix
from unified.data.picture import GREY

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in whole pixels


def ground(size: tuple[int, int]) -> Image.Image:
    """Plain grey of (height, width)."""
    return Image.new("RGB", size[::-1], (GREY, GREY, GREY))


def draw(canvas: Image.Image, image: Image.Image, matrix: Matrix) -> None:
    """Draws a picture through ``matrix`` over what it covers of the canvas; the rest stays as it is.

    A matrix that neither turns nor shears must take the picture's edges to whole pixels.
    """
    if matrix[0, 1] == 0 and matrix[1, 0] == 0:
        found = _shown(image, (matrix[0, 0], matrix[1, 1]), (matrix[0, 2], matrix[1, 2]), canvas.size)
        if found is not None:
            canvas.paste(*found)
        return
    x0, y0, x1, y1 = _hull(image.size, matrix, canvas.size)
    if x1 <= x0 or y1 <= y0:
        return
    solid = image.convert("RGBA")
    there = np.column_stack([matrix[:, :2], matrix[:, 2] - (x0, y0)])
    turned = _transformed(solid, there, (x1 - x0, y1 - y0), (0, 0, 0, 0))
    canvas.paste(turned, (x0, y0), turned)


def placed(
    image: Image.Image, scale: tuple[float, float], offset: tuple[float, float], size: tuple[int, int]
) -> Image.Image:
    """A picture scaled and shifted by whole pixels onto grey of (height, width); shrinking averages."""
    found = _shown(image, scale, offset, size[::-1])
    if found is not None and found[0].size == size[::-1]:
        return found[0]
    canvas = ground(size)
    if found is not None:
        canvas.paste(*found)
    return canvas


def warped(image: Image.Image, matrix: Matrix, size: tuple[int, int]) -> Image.Image:
    """A picture through any affine matrix onto grey of (height, width)."""
    return _transformed(image, matrix, size[::-1], (GREY, GREY, GREY))


def _transformed(image: Image.Image, matrix: Matrix, extent: tuple[int, int], fill: tuple[int, ...]) -> Image.Image:
    """Of (width, height) ``extent``; strong shrinking is averaged by whole factors first, against aliasing."""
    shrink = math.floor(1 / max(math.sqrt(abs(np.linalg.det(matrix[:, :2]))), 1e-6) + 0.05)
    if shrink >= 2:
        whole = image.size
        image = image.reduce(shrink)
        stretch = np.diag([whole[0] / image.width, whole[1] / image.height])
        matrix = np.column_stack([matrix[:, :2] @ stretch, matrix[:, 2]])
    inverse = np.linalg.inv(np.vstack([matrix, [0.0, 0.0, 1.0]]))[:2].ravel()
    return image.transform(extent, Image.Transform.AFFINE, inverse.tolist(), Image.Resampling.BILINEAR, fillcolor=fill)


def _shown(
    image: Image.Image, scale: tuple[float, float], offset: tuple[float, float], extent: tuple[int, int]
) -> tuple[Image.Image, tuple[int, int]] | None:
    """What can be seen of a scaled and shifted picture within (width, height), and where; None: nothing."""
    x0, x1, left, right = _visible(scale[0], offset[0], image.width, extent[0])
    y0, y1, top, bottom = _visible(scale[1], offset[1], image.height, extent[1])
    if x1 <= x0 or y1 <= y0:
        return None
    if scale == (1.0, 1.0):
        return image.crop((int(left), int(top), int(right), int(bottom))), (x0, y0)
    box = (left, top, right, bottom)
    return image.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0), (x0, y0)


def _visible(scale: float, offset: float, length: int, side: int) -> tuple[int, int, float, float]:
    """Along one axis: the pixels first..last that show the picture, and the stretch of the picture they show."""
    low, high = round(offset), round(offset + scale * length)
    first, last = max(low, 0), min(high, side)
    return first, last, max((first - low) / scale, 0.0), min((last - low) / scale, float(length))


def _hull(extent: tuple[int, int], matrix: Matrix, canvas: tuple[int, int]) -> Box:
    """The whole pixels of a canvas (width, height) that a picture (width, height) may reach."""
    width, height = extent
    corners = matrix[:, :2] @ np.array([[0, width, 0, width], [0, 0, height, height]]) + matrix[:, 2:]
    low, high = np.floor(corners.min(axis=1)), np.ceil(corners.max(axis=1))
    x0, y0 = (int(v) for v in np.maximum(low, 0))
    x1, y1 = (int(v) for v in np.minimum(high, canvas))
    return x0, y0, x1, y1
