# SPDX-License-Identifier: Apache-2.0
"""What happens to a picture and all that is known of it on the way to the network's input.

Coordinates are continuous: pixel k covers k..k + 1. A matrix is (2, 3) and takes original pixels to input pixels;
boxes, masks, key points and segments go through the same one. Legend: S the side of the input in pixels, N boxes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unified.contracts.augmentation import MIXING, without
from unified.contracts.config import AugmentConfig
from unified.contracts.extras import Matrix
from unified.contracts.structures import Annotations, Frame, Sample
from unified.data.brush import placed, warped

# Why this is not a chain of torchvision.transforms.v2 over tv_tensors, with whose kernels the tests compare it: the
# classes of v2 draw from the process's one generator, while a sample here is a function of its address; v2 has no
# kernel for a matrix, so that letterbox, zoom and turn would each resample the picture and widen the boxes; it knows no
# mosaic, no label states and no left and right of key points. Its kernels on a Pillow picture are the calls made here;
# on tensors (640 x 480, one thread) affine takes 1.2 times as long, the three colour kernels 17 times, boxes twice,
# while resizing takes 0.6 and flipping half of the time, less than the way to a tensor and back.

Array = NDArray[Any]
Size = int | tuple[int, int]
"""The side of a square in pixels, or (height, width)."""

LEAST_SIDE: Final = 2.0  # pixels: what is thinner after a transform is no object any more
LEAST_SHARE: Final = 0.1  # of a box's area that must stay in sight
MOST_ASPECT: Final = 20.0  # of a box that the edge has cut

_YIQ: Final = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_RGB: Final = np.linalg.inv(_YIQ)


@dataclass(frozen=True)
class View:
    """A picture in flight. ``cut`` has the labels of objects that were dropped although a part may still be seen."""

    image: Image.Image
    annotations: Annotations
    cut: Tensor  # (M,) int64


def view_of(sample: Sample) -> View:
    """The picture as it was stored."""
    return View(to_image(sample.image), sample.annotations, torch.zeros(0, dtype=torch.int64))


def to_image(pixels: Tensor) -> Image.Image:
    """uint8 (3, H, W) -> a Pillow picture."""
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))


def to_pixels(image: Image.Image) -> Tensor:
    """A Pillow picture -> uint8 (3, H, W), contiguous."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)))


def both_sides(size: Size) -> tuple[int, int]:
    """(height, width)."""
    return (size, size) if isinstance(size, int) else size


def letterbox_frame(image_id: str, size: tuple[int, int], side: Size) -> Frame:
    """How an image of ``size`` (height, width) is fitted to ``side``: whole, as large as it goes, in the middle.

    Scale and offset are those of whole pixels, so that going there and back again is exact.
    """
    (height, width), (high, wide) = size, both_sides(side)
    ratio = min(high / height, wide / width)
    new_w, new_h = max(1, round(width * ratio)), max(1, round(height * ratio))
    return Frame(
        image_id, size, (new_w / width, new_h / height), (float((wide - new_w) // 2), float((high - new_h) // 2))
    )


def letterbox(pixels: Tensor, side: Size, image_id: str = "") -> tuple[Tensor, Frame]:
    """A picture uint8 (3, H, W) fitted to ``side`` on grey, and the frame that takes boxes there and back."""
    frame = letterbox_frame(image_id, (int(pixels.shape[1]), int(pixels.shape[2])), side)
    if tuple(pixels.shape[1:]) == both_sides(side):
        return pixels.contiguous(), frame
    return to_pixels(placed(to_image(pixels), frame.scale, frame.offset, both_sides(side))), frame


def letterbox_sample(sample: Sample, side: Size) -> Sample:
    """A sample as the network's input, whose frame leads back to original pixels; no box is lost."""
    pixels, fitted = letterbox(sample.image, side, sample.frame.image_id)
    boxes = fitted.to_input(sample.annotations.boxes_xyxy)
    moved = move_extras(sample.annotations, _matrix_of(fitted), both_sides(side))
    scale = fitted.scale[0] * sample.frame.scale[0], fitted.scale[1] * sample.frame.scale[1]
    return Sample(pixels, replace(moved, boxes_xyxy=boxes), replace(fitted, size=sample.frame.size, scale=scale))


def fitting_matrix(size: tuple[int, int], side: Size) -> Matrix:
    """The letterbox of an image of ``size`` (height, width) as a matrix."""
    return _matrix_of(letterbox_frame("", size, side))


def _matrix_of(frame: Frame) -> Matrix:
    return np.array([[frame.scale[0], 0, frame.offset[0]], [0, frame.scale[1], frame.offset[1]]])


def closed(augment: AugmentConfig, number: float, count: int) -> AugmentConfig:
    """The settings for batch ``number`` of ``count``: whole pictures alone in the last ``close`` share of them."""
    return augment if number < (1 - augment.close) * count else without(augment, MIXING)


def draws_affine(augment: AugmentConfig) -> bool:
    """Whether the settings move pictures at all."""
    return any((augment.scale, augment.translate, augment.rotate, augment.shear))


def draw_affine(rng: np.random.Generator, augment: AugmentConfig, centre: tuple[float, float], side: Size) -> Matrix:
    """A random zoom, turn, shear and shift that takes ``centre`` near the middle of the input.

    The product T(middle + shift) · R(turn) · H(shear) · Z(zoom) · T(-centre), one matrix for one resampling.
    """
    turn, shear_x, shear_y, shift_x, shift_y, zoom = rng.uniform(-1.0, 1.0, 6).tolist()
    cos, sin = math.cos(math.radians(augment.rotate * turn)), math.sin(math.radians(augment.rotate * turn))
    along, up = math.tan(math.radians(augment.shear * shear_x)), math.tan(math.radians(augment.shear * shear_y))
    scale = 1 + augment.scale * zoom
    a, b, c, d = (
        scale * (cos - sin * up),
        scale * (cos * along - sin),
        scale * (sin + cos * up),
        scale * (sin * along + cos),
    )
    high, wide = both_sides(side)
    x, y = (0.5 + augment.translate * shift_x) * wide, (0.5 + augment.translate * shift_y) * high
    return np.array([[a, b, x - a * centre[0] - b * centre[1]], [c, d, y - c * centre[0] - d * centre[1]]])


def compose(second: Matrix, first: Matrix) -> Matrix:
    """The matrix that does ``first`` and then ``second``."""
    result = second[:, :2] @ first
    result[:, 2] += second[:, 2]
    return np.asarray(result)


def move(view: View, matrix: Matrix, side: Size) -> View:
    """The view through ``matrix`` on a grey input, with one resampling; boxes follow and are clipped.

    A matrix that neither turns nor shears is rounded to whole pixels at the picture's edges, boxes and pixels alike.
    """
    if matrix[0, 1] == 0 and matrix[1, 0] == 0:
        matrix = _snapped(matrix, view.image.size)
        scale, offset = (matrix[0, 0], matrix[1, 1]), (matrix[0, 2], matrix[1, 2])
        image = placed(view.image, scale, offset, both_sides(side))
    else:
        image = warped(view.image, matrix, both_sides(side))
    annotations, cut = move_boxes(view.annotations, matrix, side)
    return View(image, annotations, torch.cat([view.cut, cut]))


def _snapped(matrix: Matrix, extent: tuple[int, int]) -> Matrix:
    """Scale and offset whose picture edges fall on whole pixels."""
    result = np.zeros((2, 3))
    for axis, length in enumerate(extent):
        low = round(matrix[axis, 2])
        high = max(low + 1, round(matrix[axis, 2] + matrix[axis, axis] * length))
        result[axis, axis], result[axis, 2] = (high - low) / length, low
    return result


def move_boxes(annotations: Annotations, matrix: Matrix, side: Size) -> tuple[Annotations, Tensor]:
    """Boxes through ``matrix``, clipped to the input; and the labels of those lost though they may still show.

    Dropped are boxes with a side under 2 pixels, with less than a tenth of their area in sight, or cut by the edge to
    more than 20 times as long as wide.
    """
    high, wide = both_sides(side)
    annotations = move_extras(annotations, matrix, (high, wide))
    if not len(annotations):
        return annotations, annotations.box_labels
    moved = _hulls(annotations.boxes_xyxy.numpy(), matrix)
    boxes = np.minimum(np.maximum(moved, 0.0), [wide, high, wide, high])
    extent, seen = boxes[:, 2:] - boxes[:, :2], _areas(boxes)
    short, long = extent.min(axis=1), extent.max(axis=1)
    keep = (short >= LEAST_SIDE) & (seen >= LEAST_SHARE * _areas(moved))
    keep &= (long <= MOST_ASPECT * short) | (boxes == moved).all(axis=1)
    placed = replace(annotations, boxes_xyxy=torch.from_numpy(boxes.astype(np.float32)))
    if keep.all():
        return placed, annotations.box_labels[:0]
    return placed.select(torch.from_numpy(keep)), annotations.box_labels[torch.from_numpy(~keep & (seen > 0))]


def move_extras(annotations: Annotations, matrix: Matrix, size: tuple[int, int]) -> Annotations:
    """What else is known of the pixels, through ``matrix`` onto an image of ``size`` (height, width)."""
    if not annotations.extras:
        return annotations
    found = annotations.extras.items()
    return replace(
        annotations, extras={k: each.moved(matrix, size) if hasattr(each, "moved") else each for k, each in found}
    )


def _hulls(boxes_xyxy: Array, matrix: Array) -> Array:
    """The upright boxes (N, 4) around moved boxes (N, 4): centres follow the map, half sides its absolute values."""
    linear, shift = matrix[:, :2], matrix[:, 2]
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) * 0.5 @ linear.T + shift
    halves = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) * 0.5 @ np.abs(linear).T
    return np.concatenate([centres - halves, centres + halves], axis=1)


def _areas(boxes_xyxy: Array) -> Array:
    """Areas (N,) of boxes (N, 4); zero for a box that lies outside and was clipped inside out."""
    extent = np.maximum(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 0.0)
    return np.asarray(extent[:, 0] * extent[:, 1])


def flip(view: View, *, across: bool = False, down: bool = False) -> View:
    """The view mirrored left to right (``across``), top to bottom (``down``), or both."""
    if not (across or down):
        return view
    image, boxes = view.image, view.annotations.boxes_xyxy.clone()
    matrix = np.eye(2, 3)
    if across:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes[:, [0, 2]] = image.width - boxes[:, [2, 0]]
        matrix[0] = -1, 0, image.width
    if down:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        boxes[:, [1, 3]] = image.height - boxes[:, [3, 1]]
        matrix[1] = 0, -1, image.height
    annotations = move_extras(view.annotations, matrix, (image.height, image.width))
    return replace(view, image=image, annotations=replace(annotations, boxes_xyxy=boxes))


def draw_flip(view: View, rng: np.random.Generator, augment: AugmentConfig) -> View:
    """The view, mirrored by chance."""
    across, down = rng.random(2) < (augment.fliplr, augment.flipud)
    return flip(view, across=bool(across), down=bool(down))


def jitter(image: Image.Image, hue: float, saturation: float, value: float) -> Image.Image:
    """A picture with its hue turned by ``hue`` (share of the colour circle) and its saturation and value multiplied.

    Done in the YIQ space, where all three are one linear map: a tenth of the cost of a journey through HSV, without
    its rounding of hues. (0, 1, 1) changes nothing.
    """
    turn = 2 * math.pi * hue
    turned = np.array([[1, 0, 0], [0, math.cos(turn), -math.sin(turn)], [0, math.sin(turn), math.cos(turn)]])
    matrix = value * _RGB @ (turned * [[1.0], [saturation], [saturation]]) @ _YIQ
    return image.convert("RGB", tuple(np.column_stack([matrix, np.zeros(3)]).ravel().tolist()))


def draw_jitter(view: View, rng: np.random.Generator, augment: AugmentConfig) -> View:
    """The view in a random light."""
    spread = np.array([augment.hue, augment.saturation, augment.value])
    if not spread.any():
        return view
    hue, saturation, value = rng.uniform(-spread, spread)
    return replace(view, image=jitter(view.image, hue, 1 + saturation, 1 + value))
