# SPDX-License-Identifier: Apache-2.0
"""Picture files against their records: there, readable by their header, and of the size that is told."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unified.contracts.errors import DataError
from unified.data.lint.finding import Findings, shown
from unified.data.lint.images import Images
from unified.data.lint.sheet import Sheet, listed
from unified.data.picture import FORMATS, MOST_PIXELS, read_picture

Depth = Literal["records", "headers", "pixels"]
"""How far the linter looks at pictures: whether they are there; their headers too; or every pixel."""

SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_ORIENTATION: Final = 0x0112  # EXIF tag
_XMP: Final = ("xmp", "XML:com.adobe.xmp")
_SLACK: Final = 1  # pixels by which a told size may be off


def check_pictures(sheet: Sheet, images: Images, depth: Depth, findings: Findings) -> NDArray[np.float64]:
    """Faults of the pictures. Returns their upright sizes (N, 2) as width and height; NaN where they were not read."""
    sizes = np.full((len(images.names), 2), np.nan)
    if sheet.folder is None:
        return sizes
    if not sheet.folder.is_dir():
        findings.add("folder-missing", sheet.file, "", "images", f"folder {sheet.folder} does not exist")
        return sizes
    names = _Neighbours(sheet.folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for k, name in enumerate(images.names):
            if not name:
                continue
            path = sheet.folder / name
            if not path.is_file():
                reason = f"{shown(name)} is not in {sheet.folder}{names.hint(name)}"
                findings.add("picture-missing", sheet.file, sheet.images.at(k), "file_name", reason)
            elif depth != "records" and (size := _look(sheet, k, path, images, findings)):
                sizes[k] = size if depth == "headers" or _decodes(sheet, k, name, findings) else np.nan
    return sizes


class _Neighbours:
    """Pictures of the folder that a missing name may mean."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, str] | None = None

    def hint(self, name: str) -> str:
        if self._names is None:
            self._names = {Path(found).stem.casefold(): found for found in walk(self.folder)}
        found = self._names.get(Path(name.replace("\\", "/")).stem.casefold())
        return f", though {shown(found)} is" if found else ""


def walk(folder: Path, most: int = 1_000_000) -> Iterator[str]:
    """Names of the pictures below a folder, relative to it, as far as ``most`` of them."""
    count = 0
    for top, _, files in os.walk(folder):
        for name in files:
            if name.lower().endswith(SUFFIXES) and count < most:
                count += 1
                yield str((Path(top) / name).relative_to(folder))


def _look(sheet: Sheet, k: int, path: Path, images: Images, findings: Findings) -> tuple[int, int] | None:
    """The upright size that a picture's header tells, and faults against the record's."""

    def told(fault: str, field: str, reason: str) -> None:
        findings.add(fault, sheet.file, sheet.images.at(k), field, reason)

    found = header(path)
    if isinstance(found, str):
        told("picture-damaged", "file_name", f"{shown(str(path))} {found}")
        return None
    (width, height), turned = found
    if width * height > MOST_PIXELS:
        reason = f"{shown(str(path))} has {width} x {height} pixels, over {MOST_PIXELS // 10**6} megapixels"
        told("picture-too-large", "file_name", reason)
        return None
    record = images.sizes[k]
    if np.isnan(record).any() or np.abs(record - (width, height)).max() <= _SLACK:
        return width, height
    said = f"the record says {record[0]:g} x {record[1]:g}, the picture is {width} x {height}"
    if turned and np.abs(record - (height, width)).max() <= _SLACK:
        told("size-turned", "width", f"{said} once its EXIF orientation is applied")
    else:
        told("size-disagrees", "width", said)
    return width, height


def header(path: Path) -> tuple[tuple[int, int], bool] | str:
    """Width and height of the upright picture, and whether it lies on its side in the file; or what is wrong."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            turned = _orientation(image) >= 5
    except OSError as error:
        return f"is damaged or not one of {', '.join(FORMATS)}" if error.errno is None else str(error.strerror)
    except Exception as error:  # a damaged file may make its decoder fail in any way
        return f"cannot be read: {' '.join(str(error).split())[:80] or type(error).__name__}"
    return ((height, width) if turned else (width, height)), turned


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and not any(key in image.info for key in ("exif", *_XMP)):
        return 1  # asking would decode the whole picture
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing of the pixels
        return 1


def _decodes(sheet: Sheet, k: int, name: str, findings: Findings) -> bool:
    try:
        read_picture(name, sheet.folder)
    except DataError as error:
        findings.add("picture-damaged", sheet.file, sheet.images.at(k), "file_name", str(error))
        return False
    return True


def told_unlisted(folder: Path, file: str, listed_names: set[str], findings: Findings) -> None:
    """Pictures of a folder that no record of any split names."""
    known = {os.path.normpath(name) for name in listed_names}
    rest = sorted(name for name in walk(folder) if name not in known)
    if rest:
        reason = f"pictures of {folder} in no record: {len(rest)}, {listed(rest, 3)}"
        findings.add("pictures-unlisted", file, "", "images", reason)
