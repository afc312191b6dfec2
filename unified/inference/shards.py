# SPDX-License-Identifier: Apache-2.0
"""Shards of vectors on the disk: each whole or not there, with a receipt that says what it holds.

Legend: R rows of a shard, D numbers of a vector.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

from safetensors.torch import save
from torch import Tensor

from unified.contracts.errors import ConfigError, needs, suggestion
from unified.disk import NEW, make_folder, unwritable, write_bytes

Format: TypeAlias = Literal["parquet", "safetensors", "lance"]
FORMATS: Final[tuple[str, ...]] = get_args(Format)
MANIFEST: Final = "embedding.json"
VECTORS: Final = "embedding"  # the column of the vectors


@dataclass(frozen=True)
class Rows:
    """What a shard holds: columns of plain values, and the vectors beside them."""

    columns: Mapping[str, Sequence[Any]]  # each R long
    vectors: Tensor  # (R, D)
    notes: Mapping[str, str] = field(default_factory=dict)  # written into the file, such as the space's fingerprint


@dataclass(frozen=True)
class Receipt:
    """What became of a shard's pictures. It is written last: a shard without one is made again."""

    shard: int
    pictures: int
    rows: int
    failed: tuple[tuple[str, str], ...] = ()  # names of pictures that cannot be read, and why
    files: Mapping[str, int] = field(default_factory=dict)  # bytes by name


def pick_format(asked: str) -> Format:
    """``auto`` takes Parquet where pyarrow is installed, else safetensors with JSON lines beside.

    Raises:
        ConfigError: an unknown format, or its package is not installed.
    """
    if asked == "auto":
        return "parquet" if _is_there("pyarrow") else "safetensors"
    if asked not in FORMATS:
        raise ConfigError(f"unknown format '{asked}'{suggestion(asked, ('auto', *FORMATS))}")
    for name, package, module, extra in (
        ("parquet", "pyarrow", "pyarrow", "parquet"),
        ("lance", "LanceDB", "lancedb", "index"),
    ):
        if asked == name and not _is_there(module):
            raise needs(f"--format {name}", package, extra)
    return asked  # type: ignore[return-value]


def receipt_at(folder: Path, shard: int) -> Receipt | None:
    """The receipt of a shard that is there and whole; None where it has to be made."""
    try:
        said = json.loads((folder / f"{_name(shard)}.json").read_text(encoding="utf-8"))
        failed = tuple((str(name), str(why)) for name, why in said["failed"])
        receipt = Receipt(int(said["shard"]), int(said["pictures"]), int(said["rows"]), failed, dict(said["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = all(_size(folder / name) == size for name, size in receipt.files.items())
    return receipt if whole and receipt.shard == shard else None


def write_shard(
    folder: Path, shard: int, rows: Rows, pictures: int, failed: Sequence[tuple[str, str]], form: Format
) -> Receipt:
    """Writes a shard and then its receipt; one that is there already gives way.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    try:
        make_folder(folder)
        names = WRITERS[form](folder, _name(shard), rows)
    except OSError as error:
        raise unwritable(folder, error) from error
    files = {name: _size(folder / name) for name in names}
    receipt = Receipt(shard, pictures, len(rows.vectors), tuple(failed), files)
    write_bytes(folder / f"{_name(shard)}.json", json.dumps(asdict(receipt), indent=1).encode())
    return receipt


def arrow_table(rows: Rows) -> Any:
    """Rows as a ``pyarrow.Table``: the columns, and vectors as a fixed-size list of their own type."""
    import pyarrow as pa

    count, width = rows.vectors.shape
    flat = pa.array(rows.vectors.contiguous().numpy().reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, width)
    columns = {name: pa.array(list(values), type=_arrow_type(pa, values)) for name, values in rows.columns.items()}
    assert len(vectors) == count
    table = pa.table({**columns, VECTORS: vectors})
    return table.replace_schema_metadata(dict(rows.notes))


def _write_parquet(folder: Path, name: str, rows: Rows) -> list[str]:
    import pyarrow.parquet as pq

    target = folder / f"{name}.parquet"
    fresh = folder / f"{NEW}{target.name}"
    try:
        pq.write_table(arrow_table(rows), fresh, compression="zstd")
        _synced(fresh)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    return [target.name]


def _write_safetensors(folder: Path, name: str, rows: Rows) -> list[str]:
    """Vectors as a tensor, the other columns as JSON lines in the same order."""
    lines = (dict(zip(rows.columns, values, strict=True)) for values in zip(*rows.columns.values(), strict=True))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_bytes(folder / f"{name}.jsonl", text.encode())
    said = {"unified": json.dumps(dict(rows.notes))}  # one key: the library writes several in any order
    data = save({VECTORS: rows.vectors.contiguous()}, metadata=said)
    write_bytes(folder / f"{name}.safetensors", data)
    return [f"{name}.jsonl", f"{name}.safetensors"]


def _write_lance(folder: Path, name: str, rows: Rows) -> list[str]:
    """A table of a LanceDB database that is the folder itself."""
    import lancedb

    shutil.rmtree(folder / f"{name}.lance", ignore_errors=True)  # of a process that was stopped
    lancedb.connect(folder).create_table(name, arrow_table(rows))
    return [f"{name}.lance"]


WRITERS: Final[Mapping[str, Callable[[Path, str, Rows], list[str]]]] = {
    "parquet": _write_parquet,
    "safetensors": _write_safetensors,
    "lance": _write_lance,
}


def _arrow_type(pa: Any, values: Sequence[Any]) -> Any:
    """Of the first value, so that shards without rows have the types of the others."""
    first = next(iter(values), "")
    if isinstance(first, list):
        return pa.list_(pa.string())
    return pa.string() if isinstance(first, str) else pa.int32() if isinstance(first, int) else pa.float32()


def _name(shard: int) -> str:
    return f"shard-{shard:05d}"


def _size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder; -1 where nothing is."""
    if path.is_dir():
        return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    return path.stat().st_size if path.is_file() else -1


def _synced(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _is_there(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None
