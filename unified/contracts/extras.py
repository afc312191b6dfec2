# SPDX-License-Identifier: Apache-2.0
"""What an image may carry beside boxes and tags, by its name in ``Annotations.extras``.

``keypoints``: :class:`Keypoints`; ``masks``: :class:`Masks`; ``captions``: a tuple of texts; ``panoptic``:
:class:`Panoptic`. An extra that has ``moved(matrix, size)`` follows the pixels. One that has ``select(index)`` is a
column of the boxes and loses its rows with them; with ``joined(others)`` it also survives a mosaic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Matrix: TypeAlias = NDArray[np.float64]
"""(2, 3): where a pixel goes, in continuous coordinates (pixel k covers k..k + 1)."""

Step: TypeAlias = tuple[Matrix, tuple[int, int]]
"""A map, and the size (height, width) of the picture it leads to, beyond which nothing is left."""

_SIDES = (("left", "right"), ("right", "left"))


def mirrors(matrix: Matrix) -> bool:
    """Whether a map turns left hands into right hands."""
    return bool(matrix[0, 0] * matrix[1, 1] < matrix[0, 1] * matrix[1, 0])


@dataclass(frozen=True)
class Keypoints:
    """Key points of N boxes. Visibility: 0 unlabelled, 1 labelled and hidden, 2 visible (COCO's convention)."""

    points: Tensor  # (N, P, 3) float32: x, y in pixels of the image, visibility
    names: tuple[str, ...]  # P, where the dataset names them
    skeleton: tuple[tuple[int, int], ...] = ()  # pairs of points that a line joins

    def select(self, index: Tensor) -> Keypoints:
        """The points of some of the boxes. index: (M,) int64 or (N,) bool."""
        return replace(self, points=self.points[index])

    def moved(self, matrix: Matrix, size: tuple[int, int]) -> Keypoints:
        """The points under an affine map of the image onto one of ``size`` (height, width).

        Points that leave the image are unlabelled, and unlabelled ones stand at zero. In a mirror image the points
        named left and right change places: what is seen there is the other hand.
        """
        points = self.points[:, self._mirror()] if mirrors(matrix) else self.points
        moved = points.clone()
        linear = moved.new_tensor(matrix[:, :2].tolist())
        moved[..., :2] = points[..., :2] @ linear.T + moved.new_tensor(matrix[:, 2].tolist())
        limit = moved.new_tensor([size[1], size[0]])
        inside = ((moved[..., :2] >= 0) & (moved[..., :2] <= limit)).all(dim=-1) & (points[..., 2] > 0)
        return replace(self, points=moved * inside[..., None].to(moved.dtype))

    def joined(self, others: Sequence[Keypoints]) -> Keypoints:
        """The points of several images' boxes as those of one."""
        parts = [self, *others]
        many = max(part.points.shape[1] for part in parts)
        padded = [torch.nn.functional.pad(p.points, (0, 0, 0, many - p.points.shape[1])) for p in parts]
        named = max(parts, key=lambda part: len(part.names))
        return Keypoints(torch.cat(padded), named.names, named.skeleton)

    def covered(self, hidden: Tensor) -> Keypoints:
        """The points behind something: visible ones are hidden there. hidden: (H, W) bool."""
        limit = torch.tensor([hidden.shape[1] - 1, hidden.shape[0] - 1])
        x, y = torch.minimum(self.points[..., :2].long().clamp(min=0), limit).unbind(-1)
        points = self.points.clone()
        points[..., 2] = torch.where((points[..., 2] > 1) & hidden[y, x], 1.0, points[..., 2])
        return replace(self, points=points)

    def _mirror(self) -> list[int]:
        """For each point, its counterpart on the other side; itself where it has none."""
        place = {name: k for k, name in enumerate(self.names)}
        swapped = [
            next((place[new] for a, b in _SIDES if a in name and (new := name.replace(a, b)) in place), k)
            for k, name in enumerate(self.names)
        ]
        return [*swapped, *range(len(swapped), self.points.shape[1])]


@dataclass(frozen=True, eq=False)
class Bitmap:
    """A mask that is drawn already."""

    pixels: NDArray[np.bool_]  # (h, w)

    def __call__(self) -> NDArray[np.bool_]:
        return self.pixels


@dataclass(frozen=True, eq=False)
class Masks:
    """Which pixels of an image of ``size`` (height, width) belong to each of its N boxes.

    A mask is kept as it was stored, with the steps that have brought it here, so that moving costs nothing and only who
    asks (:meth:`draw`) pays, for one resampling.
    """

    size: tuple[int, int]
    stored: tuple[Callable[[], NDArray[np.bool_]] | None, ...]  # N, each gives (h, w) of its picture; None: no mask
    steps: tuple[tuple[Step, ...], ...] = ()  # N; none: all are where they were stored

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.stored):
            object.__setattr__(self, "steps", ((),) * len(self.stored))

    def __len__(self) -> int:
        return len(self.stored)

    def select(self, index: Tensor) -> Masks:
        """The masks of some of the boxes. index: (M,) int64 or (N,) bool."""
        rows = (index.nonzero()[:, 0] if index.dtype == torch.bool else index).tolist()
        return Masks(self.size, tuple(self.stored[k] for k in rows), tuple(self.steps[k] for k in rows))

    def moved(self, matrix: Matrix, size: tuple[int, int]) -> Masks:
        """The masks under an affine map of the image onto one of ``size``."""
        return Masks(size, self.stored, tuple((*steps, (matrix, size)) for steps in self.steps))

    def joined(self, others: Sequence[Masks]) -> Masks:
        """The masks of several images' boxes as those of one, of the first one's size."""
        parts = [self, *others]
        return Masks(self.size, sum((p.stored for p in parts), ()), sum((p.steps for p in parts), ()))

    def covered(self, hidden: Tensor) -> Masks:
        """The masks without the pixels behind something. hidden: (H, W) bool."""
        rest = (self.draw() & ~hidden).numpy()
        told = zip(self.stored, rest, strict=True)
        return Masks(self.size, tuple(None if stored is None else Bitmap(pixels) for stored, pixels in told))

    def draw(self) -> Tensor:
        """(N, H, W) bool."""
        drawn = np.zeros((len(self), *self.size), dtype=np.bool_)
        for k, (stored, steps) in enumerate(zip(self.stored, self.steps, strict=True)):
            if stored is not None:
                drawn[k] = _drawn(stored(), steps)
        return torch.from_numpy(drawn)


def _drawn(pixels: NDArray[np.bool_], steps: Sequence[Step]) -> NDArray[np.bool_]:
    """(H, W) bool: the nearest pixel of ``pixels`` (h, w) after all steps; False beside the picture of any of them."""
    if not steps:
        return pixels
    size, later, frames = steps[-1][1], np.eye(2, 3), []
    for matrix, extent in reversed(steps):
        frames.append((later, extent))
        later = np.column_stack([later[:, :2] @ matrix[:, :2], later[:, :2] @ matrix[:, 2] + later[:, 2]])
    seen = np.asarray(_warped(Image.fromarray(pixels.view(np.uint8)), later, size)) > 0
    for matrix, extent in frames[1:]:
        if not _fills(matrix, extent, size):
            seen &= np.asarray(_warped(Image.new("L", extent[::-1], 1), matrix, size)) > 0
    return seen


def _fills(matrix: Matrix, extent: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether a picture of ``extent`` (height, width), moved, leaves nothing of one of ``size`` free."""
    corners = np.array([[x, y] for x in (0.0, size[1]) for y in (0.0, size[0])])
    back = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    return bool((back >= -1e-6).all() and (back <= np.array(extent[::-1]) + 1e-6).all())


def _warped(image: Image.Image, matrix: Matrix, size: tuple[int, int], fill: int = 0) -> Image.Image:
    inverse = np.linalg.inv(np.vstack([matrix, [0.0, 0.0, 1.0]]))[:2].ravel().tolist()
    return image.transform(size[::-1], Image.Transform.AFFINE, inverse, Image.Resampling.NEAREST, fillcolor=fill)


@dataclass(frozen=True)
class MovedMap:
    """A segment map seen through an affine map, when it is asked for."""

    read: Callable[[], Tensor]
    matrix: Matrix
    size: tuple[int, int]

    def __call__(self) -> Tensor:
        """(H, W) int32, -1 beside the picture."""
        seen = _warped(Image.fromarray(self.read().numpy()), self.matrix, self.size, fill=-1)
        return torch.from_numpy(np.array(seen, dtype=np.int32))


@dataclass(frozen=True)
class Panoptic:
    """Segments that share out an image of ``size`` (height, width); their map is only decoded when it is asked for.

    ``read()`` gives (H, W) int32: the number of a pixel's segment, -1 where it belongs to none.
    """

    size: tuple[int, int]
    labels: Tensor  # (S,) int64 into names
    crowd: Tensor  # (S,) bool
    areas: Tensor  # (S,) float32 px²
    names: tuple[str, ...]
    things: tuple[bool, ...]  # by name: countable objects, not stuff
    read: Callable[[], Tensor]

    def moved(self, matrix: Matrix, size: tuple[int, int]) -> Panoptic:
        """The segments under an affine map of the image onto one of ``size``; ``areas`` stay those of the original."""
        return replace(self, size=size, read=MovedMap(self.read, matrix, size))
