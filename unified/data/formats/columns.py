# SPDX-License-Identifier: Apache-2.0
"""A CSV or Parquet file as columns by name."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from unified.contracts.errors import DataError
from unified.data.formats.flaw import REFUSE, Faults, Place

Columns = Mapping[str, Sequence[Any]]

_PEEKED: Final = 1000  # rows that tell what a column holds


def read_columns(path: Path, faults: Faults = REFUSE) -> tuple[Columns, Sequence[int]]:
    """All columns of a file and the number of every row, from 1; the cells of CSV are texts, of Parquet have types.

    Raises:
        DataError: the file is missing, damaged or has no header; for Parquet, that pyarrow is not installed. A row
            with too many or too few cells is a fault.
    """
    return _read(path, None, faults)


def _read(path: Path, rows: int | None, faults: Faults) -> tuple[Columns, Sequence[int]]:
    if path.suffix.lower() != ".parquet":
        return _csv(path, rows, faults)
    columns = _parquet(path, rows)
    return columns, range(1, len(next(iter(columns.values()), ())) + 1)


def peek_columns(path: Path) -> Columns:
    """The first rows of a file; nothing where it cannot be read."""
    try:
        return _read(path, _PEEKED, REFUSE)[0]
    except DataError:
        return {}


def _csv(path: Path, rows: int | None, faults: Faults) -> tuple[Columns, Sequence[int]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            lines = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
            return _columns(path, itertools.islice(lines, None if rows is None else rows + 1), faults)
    except OSError as error:
        raise DataError(f"file {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"file {path} is not text in UTF-8 (byte {error.start})") from error
    except csv.Error as error:
        raise DataError(f"file {path} is not CSV: {error}") from error


def _columns(path: Path, lines: Iterable[list[str]], faults: Faults) -> tuple[Columns, Sequence[int]]:
    filled = (line for line in lines if line)
    header = [name.strip() for name in next(filled, [])]
    twice = next((name for k, name in enumerate(header) if name in header[:k]), None)
    if not header or twice is not None:
        what = "is empty; expected a line of column names" if not header else f"has two columns '{twice}'"
        raise DataError(f"file {path} {what}")
    columns: list[list[str]] = [[] for _ in header]
    numbers = []
    for number, line in enumerate(filled, 1):
        if len(line) != len(header):
            reason = f"has {len(line)} cells, the header has {len(header)}"
            faults.tell("record-malformed", Place(str(path), f"row {number}"), "", reason)
            continue
        numbers.append(number)
        for column, cell in zip(columns, line, strict=True):
            column.append(cell)
    return dict(zip(header, columns, strict=True)), numbers


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
