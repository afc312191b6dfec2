# SPDX-License-Identifier: Apache-2.0
"""The manifest of a checkpoint: every file's size and SHA-256, and its own.

A manifest is read only if writing what was read gives the same bytes again, so no byte of it can change unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from unified.contracts.errors import CheckpointError
from unified.disk import read_regular

MANIFEST: Final = "manifest.json"
STATE: Final = "state.json"
FORMAT: Final = 2
MOST: Final = 1 << 20  # bytes of a manifest; ours have about one thousand
_FILE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\.safetensors|state\.json")
_SUM: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """One file of a checkpoint."""

    sha256: str
    size: int | None  # bytes; format 1 did not tell

    def fits(self, data: bytes) -> bool:
        """Whether this is what was written."""
        return self.size in (None, len(data)) and hashlib.sha256(data).hexdigest() == self.sha256


@dataclass(frozen=True)
class Manifest:
    """What belongs to a checkpoint."""

    files: Mapping[str, Entry]
    name: str | None = None  # of the folder it was written as; format 1 did not tell

    @property
    def parts(self) -> list[str]:
        """Names of the files with tensors."""
        return [name for name in self.files if name != STATE]

    def dump(self) -> bytes:
        """The manifest as a file."""
        files = {name: {"bytes": each.size, "sha256": each.sha256} for name, each in self.files.items()}
        body: dict[str, Any] = {"format": FORMAT, "name": self.name, "files": files}
        own = hashlib.sha256(json.dumps(body, indent=1).encode()).hexdigest()
        return (json.dumps({**body, "sha256": own}, indent=1) + "\n").encode()


def digest_of(folder: Path) -> str:
    """SHA-256 of a checkpoint's manifest and, through it, of everything in it.

    Raises:
        OSError: there is none.
    """
    return hashlib.sha256(read_regular(folder / MANIFEST, MOST)).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint.

    Raises:
        CheckpointError: there is none, it is damaged or of a newer format, or it names what is no part of a checkpoint.
    """
    try:
        data = read_regular(folder / MANIFEST, MOST)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"no checkpoint at '{folder}': it holds no {MANIFEST}") from error
    except (OSError, ValueError) as error:
        raise damaged(folder, f"{MANIFEST} cannot be read ({error})") from error
    try:
        content = json.loads(data)
        version = int(content["format"])
        manifest = _first(content) if version == 1 else _current(content) if version == FORMAT else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(folder, f"{MANIFEST} cannot be read ({type(error).__name__}: {str(error)[:80]})") from error
    if version > FORMAT:
        raise CheckpointError(
            f"checkpoint '{folder}' has format {version}, this version reads {FORMAT}; update unified"
        )
    if manifest is None:
        raise damaged(folder, f"{MANIFEST} has format {version}")
    strange = next((name for name in manifest.files if not _FILE.fullmatch(name)), None)
    if strange is not None:
        raise damaged(folder, f"{MANIFEST} lists {strange[:80]!r}")
    if version == FORMAT and manifest.dump() != data:
        raise damaged(folder, f"{MANIFEST} does not match its own SHA-256")
    return manifest


def damaged(folder: Path, what: str) -> CheckpointError:
    """The error of a checkpoint that is not as it was written."""
    return CheckpointError(f"checkpoint '{folder}' is damaged: {what}")


def _first(content: Mapping[str, Any]) -> Manifest:
    return Manifest({str(name): Entry(_sum(sum_), None) for name, sum_ in dict(content["sha256"]).items()})


def _current(content: Mapping[str, Any]) -> Manifest:
    files = {
        str(name): Entry(_sum(each["sha256"]), _size(each["bytes"])) for name, each in dict(content["files"]).items()
    }
    return Manifest(files, str(content["name"]))


def _sum(value: Any) -> str:
    if not isinstance(value, str) or not _SUM.fullmatch(value):
        raise ValueError("a sum is no SHA-256")
    return value


def _size(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("a size is no number of bytes")
    return value
