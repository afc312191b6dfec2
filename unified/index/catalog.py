# SPDX-License-Identifier: Apache-2.0
"""The manifest of an index: which files belong to it, with their SHA-256, and its own.

It is replaced as a whole by a rename, and that rename is the moment at which an addition or deletion is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from unified.contracts.errors import DataError, UnifiedError
from unified.disk import read_regular, replace_file
from unified.index.protocol import Layout
from unified.index.segment import PREFIX, Sealed

CATALOG: Final = "index.json"
LOCK: Final = "lock"
FORMAT: Final = 1
GONE: Final = "deleted-"
_MOST: Final = 64 << 20  # bytes of a catalog
_NAME: Final = re.compile(rf"(?:{PREFIX}|{GONE})[0-9a-f]{{16}}\.safetensors")
_SUM: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Catalog:
    """What an index is made of."""

    layout: Layout
    segments: tuple[Sealed, ...] = ()
    deleted: Sealed | None = None  # positions of rows that are gone
    number: int = 0  # for rows that are added without an id
    generation: int = 0  # raised by every change

    @property
    def rows(self) -> int:
        """Of all segments, deleted ones included."""
        return sum(each.rows for each in self.segments)

    @property
    def files(self) -> set[str]:
        """Names of all files but the catalog's own."""
        return {each.name for each in (*self.segments, *([self.deleted] if self.deleted else []))}

    def after(self, **changed: Any) -> Catalog:
        """The next generation."""
        return replace(self, generation=self.generation + 1, **changed)

    def dump(self) -> bytes:
        """The catalog as a file."""
        body = {"format": FORMAT, **asdict(self)}
        own = hashlib.sha256(json.dumps(body, indent=1).encode()).hexdigest()
        return (json.dumps({**body, "sha256": own}, indent=1) + "\n").encode()

    def write(self, folder: Path) -> None:
        """Puts it in the place of the one that is there.

        Raises:
            OSError: it cannot be written; the old one is there still.
        """
        replace_file(folder / CATALOG, self.dump())


def read_catalog(folder: Path) -> Catalog:
    """The catalog of an index.

    Raises:
        DataError: there is none, it is damaged, or of a newer version.
    """
    try:
        data = read_regular(folder / CATALOG, _MOST)
    except (FileNotFoundError, NotADirectoryError):
        what = f"holds no {CATALOG}" if folder.is_dir() else "is not there"
        raise DataError(f"no index at '{folder}': the folder {what}; make one with unified-search index") from None
    except (OSError, ValueError) as error:
        raise damaged(folder, f"{CATALOG} cannot be read ({error})") from None
    try:
        said = json.loads(data)
        version = int(said["format"])
        catalog = _parsed(said) if version == FORMAT else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UnifiedError) as error:
        raise damaged(folder, f"{CATALOG} cannot be read ({type(error).__name__}: {str(error)[:80]})") from None
    if version > FORMAT:
        raise DataError(f"index '{folder}' has format {version}, this version reads {FORMAT}; update unified")
    if catalog is None or catalog.dump() != data:
        raise damaged(folder, f"{CATALOG} does not match its own SHA-256")
    strange = next((name for name in catalog.files if not _NAME.fullmatch(name)), None)
    if strange is not None:
        raise damaged(folder, f"{CATALOG} lists {strange[:80]!r}")
    return catalog


def damaged(folder: Path, what: str) -> DataError:
    """The error of an index that is not as it was written."""
    return DataError(f"index '{folder}' is damaged: {what}; index the pictures anew, or bring a copy back")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process and thread changes an index at a time; others wait. A killed process lets go.

    Raises:
        OSError: the folder cannot be written.
    """
    with (folder / LOCK).open("ab") as file:
        try:
            import fcntl
        except ImportError:  # no such locks on this system: one writer at a time is up to the caller
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _parsed(said: dict[str, Any]) -> Catalog:
    layout = dict(said["layout"])
    ranges = layout.get("ranges")
    layout["ranges"] = None if ranges is None else (tuple(ranges[0]), tuple(ranges[1]))
    deleted = said["deleted"]
    return Catalog(
        Layout(**layout),
        tuple(_sealed(each) for each in said["segments"]),
        None if deleted is None else _sealed(deleted),
        int(said["number"]),
        int(said["generation"]),
    )


def _sealed(said: dict[str, Any]) -> Sealed:
    if not _SUM.fullmatch(said["sha256"]) or min(int(said["rows"]), int(said["bytes"])) < 0:
        raise ValueError("a file's entry is not right")
    return Sealed(str(said["name"]), int(said["rows"]), int(said["bytes"]), said["sha256"])
