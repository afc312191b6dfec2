# SPDX-License-Identifier: Apache-2.0
"""The pictures of a large job by number, in an order that is the same on every machine and every day."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from unified.contracts.errors import DataError, needs, suggestion
from unified.data.picture import said
from unified.inference.source import PICTURES, as_pixels, files_at, is_video, refuse_url

LISTS = (".txt", ".lst")
TABLES = (".parquet", ".pq")


@dataclass(frozen=True)
class Entry:
    """One picture of a job. ``read()`` gives uint8 (3, H, W) RGB or raises :class:`DataError`."""

    name: str
    read: Callable[[], Tensor]


class Worklist(Protocol):
    """Pictures by number."""

    digest: str  # SHA-256 of what the pictures are called and how large their files are

    def __len__(self) -> int: ...

    def entries(self, start: int, stop: int) -> Iterator[Entry]:
        """Those numbered ``start`` to ``stop`` - 1."""


class Files:
    """Picture files, each by the name it is called."""

    def __init__(self, files: Sequence[tuple[str, Path]]) -> None:
        self.files = files
        self.digest = _digest(f"{name}\0{_bytes_of(path)}" for name, path in files)

    def __len__(self) -> int:
        return len(self.files)

    def entries(self, start: int, stop: int) -> Iterator[Entry]:
        for name, path in self.files[start:stop]:
            yield Entry(name, partial(as_pixels, path))


class Tables:
    """Rows of Parquet files, in the order of the files.

    Args:
        files: with the same column.
        column: of paths, of bytes, or of structures with ``bytes`` and ``path``; by default ``image`` or ``path``.

    Raises:
        DataError: damaged, or without such a column.
        ConfigError: pyarrow is not installed.
    """

    def __init__(self, files: Sequence[Path], column: str | None = None) -> None:
        self.files, self.tables = files, [_opened(path) for path in files]
        self.column = _column(files[0], self.tables[0].schema_arrow.names, column)
        self.starts: list[int] = [0, *accumulate(table.metadata.num_rows for table in self.tables)]
        named = zip(files, self.tables, strict=True)
        rows = (f"{path.name}\0{table.metadata.num_rows}\0{_bytes_of(path)}" for path, table in named)
        self.digest = _digest([self.column, *rows])

    def __len__(self) -> int:
        return self.starts[-1]

    def entries(self, start: int, stop: int) -> Iterator[Entry]:
        stop = min(stop, len(self))
        while start < stop:
            which = bisect_right(self.starts, start) - 1
            end = min(stop, self.starts[which + 1])
            for row, value in self._rows(which, start - self.starts[which], end - self.starts[which]):
                yield _entry(self.files[which], row, value)
            start = end

    def _rows(self, which: int, start: int, stop: int) -> Iterator[tuple[int, Any]]:
        """Numbers and values of rows of one file; only the row groups they lie in are read, one at a time."""
        table, first = self.tables[which], 0
        for group in range(table.num_row_groups):
            last = first + table.metadata.row_group(group).num_rows
            if last > start and first < stop:
                try:
                    values = table.read_row_group(group, columns=[self.column])[self.column]
                except (OSError, ValueError, KeyError) as error:
                    raise DataError(f"table {said(self.files[which])} is damaged: {_line(error)}") from None
                low, high = max(start, first), min(stop, last)
                yield from zip(range(low, high), values.slice(low - first, high - low).to_pylist(), strict=True)
            first = last


def open_worklist(words: Sequence[str], column: str | None = None) -> Worklist:
    """The pictures that words name: files, folders, patterns; a list of paths (.txt, .lst); or Parquet files.

    A folder's pictures are called by their path in it, a list's by their line; relative paths of a list start from the
    list's folder.

    Args:
        words: of one kind: Parquet files stand alone.
        column: of a Parquet file.

    Raises:
        DataError: nothing there, or tables beside pictures.
    """
    tables = [path for word in words for path in _tables(word)]
    if tables and len(tables) < sum(max(1, len(_tables(word))) for word in words):
        raise DataError("Parquet files and pictures cannot be mixed in one job; run two")
    if tables:
        return Tables(tables, column)
    found = [pair for word in words for pair in _named(word)]
    if not found:
        raise DataError("no picture was given: the list is empty")
    names = [name for name, _ in found]
    if len(set(names)) < len(names):
        found = [(str(path), path) for _, path in found]  # two folders have the same names inside
    return Files(list(dict(found).items()))


def _tables(word: str) -> list[Path]:
    path = Path(word)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in TABLES)
        return found if found and not any(p.suffix.lower() in PICTURES for p in path.iterdir()) else []
    refuse_url(word)
    return files_at(word) if path.suffix.lower() in TABLES else []


def _named(word: str) -> Iterator[tuple[str, Path]]:
    path = Path(word)
    if path.is_file() and path.suffix.lower() in LISTS:
        yield from _listed(path)
        return
    for found in files_at(word):
        if is_video(found):
            raise DataError(f"'{said(found)}' is a video; embed pictures, or use model.encode() for its frames")
        yield (found.relative_to(path).as_posix() if path.is_dir() else str(found)), found


def _listed(path: Path) -> Iterator[tuple[str, Path]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"list {said(path)} cannot be read: {_line(error)}") from None
    for line in (each.strip() for each in lines):
        if line:
            refuse_url(line)
            yield line, path.parent / line


def _opened(path: Path) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise needs("a Parquet file", "pyarrow", "parquet") from None
    try:
        return ParquetFile(path)
    except (OSError, ArrowException) as error:
        raise DataError(f"table {said(path)} cannot be read: {_line(error)}") from None


def _column(path: Path, names: Sequence[str], asked: str | None) -> str:
    known = [asked] if asked else ["image", "path", "file", "file_name"]
    for name in known:
        if name in names:
            return name
    raise DataError(f"table {said(path)} has no column '{known[0]}'{suggestion(known[0], names)}; give --column")


def _entry(table: Path, row: int, value: Any) -> Entry:
    """A row's picture, called by its path where it has one, else by its row."""
    if isinstance(value, dict):
        name, data = value.get("path"), value.get("bytes")
    else:
        name, data = (value, None) if isinstance(value, str) else (None, value)
    called = name or f"{table.name}#{row}"
    if data is not None:
        return Entry(called, partial(as_pixels, data))
    return Entry(called, partial(_beside, table, name, called))


def _beside(table: Path, name: str | None, called: str) -> Tensor:
    if not name:
        raise DataError(f"{called} is empty")
    refuse_url(name)
    return as_pixels(table.parent / name)


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1  # said when it is read


def _digest(lines: Iterable[str]) -> str:
    total = hashlib.sha256()
    for line in lines:
        total.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return total.hexdigest()


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
