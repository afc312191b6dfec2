# SPDX-License-Identifier: Apache-2.0
"""Exact nearest neighbours: every row is looked at, by one matrix product a chunk.

Sorting all scores would cost more than making them. So rows stand in blocks of 64, and of each block only the greatest
score is kept. A row among the k best lies in a block whose greatest score is among the k best of all blocks, or ties
with one that does; only those blocks are looked at again, in float64, and their rows put in order. Nothing is left out,
so recall is 1 by construction.

Legend: n queries, R rows of a piece, W numbers of a vector as it is kept, D width, G blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from unified.index.protocol import Layout
from unified.inference.encoder import dequantize

BLOCK: Final = 64
_CHUNK: Final = 4096  # rows a thread multiplies at once with many queries: scores stay in the processor's cache
_FEW: Final = 64  # queries; with fewer, chunks are larger
_LONGEST: Final = 1 << 16  # rows of a chunk
_LEAST_COLUMNS: Final = 4  # a product with two or three columns takes longer than one with four
_SPARE: Final = 4  # blocks looked at beyond the k best, since float32 may have ordered two close ones wrongly
_QUERIES: Final = 256  # at a time
_WAITING: Final = 1 << 14  # blocks whose greatest scores wait to be sorted

_LEAST: Final = float("-inf")


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows that are searched: those of a segment, or some of them."""

    vectors: Tensor  # (R, W)
    scale: Tensor | None  # (R,) float32: multiplies a row's scores; None: all 1
    first: int  # position of the segment's first row in the index
    rows: Tensor | None = None  # int64, ascending: only these rows of the segment

    def __len__(self) -> int:
        return len(self.vectors) if self.rows is None else len(self.rows)

    def part(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """Vectors and scales of the rows numbered ``start`` to ``stop`` - 1 of this piece."""
        if self.rows is None:
            return self.vectors[start:stop], None if self.scale is None else self.scale[start:stop]
        rows = self.rows[start:stop]
        return self.vectors[rows], None if self.scale is None else self.scale[rows]

    def numbers(self, places: Tensor) -> Tensor:
        """Rows of the segment that places in this piece stand for."""
        return places if self.rows is None else self.rows[places]


def nearest(pieces: Sequence[Piece], queries: Tensor, k: int, layout: Layout) -> tuple[Tensor, Tensor]:
    """The k nearest rows of every query, best first, equal scores in the order of the rows.

    Args:
        pieces: what is searched.
        queries: (n, W) in the index's form.
        k: neighbours.
        layout: of the index.

    Returns:
        Scores (n, k) float32 and positions (n, k) int64; -inf and -1 where there are fewer than k rows.
    """
    scores = torch.full((len(queries), k), _LEAST)
    positions = torch.full((len(queries), k), -1, dtype=torch.int64)
    pieces = [piece for piece in pieces if len(piece)]
    for start in range(0, len(queries) if pieces else 0, _QUERIES):
        some = unit64(queries[start : start + _QUERIES], layout)
        more = max(0, _LEAST_COLUMNS - len(some)) if len(some) > 1 else 0
        padded = F.pad(some.float(), (0, 0, 0, more))
        best = _best_blocks(pieces, padded, k + _SPARE, layout)[: len(some)]
        for q, blocks in enumerate(best):
            values, rows = _ordered(pieces, blocks, some[q], k, layout)
            scores[start + q, : len(values)] = values
            positions[start + q, : len(rows)] = rows
    return scores, positions


def unit64(vectors: Tensor, layout: Layout) -> Tensor:
    """Vectors (n, W) as float64 (n, D); of length 1 where the metric is cosine, zeros as they are."""
    found = dequantize(vectors, layout.tensor_ranges).double()
    return F.normalize(found, dim=1) if layout.metric == "cosine" else found


def chunk_rows(queries: int) -> int:
    """Rows that one matrix product takes; whole blocks."""
    rows = min(max(_CHUNK, _CHUNK * _FEW // max(1, queries)), _LONGEST)
    return rows // BLOCK * BLOCK * max(1, torch.get_num_threads())


def _best_blocks(pieces: Sequence[Piece], queries: Tensor, count: int, layout: Layout) -> Tensor:
    """(n, count or fewer): numbers of the blocks with the greatest scores. queries: (n, D) float32."""
    held: list[Tensor] = []
    best, where, done, waiting = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64), 0, 0
    for greatest in _greatest(pieces, queries.T, layout):
        held.append(greatest)
        waiting += len(greatest)
        if waiting >= _WAITING:
            best, where = _merged(best, where, torch.cat(held), done, count)
            done, waiting, held = done + waiting, 0, []
    return _merged(best, where, torch.cat(held), done, count)[1] if held else where


def _merged(best: Tensor, where: Tensor, fresh: Tensor, first: int, count: int) -> tuple[Tensor, Tensor]:
    """The best of those known, (n, B), and of fresh ones, (G, n), whose numbers begin at ``first``."""
    numbers = torch.arange(first, first + len(fresh)).expand(len(best), -1)
    values, places = torch.cat([best, fresh.T], dim=1), torch.cat([where, numbers], dim=1)
    top = values.topk(min(count, values.shape[1]), dim=1)
    return top.values, places.gather(1, top.indices)


def _greatest(pieces: Sequence[Piece], queries: Tensor, layout: Layout) -> Iterator[Tensor]:
    """(G, n) of every chunk: the greatest score of each block. queries: (D, n)."""
    step = chunk_rows(queries.shape[1])
    buffer = torch.empty(step, queries.shape[1])
    for piece in pieces:
        for start in range(0, len(piece), step):
            vectors, scale = piece.part(start, min(start + step, len(piece)))
            scores = _product(dequantize(vectors, layout.tensor_ranges), queries, buffer[: len(vectors)])
            if scale is not None:
                scores *= scale[:, None]
            if short := -len(scores) % BLOCK:
                scores = F.pad(scores, (0, 0, 0, short), value=_LEAST)
            yield scores.view(-1, BLOCK, queries.shape[1]).amax(dim=1)


def _product(vectors: Tensor, queries: Tensor, out: Tensor) -> Tensor:
    """(R, n), in ``out``; one query is a matrix times a vector, which takes a third of a product of matrices."""
    if queries.shape[1] > 1:
        return torch.mm(vectors, queries, out=out)
    torch.mv(vectors, queries[:, 0], out=out[:, 0])
    return out


def _ordered(pieces: Sequence[Piece], blocks: Tensor, query: Tensor, k: int, layout: Layout) -> tuple[Tensor, Tensor]:
    """Scores and positions of the k best rows in some blocks, (k,) or fewer. query: (D,) float64."""
    scores, positions = [], []
    blocks, first = blocks.sort().values, 0
    for piece in pieces:
        after = first + -(-len(piece) // BLOCK)
        own = blocks[(blocks >= first) & (blocks < after)] - first
        first = after
        if not len(own):
            continue
        places = (own[:, None] * BLOCK + torch.arange(BLOCK)).flatten()
        rows = piece.numbers(places[places < len(piece)])
        scores.append((unit64(piece.vectors[rows], layout) * query).sum(dim=1))
        positions.append(rows + piece.first)
    values, order = torch.cat(scores).float().sort(descending=True, stable=True)
    return values[:k], torch.cat(positions)[order[:k]]
