# SPDX-License-Identifier: Apache-2.0
"""Picture files: whatever the camera or the web left in them comes out as upright 8-bit RGB, or as one clear line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from unified.contracts.errors import DataError

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""The decoders that may run: those a trainer needs, and none of the others' attack surface."""

MOST_PIXELS: Final = 50_000_000
"""Larger pictures are refused from their header, before any memory is spent on them."""

GREY: Final = 114
"""The value of every pixel where there is no picture: padding, and what shows through transparent parts."""

_ORIENTATION: Final = 0x0112  # EXIF tag
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_picture(path: str | Path, root: str | Path | None = None) -> Tensor:
    """The picture at ``path`` as uint8 (3, H, W) RGB; a dataset's is relative to its ``root``, or inside it.

    The EXIF orientation is applied, transparent parts become grey, 16-bit values are scaled to 8 bits. Links that the
    dataset's owner laid inside the root are followed; a name that climbs out of it is refused.

    Raises:
        DataError: missing, damaged, of another format, over 50 megapixels, or outside the root.
    """
    whole = _plain(Path(path)) if root is None else contained(path, root)
    try:
        with Image.open(whole, formats=FORMATS) as opened:
            _check_extent(opened, whole)
            pixels = np.asarray(to_rgb(_upright(opened), str(whole)))
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"picture {whole} is missing") from None
    except Image.DecompressionBombError:
        raise DataError(f"picture {whole} is far over the limit of {MOST_PIXELS // 10**6} megapixels") from None
    except UnidentifiedImageError:
        raise DataError(f"picture {whole} is damaged or not one of {', '.join(FORMATS)}") from None
    except Exception as error:  # a damaged file may make its decoder fail in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"picture {whole} cannot be read: {reason}") from error
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def contained(path: str | Path, root: str | Path) -> Path:
    """``path`` below ``root``, told from the names alone.

    Raises:
        DataError: it leaves the root, or is not a plain file although something is there.
    """
    text = os.fspath(path)
    top = os.path.normpath(os.fspath(root))
    if "\0" in text:
        raise DataError(f"picture name {text!r} holds a null byte")
    whole = os.path.normpath(os.path.join(top, text))  # noqa: PTH118  (Path does not fold '..' without touching links)
    inside = not Path(whole).is_absolute() and top == os.curdir and not whole.startswith(os.pardir)
    if not (inside or whole.startswith(top.rstrip(os.sep) + os.sep)):
        raise DataError(f"picture name {text!r} leaves the dataset's folder {top}")
    return _plain(Path(whole))


def _plain(path: Path) -> Path:
    if path.exists() and not path.is_file():  # a pipe, say, would be waited for
        raise DataError(f"picture {path} is not a file")
    return path


def _check_extent(image: Image.Image, path: Path) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise DataError(
            f"picture {path} has {width} x {height} pixels, over the limit of {MOST_PIXELS // 10**6} megapixels; "
            "scale it down"
        )


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing of the pixels
        turn = None
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image, name: str = "given") -> Image.Image:
    """A picture of any mode as RGB, without the clipping of Pillow's own conversion. ``name`` is for errors.

    Raises:
        DataError: values of unknown scale.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _eight_bits(image, name).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        picture = image.convert("RGBA")
        ground = Image.new("RGBA", picture.size, (GREY, GREY, GREY, 255))
        return Image.alpha_composite(ground, picture).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Grey pictures of 16 bits, or of floats in [0, 1], scaled to 8 bits. Pillow's own conversion would clip them."""
    values: NDArray[np.float64] = np.asarray(image).astype(np.float64)
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    full = 1.0 if image.mode == "F" else 65535.0
    if not (low >= 0 and high <= full):
        raise DataError(
            f"picture {name} has values {low:g}..{high:g} of unknown scale (mode {image.mode}); "
            "save it with 8 or 16 bits"
        )
    return Image.fromarray(np.rint(values * (255.0 / full)).astype(np.uint8))
