# SPDX-License-Identifier: Apache-2.0
"""Tables kept in the user's cache folder, so that a dataset's files are read and checked once.

A table is kept under the digest of what its files hold, never beside them. A second, small record leads from what the
file system says of the files (path, size, times) to that digest, so that an unchanged file is not even read. Arrays
are ``.npy`` files, everything else is JSON: nothing in the cache can be code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import time
import typing
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from unified.contracts.errors import DataError
from unified.data.formats.flaw import REFUSE, Collector, Faults
from unified.data.formats.table import Table
from unified.data.home import cache_home

VERSION: Final = 2  # of what a table holds; a change makes every kept table anew
SMALL: Final = 1 << 20  # bytes: files that are read faster than a cache is worth
_FRESH: Final = 2.0  # seconds: a file changed so recently may change again within one tick of its clock
_DAYS: Final = 60  # tables that nobody opened for so long are removed


@dataclass(frozen=True)
class Scan:
    """How one split becomes a table.

    ``files`` are those whose bytes decide the table, ``settings`` (plain data) what else does, such as the names of
    the pictures in a folder; ``build`` reads them all.
    """

    files: tuple[Path, ...]
    settings: Mapping[str, Any]
    build: Callable[[], Table] = field(compare=False)


def tabulate(scan: Scan, faults: Faults = REFUSE) -> Table:
    """The table of a scan: from memory, from the cache, or built and then kept. A cache is never in the way.

    Where ``faults`` are collected the files are always read, unless somebody has looked through them already, and a
    table is only kept if there are none.

    Raises:
        DataError: as the building does.
    """
    stamps = tuple(_stamp(path) for path in scan.files)
    key = _Key(stamps, _digest(scan.settings), scan)
    if not isinstance(faults, Collector) or faults.documents:
        return _tabulated(key)
    return faults.table(key, lambda: _checked(key, faults))


def _checked(key: _Key, faults: Collector) -> Table:
    known = len(faults.found)
    table = key.scan.build()
    if len(faults.found) > known:
        return table
    return _tabulated(replace(key, scan=replace(key.scan, build=lambda: table)))


@dataclass(frozen=True)
class _Key:
    """Equal for equal content, as far as the file system tells."""

    stamps: tuple[tuple[Any, ...], ...]
    settings: str
    scan: Scan = field(compare=False)


@lru_cache(maxsize=6)
def _tabulated(key: _Key) -> Table:
    if sum(stamp[1] for stamp in key.stamps) < SMALL:
        return key.scan.build()
    home = cache_home() / "tables"
    try:
        folder = home / _content(home, key)
    except OSError as error:
        return _noted(key.scan.build(), f"the index cannot be kept in {home}: {error.strerror or error}")
    return _kept(folder, key.scan.build)


def _kept(folder: Path, build: Callable[[], Table]) -> Table:
    damaged = folder.is_dir()
    if damaged:
        with contextlib.suppress(Exception):  # whatever is wrong with it, it can be made anew
            table = read_table(folder)
            os.utime(folder)
            return table
    table = build()
    try:
        write_table(folder, table)
        return _noted(read_table(folder), f"the index {folder.name} was damaged and is made anew" if damaged else None)
    except (OSError, ValueError) as error:
        return _noted(
            table, f"the index cannot be kept in {folder.parent}: {getattr(error, 'strerror', None) or error}"
        )


def _noted(table: Table, remark: str | None) -> Table:
    return replace(table, warnings=(*table.warnings, remark), folder=None) if remark else table


def _stamp(path: Path) -> tuple[Any, ...]:
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"file {path} cannot be read: {error.strerror or error}") from error
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps([VERSION, value], sort_keys=True).encode("utf-8")).hexdigest()[:32]


def _content(home: Path, key: _Key) -> str:
    """The digest of the files' bytes and the settings; read from a record where the stamps are known."""
    record = home / "known" / f"{_digest([key.stamps, key.settings])}.txt"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found = record.read_text("utf-8")
        if len(found) == 32 and found.isalnum():
            return found
    whole = hashlib.sha256(key.settings.encode())
    for path in key.scan.files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    content = whole.hexdigest()[:32]
    if time.time() - max((stamp[2] for stamp in key.stamps), default=0) / 1e9 > _FRESH:
        record.parent.mkdir(parents=True, exist_ok=True)
        _write_text(record, content)
    return content


def _write_text(path: Path, text: str) -> None:
    handle, draft = tempfile.mkstemp(prefix=".draft-", dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(draft).replace(path)


def write_table(folder: Path, table: Table) -> None:
    """Keeps a table in ``folder``, in one step; what stood there is gone.

    Raises:
        OSError: the folder cannot be written.
    """
    home = folder.parent
    home.mkdir(parents=True, exist_ok=True)
    _sweep(home)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=home))
    try:
        plain: dict[str, Any] = {}
        sums: dict[str, int] = {}
        for name, value in _parts(replace(table, folder=None)):
            if isinstance(value, np.ndarray):
                np.save(draft / f"{name}.npy", value, allow_pickle=False)
                sums[name] = zlib.crc32((draft / f"{name}.npy").read_bytes())
            else:
                plain[name] = value
        text = json.dumps({"version": VERSION, "sums": sums, "plain": plain})
        (draft / "table.json").write_text(json.dumps([zlib.crc32(text.encode()), text]), encoding="utf-8")
        _swap(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _swap(draft: Path, folder: Path) -> None:
    aside = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
    try:
        with contextlib.suppress(FileNotFoundError):
            folder.replace(aside / "old")
        with contextlib.suppress(FileExistsError):  # another process was as quick, with the same table
            draft.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _sweep(home: Path) -> None:
    """Removes drafts of killed processes after a day, tables and records that nobody used for long."""
    now = time.time()
    for path in [*home.iterdir(), *(home / "known").glob("*")]:
        with contextlib.suppress(OSError):
            age = (now - path.stat().st_mtime) / 86400
            if path.name != "known" and age > (1 if path.name.startswith(".draft-") else _DAYS):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _parts(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Arrays and plain values of a table by dotted name."""
    for each in dataclasses.fields(value):
        inner, name = getattr(value, each.name), f"{prefix}{each.name}"
        if is_dataclass(inner):
            yield from _parts(inner, f"{name}.")
        else:
            yield name, inner


def read_table(folder: Path) -> Table:
    """The table kept in ``folder``; its arrays are mapped, not loaded.

    Raises:
        Exception: it is not there, damaged, or of another version.
    """
    crc, text = json.loads((folder / "table.json").read_text("utf-8"))
    if zlib.crc32(text.encode()) != crc:
        raise ValueError("table.json is damaged")
    meta = json.loads(text)
    if meta["version"] != VERSION:
        raise ValueError("of another version")
    arrays = {name: _mapped(folder / f"{name}.npy", crc) for name, crc in meta["sums"].items()}
    table: Table = _assembled(Table, {**arrays, **meta["plain"]}, "")
    return replace(table, folder=folder)


def _mapped(path: Path, crc: int) -> Any:
    data = path.read_bytes()
    if zlib.crc32(data) != crc:
        raise ValueError(f"{path.name} is damaged")
    empty = len(data) < 256  # a file cannot be mapped from its very end
    return np.load(path, mmap_mode=None if empty else "r", allow_pickle=False)


def _assembled(cls: type[Any], parts: Mapping[str, Any], prefix: str) -> Any:
    """A dataclass out of parts by dotted name."""
    values: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(cls).items():
        key = f"{prefix}{name}"
        inner = next((k for k in (kind, *typing.get_args(kind)) if is_dataclass(k) and isinstance(k, type)), None)
        if key in parts:
            values[name] = _frozen(parts[key])
        elif inner is not None:
            values[name] = _assembled(inner, parts, f"{key}.")
        else:
            raise KeyError(key)
    return cls(**values)


def _frozen(value: Any) -> Any:
    """Lists of JSON as the tuples they were."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def stamped(paths: Sequence[Path]) -> list[list[Any]]:
    """What the file system says of files whose bytes would be too many to read, as settings of a :class:`Scan`."""
    return [list(_stamp(path)) for path in paths]
