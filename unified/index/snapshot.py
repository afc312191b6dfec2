# SPDX-License-Identifier: Apache-2.0
"""An index as it stood at one moment: its catalog, its files, mapped, and which rows are gone.

Legend: R rows of all segments, deleted ones included.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor

from unified.contracts.errors import DataError
from unified.disk import read_regular
from unified.index.catalog import CATALOG, Catalog, damaged, read_catalog
from unified.index.columns import keys_of
from unified.index.row import Filter, Row
from unified.index.scan import Piece
from unified.index.segment import Segment, open_segment

_TRIES: Final = 20  # to read an index that others change in the meantime


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An index as it stood at one moment; searches of it are not disturbed by later changes."""

    catalog: Catalog
    segments: tuple[Segment, ...]
    firsts: tuple[int, ...]  # position of each segment's first row
    gone: Tensor  # (R,) bool: deleted rows

    @property
    def rows(self) -> int:
        """Rows that are there."""
        return len(self.gone) - int(self.gone.sum())

    def row(self, position: int) -> Row:
        """The row at a position."""
        which = int(np.searchsorted(self.firsts, position, side="right")) - 1
        return self.segments[which].columns.row(position - self.firsts[which])

    def pieces(self, where: Filter | None) -> list[Piece]:
        """What a search looks at."""
        return [self._piece(segment, first, where) for segment, first in zip(self.segments, self.firsts, strict=True)]

    def _piece(self, segment: Segment, first: int, where: Filter | None) -> Piece:
        kept = ~self.gone[first : first + len(segment)]
        if where is not None and where.asks:
            kept = kept & torch.from_numpy(segment.columns.allowed(where))
        rows = None if bool(kept.all()) else kept.nonzero()[:, 0]
        return Piece(segment.vectors, None if segment.unit else segment.scale, first, rows)

    def positions_of(self, ids: Sequence[str]) -> dict[str, int]:
        """Where ids stand that are there."""
        keys, found = keys_of(ids), dict[str, int]()
        for segment, first in zip(self.segments, self.firsts, strict=True):
            for name, row in segment.rows_of(ids, keys).items():
                if not self.gone[first + row]:
                    found[name] = first + row
        return found

    def rows_of(self, piece: Piece) -> list[Row]:
        """What stands beside the vectors of a piece."""
        numbers = range(len(piece.vectors)) if piece.rows is None else piece.rows.tolist()
        return [self.row(piece.first + k) for k in numbers]


def read_snapshot(folder: Path, verify: bool, known: Snapshot | None = None) -> Snapshot:
    """The index on the disk; what is ``known`` already is not opened again.

    Raises:
        DataError: there is none, it is damaged, or it changes faster than it can be read.
    """
    for _ in range(_TRIES):
        catalog = read_catalog(folder)
        try:
            return _opened(folder, catalog, verify, known)
        except FileNotFoundError as error:
            if read_catalog(folder).generation == catalog.generation:
                raise damaged(folder, f"{Path(error.filename or str(error)).name} is missing") from None
        except OSError as error:
            raise damaged(folder, f"{Path(error.filename or CATALOG).name} cannot be read ({error})") from None
    raise DataError(f"index '{folder}' changes faster than it can be read; try again")


def _opened(folder: Path, catalog: Catalog, verify: bool, known: Snapshot | None) -> Snapshot:
    there = {} if known is None else {each.sealed: each for each in known.segments}
    segments: list[Segment] = []
    for sealed in catalog.segments:
        try:
            segments.append(there.get(sealed) or open_segment(folder, sealed, catalog.layout, verify))
        except ValueError as error:
            raise damaged(folder, f"{sealed.name} {error}") from None
    firsts = tuple(int(value) for value in np.cumsum([0, *(len(each) for each in segments)])[:-1])
    return Snapshot(catalog, tuple(segments), firsts, _gone(folder, catalog))


def _gone(folder: Path, catalog: Catalog) -> Tensor:
    """(R,) bool: deleted rows."""
    gone = torch.zeros(catalog.rows, dtype=torch.bool)
    if catalog.deleted is None:
        return gone
    data = read_regular(folder / catalog.deleted.name, catalog.deleted.bytes)
    if hashlib.sha256(data).hexdigest() != catalog.deleted.sha256:
        raise damaged(folder, f"{catalog.deleted.name} does not match its SHA-256")
    places = load(data)["deleted"]
    if len(places) and not 0 <= int(places.min()) <= int(places.max()) < len(gone):
        raise damaged(folder, f"{catalog.deleted.name} names rows that are not there")
    gone[places] = True
    return gone
