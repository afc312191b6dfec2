# SPDX-License-Identifier: Apache-2.0
"""The exact index: a folder of segments that are mapped, searched row by row, and changed all or nothing.

Legend: n queries or new vectors, D width, R rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from unified.contracts.errors import DataError
from unified.disk import NEW, make_folder, reason, write_new
from unified.index.catalog import GONE, Catalog, locked, read_catalog
from unified.index.protocol import Found, Hit, Layout, Vectors, check_k, check_rows, neighbours_of
from unified.index.row import Filter, Row
from unified.index.scan import Piece, nearest
from unified.index.segment import MOST, PREFIX, Sealed, write_segment
from unified.index.snapshot import Snapshot, read_snapshot

_MERGED: Final = 1 << 15  # rows: segments at the end that are smaller become one, so that there are never many


class ExactIndex:
    """Vectors with their rows in a folder; every search looks at all of them.

    Threads and processes may share the folder: changes wait for one another, and a search sees the index as it stood
    when this object last opened, changed or refreshed it.

    Args:
        folder: of an index.
        verify: whether every file is compared with its SHA-256; without, only sizes and shapes are.

    Raises:
        DataError: there is no index, or it is damaged.
    """

    def __init__(self, folder: str | Path, verify: bool = True) -> None:
        self.folder = Path(folder)
        self._turn = threading.RLock()
        self._now = read_snapshot(self.folder, verify)

    @classmethod
    def create(cls, folder: str | Path, layout: Layout) -> ExactIndex:
        """A new, empty index.

        Raises:
            DataError: the folder holds something, or cannot be written.
        """
        path = Path(folder)
        if (path.exists() or path.is_symlink()) and (not path.is_dir() or any(path.iterdir())):
            raise DataError(f"'{path}' is not empty; choose another folder, or open the index that is there")
        try:
            make_folder(path)
            Catalog(layout).write(path)
        except OSError as error:
            raise DataError(f"{reason(path, error)}; choose another folder") from error
        return cls(path)

    @property
    def layout(self) -> Layout:
        """What all vectors have in common."""
        return self._now.catalog.layout

    @property
    def files(self) -> dict[str, int]:
        """Bytes of every file of vectors by name."""
        return {each.name: each.bytes for each in self._now.catalog.segments}

    def __len__(self) -> int:
        return self._now.rows

    def __contains__(self, id: str) -> bool:
        return bool(self._now.positions_of([id]))

    def refresh(self) -> None:
        """Sees what other processes have changed."""
        with self._turn:
            self._now = read_snapshot(self.folder, verify=True)

    def row(self, position: int) -> Row:
        """The row at a position that a search gave."""
        return self._now.row(position)

    def get(self, ids: Sequence[str]) -> list[Row | None]:
        """The rows of ids; None where there is none."""
        now = self._now
        found = now.positions_of(ids)
        return [now.row(found[each]) if each in found else None for each in ids]

    def rows(self) -> Iterator[Row]:
        """All rows in the order of their positions."""
        now = self._now
        for segment, first in zip(now.segments, now.firsts, strict=True):
            for k in range(len(segment)):
                if not now.gone[first + k]:
                    yield segment.columns.row(k)

    def vectors(self) -> tuple[Tensor, Tensor]:
        """All vectors (R, W) as they are kept, and their positions (R,)."""
        now = self._now
        kept = (~now.gone).nonzero()[:, 0]
        parts = [segment.vectors for segment in now.segments]
        whole = torch.cat(parts) if parts else torch.zeros(0, self.layout.width, dtype=self.layout.dtype)
        return whole[kept], kept

    def add(
        self, vectors: Vectors, rows: Sequence[Row | str] | None = None, space: str | None = None, replace: bool = False
    ) -> int:
        """Adds vectors. When this returns they are on the disk and outlive a power cut; before, none of them is there.

        Args:
            vectors: (n, D) floats, or (n, W) in the index's precision.
            rows: what each is of, or only its id; by default numbers as ids.
            space: fingerprint of the model that made them; needed where the index has one.
            replace: rows of the same id give way; else they are refused.

        Returns:
            How many rows there are now.

        Raises:
            DataError: another space or width, values that are no numbers, an id that is there already, a full disk.
        """
        self.layout.check_space(space, "vectors")
        kept = self.layout.check(vectors, "vectors")
        made = None if rows is None else check_rows(rows, len(kept))
        with self._changing() as now:
            number = now.catalog.number
            fresh = made if made is not None else [Row(str(number + k)) for k in range(len(kept))]
            there = now.positions_of([row.id for row in fresh])
            if there and not replace:
                raise DataError(f"id '{next(iter(there))[:80]}' is in the index already; give replace=True")
            if fresh:
                self._write(now, kept, fresh, list(there.values()), number + (len(kept) if made is None else 0))
        return len(self)

    def delete(self, ids: Sequence[str]) -> int:
        """Removes rows; ids that are not there are passed over. Returns how many there were.

        Raises:
            DataError: the folder cannot be written.
        """
        with self._changing() as now:
            positions = list(now.positions_of(list(ids)).values())
            if positions:
                gone = now.gone.clone()
                gone[positions] = True
                self._commit(now.catalog.after(deleted=self._write_gone(gone)))
        return len(positions)

    def compact(self) -> int:
        """Writes everything anew without deleted rows; returns the bytes that this saved. Positions change.

        Raises:
            DataError: the folder cannot be written.
        """
        before = sum(self.files.values())
        with self._changing() as now:
            sealed = [each for some in _batches(now.pieces(None)) for each in self._merge(now, some)]
            self._commit(now.catalog.after(segments=tuple(sealed), deleted=None))
        return before - sum(self.files.values())

    def search(self, vectors: Vectors, k: int = 10, where: Filter | None = None, space: str | None = None) -> Found:
        """The k nearest rows of every query; none is ever missed.

        Args:
            vectors: (n, D) or (D,) floats, or in the index's precision.
            k: neighbours.
            where: only rows that fit.
            space: fingerprint of the queries' model, to be compared with the index's; None: not compared.

        Raises:
            DataError: queries of another space or width, or values that are no numbers.
            ConfigError: k below 1.
        """
        check_k(k)
        if space is not None:
            self.layout.check_space(space, "queries")
        now, queries = self._now, self.layout.check(vectors, "queries")
        scores, positions = nearest(now.pieces(where), queries, k, self.layout)
        hits = [
            [Hit(score, now.row(at), at) for score, at in zip(some, places, strict=True) if at >= 0]
            for some, places in zip(scores.tolist(), positions.tolist(), strict=True)
        ]
        return Found(hits, scores, positions)

    def kneighbors(
        self, vectors: Vectors, n_neighbors: int = 5, return_distance: bool = True
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | NDArray[np.int64]:
        """Distances (n, k) and positions (n, k), nearest first, as ``sklearn.neighbors.NearestNeighbors`` has them.

        Distances are 1 - cosine, or the negative inner product. :meth:`row` tells what stands at a position.

        Raises:
            DataError: more neighbours than rows; see also :meth:`search`.
        """
        return neighbours_of(self, vectors, n_neighbors, return_distance)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Snapshot]:
        """The index as it is on the disk, while nobody else changes it."""
        try:
            with self._turn, locked(self.folder):
                if read_catalog(self.folder).generation != self._now.catalog.generation:
                    self._now = read_snapshot(self.folder, verify=True)
                yield self._now
        except OSError as error:
            raise DataError(f"{reason(self.folder, error)}; the index is as it was") from error

    def _write(self, now: Snapshot, vectors: Tensor, rows: Sequence[Row], replaced: list[int], number: int) -> None:
        """Adds rows to the end, together with small segments that stand there, and says so in the catalog."""
        gone = now.gone.clone()
        gone[replaced] = True
        kept = _untouched([len(each) for each in now.segments], len(rows))
        old = dataclasses.replace(now, segments=now.segments[kept:], firsts=now.firsts[kept:], gone=gone)
        first = now.firsts[kept] if kept < len(now.firsts) else len(now.gone)
        parts = [(piece.part(0, len(piece))[0], now.rows_of(piece)) for piece in old.pieces(None)]
        parts.append((vectors, list(rows)))
        together = torch.cat([part for part, _ in parts]), [row for _, some in parts for row in some]
        sealed = [*now.catalog.segments[:kept], *self._seal(*together, now.catalog.layout)]
        dead = gone[:first]
        tombs = None
        if bool(dead.any()):
            same = torch.equal(now.gone[:first], dead) and not bool(now.gone[first:].any())
            whole = torch.cat([dead, torch.zeros(sum(each.rows for each in sealed) - first, dtype=torch.bool)])
            tombs = now.catalog.deleted if same else self._write_gone(whole)
        self._commit(now.catalog.after(segments=tuple(sealed), deleted=tombs, number=number))

    def _seal(self, vectors: Tensor, rows: Sequence[Row], layout: Layout) -> list[Sealed]:
        """Segments of at most :data:`MOST` rows."""
        return [
            write_segment(self.folder, vectors[start : start + MOST], rows[start : start + MOST], layout)
            for start in range(0, len(rows), MOST)
        ]

    def _merge(self, now: Snapshot, pieces: Sequence[Piece]) -> list[Sealed]:
        rows = [row for piece in pieces for row in now.rows_of(piece)]
        return self._seal(torch.cat([piece.part(0, len(piece))[0] for piece in pieces]), rows, now.catalog.layout)

    def _write_gone(self, gone: Tensor) -> Sealed:
        """The positions of deleted rows, in a file that no catalog names yet."""
        places = gone.nonzero()[:, 0]
        name = f"{GONE}{secrets.token_hex(8)}.safetensors"
        digest, size = write_new(self.folder / name, [save({"deleted": places})])
        return Sealed(name, len(places), size, digest)

    def _commit(self, catalog: Catalog) -> None:
        """Makes a catalog the index's, then removes files that belong to none."""
        catalog.write(self.folder)
        self._now = read_snapshot(self.folder, verify=False, known=self._now)
        for path in self.folder.iterdir():
            ours = path.name.startswith((PREFIX, GONE, NEW))
            if ours and path.name not in self._now.catalog.files and path.is_file():
                with contextlib.suppress(OSError):
                    path.unlink()


def _batches(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Pieces in groups of about :data:`MOST` rows."""
    group: list[Piece] = []
    for piece in (each for each in pieces if len(each)):
        if group and sum(map(len, group)) + len(piece) > MOST:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _untouched(sizes: Sequence[int], fresh: int) -> int:
    """How many segments stay as they are when ``fresh`` rows are added; the small ones after them become one."""
    kept, tail = len(sizes), fresh
    while kept and sizes[kept - 1] <= min(_MERGED, 2 * tail):
        kept -= 1
        tail += sizes[kept]
    return kept
