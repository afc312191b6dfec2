# SPDX-License-Identifier: Apache-2.0
"""Image records: ids, file names and sizes as the file tells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unified.contracts.errors import DataError
from unified.data.lint.finding import Findings, shown
from unified.data.lint.sheet import Rows, Sheet, identify
from unified.data.picture import contained


@dataclass(frozen=True, eq=False)
class Images:
    """A file's images by row. N rows; -1 and empty texts stand for what is not known."""

    index: Mapping[int | str, int]  # row of every id; of one that stands twice, the first
    twice: frozenset[int | str]
    names: tuple[str, ...]  # file names that can be looked for
    sizes: NDArray[np.float64]  # (N, 2) width, height in pixels; NaN unknown


def check_images(sheet: Sheet, findings: Findings) -> Images:
    """Faults of the list of images, without a look at the pictures."""
    rows = sheet.images
    if not len(rows) and sheet.native:
        findings.add("no-images", sheet.file, "", "images", "the list is empty")
    first, twice = identify(rows, "image", sheet.file, findings)
    names = tuple(_file_name(sheet, k, findings) for k in range(len(rows)))
    _repeated(rows, names, sheet.file, findings)
    sizes = np.array([_size(sheet, k, findings) for k in range(len(rows))], dtype=np.float64)
    return Images(first, frozenset(twice), names, sizes.reshape(-1, 2))


def _file_name(sheet: Sheet, k: int, findings: Findings) -> str:
    rows, record = sheet.images, sheet.images.records[k]
    name = record.get("file_name")
    if name is None or name == "":
        reason = "is missing" if name is None else "is empty"
        findings.add("file-name-missing", sheet.file, rows.at(k), "file_name", reason)
        return ""
    if not isinstance(name, str):
        findings.add("file-name-type", sheet.file, rows.at(k), "file_name", f"must be a text, got {shown(name)}")
        return ""
    if (danger := hostile(name, sheet.folder)) is not None:
        findings.add("file-name-hostile", sheet.file, rows.at(k), "file_name", danger)
        return ""
    return name


def hostile(name: str, folder: Path | None) -> str | None:
    """Why a file name may not be opened; None for a plain name below the folder."""
    if any(0xD800 <= ord(char) <= 0xDFFF for char in name):
        return f"{shown(name)} is no text that a file can be named"
    try:
        contained(name, folder or Path())
    except DataError:
        return f"{shown(name)} leaves the folder of images, or is no plain file"
    except (OSError, ValueError) as error:
        return f"{shown(name)} cannot be a file name: {error.__class__.__name__}"
    return None


def _repeated(rows: Rows, names: tuple[str, ...], file: str, findings: Findings) -> None:
    first: dict[str, int] = {}
    for k, name in enumerate(names):
        if name and first.setdefault(name, k) != k:
            other = f"{rows.kind}[{rows.index[first[name]]}]"
            findings.add("file-name-twice", file, rows.at(k), "file_name", f"{shown(name)} is also that of {other}")


def _size(sheet: Sheet, k: int, findings: Findings) -> tuple[float, float]:
    rows, file = sheet.images, sheet.file
    record = rows.records[k]
    sides = record.get("width"), record.get("height")
    for key, side in zip(("width", "height"), sides, strict=True):
        if side is None and sheet.native:
            findings.add("size-missing", file, rows.at(k), key, "is not told")
        elif side is not None and not is_side(side):
            reason = f"must be a number of pixels, got {shown(side)}"
            findings.add("size-impossible", file, rows.at(k), key, reason)
    if not (is_side(sides[0]) and is_side(sides[1])):
        return np.nan, np.nan
    return float(sides[0]), float(sides[1])  # type: ignore[arg-type]


def is_side(value: Any) -> bool:
    """Whether a value can be the width of a picture."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**31
