# SPDX-License-Identifier: Apache-2.0
"""Picture files: whatever the camera or the web left in them comes out as upright 8-bit RGB, or as one clear line."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops, UnidentifiedImageError
from torch import Tensor

from unified.contracts.errors import DataError

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""The decoders that may run: those a trainer needs, and none of the others' attack surface."""

MOST_PIXELS: Final = 50_000_000
"""Larger pictures are refused from their header, before any memory is spent on them."""

GREY: Final = 114
"""The value of every pixel where there is no picture: padding, and what shows through transparent parts."""

FOLLOW_LINKS: Final = "UNIFIED_FOLLOW_LINKS"
"""The environment variable that, set to 1, lets links of a dataset's folder lead out of it."""

_OTHERS: Final = {  # what people have besides, by a mark at byte 0 or 4
    b"GIF8": "GIF",
    b"ftyphei": "HEIC",
    b"ftypmif1": "HEIC",
    b"ftypavif": "AVIF",
    b"jP  ": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"JXL ": "JPEG XL",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"8BPS": "PSD",
    **{b"P%d%c" % (number, blank): "PPM" for number in range(1, 8) for blank in b" \t\n\r"},
}
_ORIENTATION: Final = 0x0112  # EXIF tag
_UPRIGHT: Final = {  # how to turn, and whether the stored first column and row come to lie at the far side
    2: (Image.Transpose.FLIP_LEFT_RIGHT, True, False),
    3: (Image.Transpose.ROTATE_180, True, True),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, False, True),
    5: (Image.Transpose.TRANSPOSE, False, False),
    6: (Image.Transpose.ROTATE_270, True, False),
    7: (Image.Transpose.TRANSVERSE, True, True),
    8: (Image.Transpose.ROTATE_90, False, True),
}
_INTERPRETATION: Final = 262  # TIFF tag
_WHITE_IS_ZERO: Final = 0
_LONGEST: Final = 200  # characters of a name that are worth showing


def read_picture(path: str | Path, root: str | Path | None = None) -> Tensor:
    """The picture at ``path`` as uint8 (3, H, W) RGB; a dataset's is relative to its ``root``, or inside it.

    The EXIF orientation is applied, transparent parts become grey, 16-bit values are scaled to 8 bits.

    Raises:
        DataError: missing, damaged, of another format, over 50 megapixels, or outside the root.
    """
    return read_within(path, None, root)[0]


def read_within(path: str | Path, reach: int | None, root: str | Path | None = None) -> tuple[Tensor, tuple[int, int]]:
    """A picture at most ``reach`` pixels wide and high, uint8 (3, h, w), and its true (height, width).

    A larger one is shrunk to that; a JPEG more than twice as large is not even decoded in full. What is drawn from a
    shrunk picture no larger than ``reach`` loses nothing to speak of.

    Raises:
        DataError: as :func:`read_picture`.
    """
    whole = _plain(Path(path)) if root is None else contained(path, root)
    name = said(whole)
    try:
        with _opened(whole) as file:
            return decoded(file, name, reach)
    except FileNotFoundError:
        raise DataError(f"picture {name} is missing") from None


def decoded(file: BinaryIO, name: str, reach: int | None = None) -> tuple[Tensor, tuple[int, int]]:
    """A picture from what an encoded file holds, as :func:`read_within`; ``name`` is for errors.

    Raises:
        DataError: damaged, of another format, or over 50 megapixels.
    """
    try:
        with Image.open(file, formats=FORMATS) as opened:
            _check_extent(opened, name)
            shown, size = _shrunk(opened, reach, name)
            pixels = np.array(shown)
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise DataError(f"picture {name} is far over the limit of {MOST_PIXELS // 10**6} megapixels") from None
    except UnidentifiedImageError:
        raise DataError(f"picture {name} {_stranger(file)}") from None
    except Exception as error:  # a damaged file may make its decoder fail in any way
        reason = said(" ".join(str(error).split()) or type(error).__name__)
        raise DataError(f"picture {name} cannot be read: {reason}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1), size


def _stranger(file: BinaryIO) -> str:
    """What a file is that no decoder takes, as far as its first bytes tell."""
    file.seek(0)
    start = file.read(16)
    kind = next((kind for mark, kind in _OTHERS.items() if start.startswith(mark) or start[4:].startswith(mark)), None)
    if kind is None:
        return f"is damaged or not one of {', '.join(FORMATS)}"
    return f"is {kind}, which is not read; known: {', '.join(FORMATS)}; save it as one of these"


def contained(path: str | Path, root: str | Path) -> Path:
    """``path`` below ``root``. Links are followed as long as they stay there, or if the environment says so.

    Raises:
        DataError: it leaves the root by name or by link, or is not a plain file although something is there.
    """
    text = os.fspath(path)
    if "\0" in text:
        raise DataError(f"file name '{said(text)}' holds a null byte")
    top = os.path.normpath(os.fspath(root))
    whole = os.path.normpath(os.path.join(top, text))  # noqa: PTH118  (Path does not fold '..' without touching links)
    if not _is_below(os.path.abspath(whole), os.path.abspath(top)):  # noqa: PTH100
        raise DataError(f"file name '{said(text)}' leaves the dataset's folder {said(top)}")
    if not _is_below(_real(whole), _real(top)) and os.environ.get(FOLLOW_LINKS) != "1":
        raise DataError(
            f"{said(whole)} is a link that leaves the dataset's folder {said(top)}; "
            f"put the file itself there, or set {FOLLOW_LINKS}=1 if you trust the dataset's links"
        )
    return _plain(Path(whole))


def said(name: str | Path) -> str:
    """A name that any terminal prints on one line, without its middle if it is very long."""
    letters = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in os.fspath(name))
    text = "".join(letters)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 2 :]}"


def _is_below(path: str, top: str) -> bool:
    return path.startswith(top.rstrip(os.sep) + os.sep)


def _real(path: str) -> str:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError) as error:  # no such name can exist
        raise DataError(f"{said(path)} cannot be a file: {_reason(error)}") from None


def _plain(path: Path) -> Path:
    """The path, unless it names what is no file: a pipe, say, would be waited for."""
    try:
        kind = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, ValueError) as error:
        raise DataError(f"{said(path)} cannot be a file: {_reason(error)}") from None
    if not stat.S_ISREG(kind):
        raise DataError(f"{said(path)} is not a file")
    return path


def _reason(error: OSError | ValueError) -> str:
    return str(error.strerror) if isinstance(error, OSError) else "its name has letters that no file name can have"


def _opened(path: Path) -> BinaryIO:
    """The file, checked once more where nobody can exchange it; Pillow is given no name that it could map."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        file = os.fdopen(os.open(path, flags), "rb")
    except NotADirectoryError:
        raise FileNotFoundError from None
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise DataError(f"{said(path)} is not a file")


def _check_extent(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise DataError(
            f"picture {name} has {width} x {height} pixels, over the limit of {MOST_PIXELS // 10**6} megapixels; "
            "scale it down"
        )


def _shrunk(opened: Image.Image, reach: int | None, name: str) -> tuple[Image.Image, tuple[int, int]]:
    """An opened picture upright, in RGB and within ``reach``, and its true (height, width)."""
    stored, drafted = opened.size, None
    if reach is not None and max(stored) > reach:
        drafted = opened.draft(None, fitting(stored, reach))
    opened.load()  # TIFF pictures turn themselves here
    if drafted is None:
        stored = opened.size
    covered = drafted[1][2:] if drafted else stored  # of a draft, whose last column or row may be a part of a pixel
    tag = _orientation(opened)
    picture, box = _upright(to_rgb(_conventional(opened), name), tag, covered)
    width, height = stored[::-1] if tag in _UPRIGHT and tag >= 5 else stored
    if reach is not None and max(width, height) > reach:
        shape = fitting((width, height), reach)
        picture = picture.resize(shape, Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    return picture, (height, width)


def fitting(extent: tuple[int, int], reach: int) -> tuple[int, int]:
    """(width, height) shrunk, if need be, so that the longer is ``reach``."""
    ratio = min(1.0, reach / max(extent))
    return max(1, round(extent[0] * ratio)), max(1, round(extent[1] * ratio))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing of the pixels
        return 1


def _upright(
    picture: Image.Image, tag: int, covered: tuple[float, float]
) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """The picture turned as its EXIF tag says, and the box in it that was the stored ``covered`` (width, height)."""
    if tag not in _UPRIGHT:
        return picture, (0.0, 0.0, *covered)
    turn, far_x, far_y = _UPRIGHT[tag]
    turned = picture.transpose(turn)
    width, height = covered[::-1] if tag >= 5 else covered
    x, y = turned.width - width if far_x else 0.0, turned.height - height if far_y else 0.0
    return turned, (x, y, x + width, y + height)


def _conventional(image: Image.Image) -> Image.Image:
    """The picture with its values the usual way round, where a file has them the other way and Pillow does not know."""
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        return ImageChops.invert(image)  # only Adobe's JPEGs count ink backwards; Pillow turns all
    if image.mode.startswith("I;16") and getattr(image, "tag_v2", {}).get(_INTERPRETATION) == _WHITE_IS_ZERO:
        return Image.fromarray(np.uint16(65535) - np.asarray(image).astype(np.uint16))
    return image


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
    values: NDArray[Any] = np.asarray(image)
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    full = 1.0 if image.mode == "F" else 65535.0
    if not (low >= 0 and high <= full):
        raise DataError(
            f"picture {name} has values {low:g}..{high:g} of unknown scale (mode {image.mode}); "
            "save it with 8 or 16 bits"
        )
    scaled = np.rint(values * np.float32(255.0 / full)).astype(np.uint8)
    clear = image.info.get("transparency")
    return Image.fromarray(np.where(values == clear, np.uint8(GREY), scaled) if isinstance(clear, int) else scaled)
