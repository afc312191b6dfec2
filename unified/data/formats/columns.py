# SPDX-License-Identifier: Apache-2.0
"""A CSV or Parquet file as columns by name."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from unified.contracts.errors import DataError

Columns = Mapping[str, Sequence[Any]]

_PEEKED: Final = 1000  # rows that tell what a column holds


def read_columns(path: Path, rows: int | None = None) -> Columns:
    """All columns of a file; the cells of CSV are texts, those of Parquet have types. At most ``rows`` rows.

    Raises:
        DataError: the file is missing, damaged or has no header; for Parquet, that pyarrow is not installed.
    """
    return _parquet(path, rows) if path.suffix.lower() == ".parquet" else _csv(path, rows)


def peek_columns(path: Path) -> Columns:
    """The first rows of a file; nothing where it cannot be read."""
    try:
        return read_columns(path, _PEEKED)
    except DataError:
        return {}


def _csv(path: Path, rows: int | None) -> Columns:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            lines = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
            return _columns(path, itertools.islice(lines, None if rows is None else rows + 1))
    except OSError as error:
        raise DataError(f"file {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"file {path} is not text in UTF-8 (byte {error.start})") from error
    except csv.Error as error:
        raise DataError(f"file {path} is not CSV: {error}") from error


def _columns(path: Path, lines: Iterable[list[str]]) -> Columns:
    filled = (line for line in lines if line)
    header = [name.strip() for name in next(filled, [])]
    twice = next((name for k, name in enumerate(header) if name in header[:k]), None)
    if not header or twice is not None:
        what = "is empty; expected a line of column names" if not header else f"has two columns '{twice}'"
        raise DataError(f"file {path} {what}")
    columns: list[list[str]] = [[] for _ in header]
    for number, line in enumerate(filled, 1):
        if len(line) != len(header):
            raise DataError(f"{path}: row {number} has {len(line)} cells, the header has {len(header)}")
        for column, cell in zip(columns, line, strict=True):
            column.append(cell)
    return dict(zip(header, columns, strict=True))


def _parquet(path: Path, rows: int | None) -> Columns:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise DataError(
            f"file {path}: reading Parquet needs pyarrow, which is not installed; "
            "pip install 'unified-networks[parquet]', or save it as CSV"
        ) from None
    try:
        table = parquet.read_table(path)
        return (table if rows is None else table.slice(0, rows)).to_pydict()  # type: ignore[no-any-return]
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"file {path} is not Parquet: {' '.join(str(error).split())[:200]}") from error
