# SPDX-License-Identifier: Apache-2.0
"""What a person sees of a retrieval: neighbours, a map, how far same and other lie apart, and who is hard to find.

Legend: N vectors of width D, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unified.contracts.section import (
    Chart,
    Column,
    Gallery,
    Histogram,
    Line,
    Part,
    Point,
    Scatter,
    Section,
    Series,
    Table,
    View,
)

from .plane import spread
from .search import Ranking

QUERIES, HARD = 5, 3  # rows of neighbours: spread over all, and those whose nearest is wrong
NEIGHBOURS = 7  # of a row
GROUPS, DOTS = 10, 360  # coloured identities and dots of the map
COMPARED = 1200  # vectors of which all pairs are compared
ROWS = 200  # identities in the table
BINS = 40


@dataclass(frozen=True)
class Kept:
    """Labelled vectors, their ranking, and where they come from."""

    vectors: Tensor  # (N, D) unit length
    identities: Tensor  # (N,)
    groups: Tensor  # (N,) a vector is not compared with its own group
    places: Sequence[tuple[str, str, tuple[float, ...]]]  # N: dataset, image id, box xyxy in original pixels
    ranking: Ranking
    names: Sequence[str]
    whole: bool  # of whole images, not of boxes

    def name(self, identity: int) -> str:
        return self.names[identity] if identity < len(self.names) else f"identity {identity}"


def section(kept: Kept) -> Section:
    """Everything there is to say of boxes, or of whole images."""
    what = "images" if kept.whole else "boxes"
    parts: list[Part] = [_strips(kept, "Queries and their nearest", _evenly(kept))]
    if hard := _hard(kept):
        parts.append(_strips(kept, "Queries whose nearest is another", hard))
    parts += [_map(kept), _apart(kept), _recall(kept), _identities(kept)]
    return Section(
        title=f"Retrieval of {what}",
        text=f"{len(kept.ranking.queries):,} {what} each look for the same thing among {len(kept.places):,}"
        + ("" if kept.whole else ", those of their own image left out")
        + ".",
        parts=tuple(parts),
    )


def _evenly(kept: Kept) -> list[int]:
    count = len(kept.ranking.queries)
    return torch.linspace(0, count - 1, min(QUERIES, count)).round().long().tolist()


def _hard(kept: Kept) -> list[int]:
    """Rows of queries that found another first: of different identities, evenly spread."""
    rows = torch.nonzero(kept.ranking.first_match > 0)[:, 0]
    of = kept.identities[kept.ranking.queries[rows]].tolist()
    firsts = list(dict(zip(of, rows.tolist(), strict=True)).values())
    step = max(1, len(firsts) // HARD)
    return firsts[::step][:HARD]


def _strips(kept: Kept, title: str, rows: Sequence[int]) -> Gallery:
    strips = []
    for row in rows:
        query = int(kept.ranking.queries[row])
        found = [k for k in kept.ranking.neighbours[row, :NEIGHBOURS].tolist() if k >= 0]
        strips.append((_view(kept, query, None), *(_view(kept, k, query) for k in found)))
    return Gallery(title=title, rows=tuple(strips), strip=True)


def _view(kept: Kept, row: int, query: int | None) -> View:
    dataset, image_id, (x0, y0, x1, y1) = kept.places[row]
    name = kept.name(int(kept.identities[row]))
    crop = None if kept.whole else (x0, y0, x1, y1)
    if query is None:
        return View(image_id=image_id, dataset=dataset, crop=crop, caption=name, verdict="query")
    same = kept.identities[row] == kept.identities[query]
    near = float(kept.vectors[row] @ kept.vectors[query])
    return View(
        image_id=image_id, dataset=dataset, crop=crop, caption=f"{near:.2f}", verdict="right" if same else "wrong"
    )


def _map(kept: Kept) -> Scatter:
    """The identities with most members, each coloured, and of the others as many as there is room for."""
    identities, counts = torch.unique(kept.identities, return_counts=True)
    order = torch.argsort(counts, descending=True, stable=True)
    named = set(identities[order[:GROUPS]].tolist())
    member = torch.tensor([identity in named for identity in kept.identities.tolist()])
    inside, outside = (torch.nonzero(mask)[:, 0] for mask in (member, ~member))
    chosen = torch.cat([_thinned(inside, 2 * DOTS // 3), _thinned(outside, DOTS // 3)]).sort().values
    points = spread(kept.vectors[chosen])
    span = points.abs().amax().clamp(min=1e-9)
    dots = []
    for (x, y), row in zip((points / span).tolist(), chosen.tolist(), strict=True):
        identity = int(kept.identities[row])
        name = kept.name(identity)
        group = name if identity in named else ""
        dots.append(Point(x=round(x, 4), y=round(y, 4), group=group, text=f"{name}, {kept.places[row][1]}"))
    note = f"{len(chosen)} of {len(kept.places):,} vectors by t-SNE; only who is near whom has a meaning"
    return Scatter(title="Map", note=note, points=tuple(dots))


def _thinned(rows: Tensor, most: int) -> Tensor:
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most).round().long()]


def _apart(kept: Kept) -> Histogram:
    """Cosines of pairs, of the same and of different identities, those within a group left out."""
    rows = _thinned(torch.arange(len(kept.vectors)), COMPARED)
    vectors, who, groups = kept.vectors[rows], kept.identities[rows], kept.groups[rows]
    pair = torch.triu(groups[:, None] != groups[None], diagonal=1)
    near, same = (vectors @ vectors.T)[pair], (who[:, None] == who[None])[pair]
    edges = torch.linspace(-1, 1, BINS + 1)
    series = []
    for label, mask in (("same", same), ("different", ~same)):
        counts = torch.histc(near[mask].clamp(-1, 1), BINS, -1, 1).long()
        series.append(Series(label=label, counts=tuple(counts.tolist())))
    return Histogram(
        title="Likeness of pairs",
        note="the less the two overlap, the easier a threshold tells the same from the different",
        x_name="cosine",
        edges=tuple(round(edge, 4) for edge in edges.tolist()),
        series=tuple(series),
    )


def _recall(kept: Kept) -> Chart:
    depth = kept.ranking.neighbours.shape[1]
    depths = range(1, depth + 1)
    line = Line(
        label="recall",
        x=tuple(float(k) for k in depths),
        y=tuple(kept.ranking.recall(k) for k in depths),
        chief=True,
    )
    return Chart(title="Found among the nearest", x_name="neighbours", y_name="recall", lines=(line,))


def _identities(kept: Kept) -> Table:
    who = kept.identities[kept.ranking.queries]
    rows: list[tuple[str | float | None, ...]] = []
    for identity in torch.unique(who).tolist():
        first = kept.ranking.first_match[who == identity]
        precision = float(kept.ranking.precision_at_r[who == identity].mean())
        shares = (float((first < k).double().mean()) for k in (1, 5))
        rows.append((kept.name(identity), len(first), *shares, precision))
    rows.sort(key=lambda row: (row[2], row[4]))  # type: ignore[arg-type, return-value]
    columns = (
        Column(name="identity"),
        Column(name="queries", kind="count", meaning="labelled, with the same thing to be found elsewhere"),
        Column(name="R@1", kind="share", bar=True, meaning="share whose nearest is the same thing"),
        Column(name="R@5", kind="share", meaning="share with the same thing among the five nearest"),
        Column(name="mAP@R", kind="share", meaning="how far up all true matches stand"),
    )
    note = f"the {ROWS} hardest of {len(rows):,}" if len(rows) > ROWS else "hardest first"
    return Table(title="Identities", note=note, columns=columns, rows=tuple(rows[:ROWS]))
