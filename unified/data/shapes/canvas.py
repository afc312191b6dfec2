# SPDX-License-Identifier: Apache-2.0
"""Painting small patches onto a picture, clipped at its borders."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]
"""(3, S, S) float32, RGB, 0..255; planes come first because whole-plane arithmetic is several times faster."""
Patch = NDArray[np.float32]
"""(h, w) or (3, h, w) float32."""
Window = tuple[slice, slice]


def overlap(size: int, shape: tuple[int, ...], left: int, top: int) -> tuple[Window, Window] | None:
    """Windows of a picture of side `size` and of a patch put at (left, top) that cover each other; None if apart."""
    height, width = shape[0], shape[1]
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + width, size), min(top + height, size)
    if x0 >= x1 or y0 >= y1:
        return None
    there = (slice(y0, y1), slice(x0, x1))
    here = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    return there, here


def paste(picture: Picture, colour: Patch, alpha: Patch, left: int, top: int) -> None:
    """Blend `colour` ((3, h, w) or (3, 1, 1)) over the picture with weights `alpha` (h, w), in place."""
    windows = overlap(picture.shape[1], alpha.shape, left, top)
    if windows is None:
        return
    there, here = windows
    part = picture[:, *there]
    paint = colour if colour.shape[1:] == (1, 1) else colour[:, *here]
    part += alpha[here] * (paint - part)


def darken(picture: Picture, shade: Patch, left: int, top: int) -> None:
    """Take away the share `shade` (h, w) of the picture's light, in place."""
    windows = overlap(picture.shape[1], shade.shape, left, top)
    if windows is None:
        return
    there, here = windows
    picture[:, *there] *= 1 - shade[here]
