# SPDX-License-Identifier: Apache-2.0
"""One file of an index: some rows with their vectors, written once, mapped ever after.

Legend: R rows of the segment, W numbers of a vector as it is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from unified.disk import NEW, sync, write_new
from unified.index.columns import Columns
from unified.index.protocol import Layout
from unified.index.row import Row
from unified.inference.encoder import dequantize

PREFIX: Final = "segment-"
MOST: Final = 1 << 18  # rows a segment: an addition of more is written in several, so that memory stays bounded
_UNIT: Final = 1e-6  # how far a length may be from 1 to count as 1 in the search; the last word has the exact length


@dataclass(frozen=True)
class Sealed:
    """A segment as the catalog knows it."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, eq=False)
class Segment:
    """Rows and vectors, mapped from a file."""

    sealed: Sealed
    vectors: Tensor  # (R, W)
    scale: Tensor  # (R,) float32: 1 / length for cosine, else 1
    columns: Columns

    def __len__(self) -> int:
        return self.sealed.rows

    @cached_property
    def unit(self) -> bool:
        """Whether every vector has length 1 already, so that the search need not scale."""
        return bool(((self.scale - 1).abs() <= _UNIT).all())

    @cached_property
    def by_key(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sorted keys, and the row of each."""
        order = np.argsort(self.columns.keys.numpy(), kind="stable")
        return self.columns.keys.numpy()[order], order

    def rows_of(self, ids: Sequence[str], keys: NDArray[np.int64]) -> dict[str, int]:
        """The row of each id that is here. keys: of the ids."""
        known, order = self.by_key
        low, high = np.searchsorted(known, keys, "left"), np.searchsorted(known, keys, "right")
        found: dict[str, int] = {}
        for k in np.flatnonzero(high > low).tolist():
            for row in order[low[k] : high[k]].tolist():
                if self.columns.ids[row] == ids[k]:
                    found[ids[k]] = row
        return found


def write_segment(folder: Path, vectors: Tensor, rows: Sequence[Row], layout: Layout) -> Sealed:
    """Writes a segment that no catalog names yet: beside, to the disk, then under its name.

    Raises:
        OSError: it cannot be written; nothing is left.
    """
    scale = lengths(vectors, layout).reciprocal() if layout.metric == "cosine" else torch.ones(len(vectors))
    scale = torch.where(torch.isfinite(scale), scale, torch.zeros(()))  # a vector of zeros is near to nothing
    tensors = {"vectors": vectors.contiguous(), "scale": scale.float(), **Columns.of(rows).tensors()}
    data = save(tensors, metadata={"unified": json.dumps({"format": 1, "space": layout.space})})
    name = f"{PREFIX}{secrets.token_hex(8)}.safetensors"
    fresh = folder / f"{NEW}{name}"
    try:
        digest, size = write_new(fresh, [data])
        os.rename(fresh, folder / name)  # noqa: PTH104
        sync(folder)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    return Sealed(name, len(vectors), size, digest)


def lengths(vectors: Tensor, layout: Layout) -> Tensor:
    """(R,) float64: the length of every vector as it is kept."""
    pieces = [dequantize(piece, layout.tensor_ranges).double().norm(dim=1) for piece in torch.split(vectors, 1 << 16)]
    return torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.float64)


def open_segment(folder: Path, sealed: Sealed, layout: Layout, verify: bool) -> Segment:
    """A segment, mapped.

    Raises:
        FileNotFoundError: it is gone, such as when another process has just replaced it.
        ValueError: it is not what was written.
    """
    path = folder / sealed.name
    if path.is_symlink() or not path.is_file():
        raise FileNotFoundError(path)
    if path.stat().st_size != sealed.bytes:
        raise ValueError(f"has {path.stat().st_size} bytes, expected {sealed.bytes}")
    if verify and sha256_of(path) != sealed.sha256:
        raise ValueError("does not match its SHA-256")
    try:
        with safe_open(path, framework="pt") as file:
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"cannot be read ({error})") from None
    vectors, scale = tensors.pop("vectors", None), tensors.pop("scale", None)
    if vectors is None or vectors.shape != (sealed.rows, layout.width) or vectors.dtype != layout.dtype:
        raise ValueError("holds other vectors than its index")
    columns = Columns.from_tensors(tensors)
    if scale is None or scale.shape != (sealed.rows,) or len(columns) != sealed.rows:
        raise ValueError("holds other rows than its index")
    return Segment(sealed, vectors, scale, columns)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
