# SPDX-License-Identifier: Apache-2.0
"""The pictures below a folder, by name: what a folder holds where no file says it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from unified.contracts.errors import DataError
from unified.data.formats.flaw import REFUSE, Faults, Place

SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Of the pictures a trainer reads, in small letters."""


def pictures(folder: Path) -> list[str]:
    """Paths of all pictures below ``folder``, relative to it, with ``/``, sorted. Hidden files are no pictures.

    Raises:
        DataError: the folder does not exist, or holds none.
    """
    if not folder.is_dir():
        raise DataError(f"images folder {folder} does not exist")
    found = sorted(name for name in walk(folder) if name.lower().endswith(SUFFIXES))
    if not found:
        raise DataError(f"folder {folder} has no pictures in it ({', '.join(SUFFIXES)})")
    return found


def walk(folder: Path) -> Iterator[str]:
    """Paths of all files below ``folder``, relative to it, with ``/``; folders that are links are not entered."""
    for top, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = PurePosixPath(Path(top).relative_to(folder).as_posix())
        yield from (str(inside / name) for name in files if not name.startswith("."))


def by_stem(files: list[str], folder: Path, faults: Faults = REFUSE) -> Mapping[str, str]:
    """Pictures by their path without its ending.

    Raises:
        DataError: two pictures differ by their endings only.
    """
    found: dict[str, str] = {}
    for file in files:
        stem = file.rpartition(".")[0]
        if stem in found:
            reason = f"the pictures {found[stem]} and {file} have one name; labels fit either"
            faults.tell("pictures-alike", Place(str(folder)), "", reason)
        found.setdefault(stem, file)
    return found


def names_in(path: Path) -> list[str]:
    """The lines of a list file, without blank ones and comments.

    Raises:
        DataError: the file is missing or no text.
    """
    return [line for line in map(str.strip, text_of(path).splitlines()) if line and not line.startswith("#")]


def text_of(path: Path) -> str:
    """The text of a file in UTF-8.

    Raises:
        DataError: the file is missing or no text.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"file {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"file {path} is not text in UTF-8 (byte {error.start})") from error
