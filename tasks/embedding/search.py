# SPDX-License-Identifier: Apache-2.0
"""Exact nearest neighbours among labelled vectors, and how good they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CELLS = 16_000_000  # similarities held at once: 64 MB


@dataclass(frozen=True)
class Ranking:
    """Scores of every query that has something to find. Q queries of a gallery of N vectors."""

    queries: Tensor  # (Q,) int64, rows of the gallery
    neighbours: Tensor  # (Q, k) int64, rows of the gallery, nearest first; -1 where the gallery is exhausted
    first_match: Tensor  # (Q,) int64 rank of the nearest vector of the same identity, from 0; k where it is farther
    precision_at_r: Tensor  # (Q,) float64 average precision over the first R ranks

    def recall(self, k: int) -> float:
        """Share of queries with a match among their k nearest (k up to the width of ``neighbours``)."""
        return float((self.first_match < k).double().mean())

    @property
    def map_at_r(self) -> float:
        """mAP@R (Musgrave et al. 2020, A Metric Learning Reality Check, section 3.2)."""
        return float(self.precision_at_r.mean())


def rank(vectors: Tensor, identities: Tensor, groups: Tensor, k: int) -> Ranking | None:
    """Let every vector search all vectors of other groups by cosine; those without a match anywhere are left out.

    Args:
        vectors: (N, D) unit length.
        identities: (N,) int64.
        groups: (N,) int64; a vector does not see its own group (its image, or only itself).
        k: neighbours to keep.

    Returns None where no vector has anything to find.
    """
    matches = _count_matches(identities, groups)
    queries = matches.nonzero()[:, 0]
    if len(queries) == 0:
        return None
    size = max(1, _CELLS // len(vectors))
    chunks = torch.split(queries, size)
    parts = [_rank_chunk(chunk, vectors, identities, groups, matches, k) for chunk in chunks]
    neighbours, first, precision = (torch.cat(column) for column in zip(*parts, strict=True))
    return Ranking(queries, neighbours, first, precision)


def _count_matches(identities: Tensor, groups: Tensor) -> Tensor:
    """(N,) how many vectors of other groups share each one's identity."""
    pairs = torch.stack([identities, groups], dim=1)
    _, alike, of_identity = torch.unique(identities, return_inverse=True, return_counts=True)
    _, beside, of_pair = torch.unique(pairs, dim=0, return_inverse=True, return_counts=True)
    matches: Tensor = of_identity[alike] - of_pair[beside]
    return matches


def _rank_chunk(
    rows: Tensor, vectors: Tensor, identities: Tensor, groups: Tensor, matches: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbours (q, k), first match (q,) and average precision at R (q,) of some queries."""
    similarity = vectors[rows] @ vectors.T
    hidden = groups[rows, None] == groups[None]
    similarity[hidden] = -torch.inf
    depth = min(max(k, int(matches[rows].max())), len(vectors))
    near = similarity.topk(depth, dim=1)
    seen = near.values > -torch.inf
    same = (identities[near.indices] == identities[rows, None]) & seen
    ranks = torch.arange(depth)
    relevant = same & (ranks < matches[rows, None])
    precision = relevant.cumsum(dim=1).double() / (ranks + 1)
    average = (precision * relevant).sum(dim=1) / matches[rows]
    first = torch.where(same, ranks, k).amin(dim=1).clamp(max=k)
    neighbours = torch.full((len(rows), k), -1)
    neighbours[:, : min(depth, k)] = near.indices.where(seen, -1)[:, :k]
    return neighbours, first, average
