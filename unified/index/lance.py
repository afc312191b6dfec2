# SPDX-License-Identifier: Apache-2.0
"""An index in LanceDB, for collections larger than memory or shared by many: a folder, or object storage.

Until it is trained every row is looked at; then an approximate index answers.

Legend: n queries or new vectors, D width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unified.contracts.errors import ConfigError, DataError, needs, suggestion
from unified.index.protocol import Found, Hit, Layout, Vectors, check_k, check_rows, neighbours_of
from unified.index.row import Filter, Row

Kind: TypeAlias = Literal["ivf_pq", "ivf_flat", "ivf_hnsw_sq"]
KINDS: Final = {"ivf_pq": "IvfPq", "ivf_flat": "IvfFlat", "ivf_hnsw_sq": "HnswSq"}
TABLE: Final = "vectors"
_NOTE: Final = b"unified"
_BATCH: Final = 1000  # ids in one condition
_BESIDE: Final = ("id", "path", "x0", "y0", "x1", "y1", "name", "score", "tags", "width", "height", "bytes", "time")


@dataclass(frozen=True)
class Effort:
    """How hard an approximate search tries; more is slower and misses less."""

    probes: int | None = None  # partitions that are looked into; None: as many as :meth:`of` says
    refine: int | None = 10  # the best refine x k candidates are compared by their whole vectors; None: not

    def of(self, rows: int) -> int:
        """Partitions that are looked into where there are so many rows: at least 20, of a million 83.

        LanceDB makes more of them the more rows there are. Of a million clustered vectors 20 found 0.88 of the ten
        nearest, 60 found 0.96, and 100 found 0.98; of 100,000 vectors 20 found all.
        """
        return self.probes or max(20, round(math.sqrt(rows) / 12))


class LanceIndex:
    """Vectors with their rows in a table of LanceDB.

    Args:
        where: the database: a folder, or an address such as ``s3://bucket/pictures``; how LanceDB reaches it is read
            from the environment, as its documentation says.
        effort: of searches, once the index is trained.

    Raises:
        ConfigError: LanceDB is not installed (extra ``index``).
        DataError: there is no such index, or it cannot be read.
    """

    def __init__(self, where: str, effort: Effort | None = None) -> None:
        self.where, self.effort = where, effort or Effort()
        if "://" not in where and not Path(where).is_dir():
            raise DataError(f"no index at '{where}': the folder is not there; make one with unified-search index")
        database = _connected(where)
        try:
            self.table = database.open_table(TABLE)
            said = json.loads((self.table.schema.metadata or {})[_NOTE])
            ranges = said.pop("ranges")
            self.layout = Layout(**said, ranges=ranges and (tuple(ranges[0]), tuple(ranges[1])))
        except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
            raise DataError(f"no index at '{where}': {_line(error)}; make one with unified-search index") from None

    @classmethod
    def create(cls, where: str, layout: Layout) -> LanceIndex:
        """A new, empty index.

        Raises:
            ConfigError: LanceDB is not installed, or it does not keep such vectors.
            DataError: there is one already, or the place cannot be written.
        """
        database = _connected(where)
        if layout.precision not in ("float32", "float16"):
            raise ConfigError(f"LanceDB keeps float32 or float16 here, not {layout.precision}; compress with train()")
        try:
            database.create_table(TABLE, schema=_schema(layout))
        except (ValueError, RuntimeError, OSError) as error:
            raise DataError(f"no index can be made at '{where}': {_line(error)}") from None
        return cls(where)

    def __len__(self) -> int:
        return int(self.table.count_rows())

    def add(
        self, vectors: Vectors, rows: Sequence[Row | str] | None = None, space: str | None = None, replace: bool = False
    ) -> int:
        """Adds vectors in one transaction of LanceDB; as :meth:`unified.index.ExactIndex.add`.

        Raises:
            DataError: another space or width, values that are no numbers, an id that is there already.
        """
        self.layout.check_space(space, "vectors")
        kept = self.layout.check(vectors, "vectors")
        first = len(self)
        made = check_rows([str(first + k) for k in range(len(kept))] if rows is None else rows, len(kept))
        there = [] if replace else [row for row in self.get([row.id for row in made]) if row is not None]
        if there:
            raise DataError(f"id '{there[0].id[:80]}' is in the index already; give replace=True")
        if made:
            data = _arrow(kept.numpy(), made, self.layout)
            if replace:
                merge = self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                merge.execute(data)
            else:
                self.table.add(data)
        return len(self)

    def delete(self, ids: Sequence[str]) -> int:
        """Removes rows; returns how many there were."""
        before = len(self)
        for some in _parts(list(ids)):
            self.table.delete(f"id IN ({', '.join(map(_quoted, some))})")
        return before - len(self)

    def get(self, ids: Sequence[str]) -> list[Row | None]:
        """The rows of ids; None where there is none."""
        known: dict[str, Row] = {}
        for some in _parts(list(ids)):
            found = self.table.search().where(f"id IN ({', '.join(map(_quoted, some))})").select(list(_BESIDE))
            known |= {row["id"]: _row(row) for row in found.limit(len(some)).to_list()}
        return [known.get(each) for each in ids]

    def rows(self) -> Iterator[Row]:
        """All rows."""
        for batch in self.table.search().select(list(_BESIDE)).to_batches():
            yield from map(_row, batch.to_pylist())

    def row(self, position: int) -> Row:
        """The row at a position that a search gave."""
        return _row(self.table.take_row_ids([position]).select(list(_BESIDE)).to_list()[0])

    def vectors(self) -> tuple[Tensor, Tensor]:
        """All vectors (R, D) as they are kept, and their positions (R,)."""
        table = self.table.search().select(["vector"]).with_row_id(True).to_arrow()
        flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors = torch.from_numpy(flat.reshape(-1, self.layout.dim).copy())
        return vectors, torch.tensor(table["_rowid"].to_pylist(), dtype=torch.int64)

    def train(self, kind: Kind = "ivf_pq", **options: Any) -> None:
        """Builds an approximate index over what is there; rows added later are looked at one by one until then.

        Args:
            kind: ``ivf_pq``: partitions of compressed vectors; ``ivf_flat``: of whole ones; ``ivf_hnsw_sq``: of graphs
                over bytes.
            options: of LanceDB's index, such as ``num_partitions`` or ``num_sub_vectors``, which is D / 4 here where
                LanceDB takes D / 16: with that, of clustered vectors a fifth of the ten nearest was lost.

        Raises:
            ConfigError: an unknown kind.
            DataError: LanceDB cannot build it, such as of too few rows.
        """
        if kind not in KINDS:
            raise ConfigError(f"unknown kind of index '{kind}'{suggestion(kind, KINDS)}")
        import lancedb.index

        if kind == "ivf_pq" and self.layout.dim % 4 == 0:
            options = {"num_sub_vectors": self.layout.dim // 4, **options}
        try:
            config = getattr(lancedb.index, KINDS[kind])(distance_type=self._distance, **options)
            self.table.create_index("vector", config=config, replace=True)
        except (ValueError, RuntimeError, OSError, TypeError) as error:
            raise DataError(f"LanceDB cannot build {kind}: {_line(error)}") from None

    def search(
        self,
        vectors: Vectors,
        k: int = 10,
        where: Filter | None = None,
        space: str | None = None,
        exact: bool = False,
    ) -> Found:
        """The k nearest rows of every query; ``exact``: by looking at every row, trained or not.

        Raises:
            DataError: queries of another space or width, or values that are no numbers.
            ConfigError: k below 1.
        """
        check_k(k)
        if space is not None:
            self.layout.check_space(space, "queries")
        queries = self.layout.check(vectors, "queries")
        probes = None if exact else self.effort.of(len(self))
        found = [self._one(query.float().numpy(), k, where, probes) for query in queries]
        scores = torch.full((len(queries), k), float("-inf"))
        positions = torch.full((len(queries), k), -1, dtype=torch.int64)
        for q, hits in enumerate(found):
            scores[q, : len(hits)] = torch.tensor([hit.score for hit in hits])
            positions[q, : len(hits)] = torch.tensor([hit.position for hit in hits], dtype=torch.int64)
        return Found(found, scores, positions)

    def kneighbors(
        self, vectors: Vectors, n_neighbors: int = 5, return_distance: bool = True
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | NDArray[np.int64]:
        """Distances (n, k) and row ids (n, k); as :meth:`unified.index.ExactIndex.kneighbors`."""
        return neighbours_of(self, vectors, n_neighbors, return_distance)

    @property
    def _distance(self) -> str:
        return "cosine" if self.layout.metric == "cosine" else "dot"

    def _one(self, query: NDArray[np.float32], k: int, where: Filter | None, probes: int | None) -> list[Hit]:
        asked = self.table.search(query, vector_column_name="vector").distance_type(self._distance).limit(k)
        asked = asked.select([*_BESIDE, "_distance"]).with_row_id(True)
        if condition := _condition(where):
            asked = asked.where(condition, prefilter=True)
        if probes is None:
            asked = asked.bypass_vector_index()
        else:
            asked = asked.nprobes(probes)
            asked = asked if self.effort.refine is None else asked.refine_factor(self.effort.refine)
        found = asked.to_arrow().to_pylist()
        return [Hit(1 - row["_distance"], _row(row), row["_rowid"]) for row in found]


def _connected(where: str) -> Any:
    try:
        import lancedb
    except ImportError:
        raise needs("an index in LanceDB", "LanceDB", "index") from None
    try:
        return lancedb.connect(where)
    except (ValueError, RuntimeError, OSError) as error:
        raise DataError(f"LanceDB cannot reach '{where}': {_line(error)}") from None


def _schema(layout: Layout) -> Any:
    import pyarrow as pa

    kind = pa.float16() if layout.precision == "float16" else pa.float32()
    texts, numbers = ("id", "path", "name"), ("bytes", "time")
    fields = [("vector", pa.list_(kind, layout.dim)), ("tags", pa.list_(pa.string()))]
    fields += [(name, pa.string()) for name in texts] + [(name, pa.int64()) for name in numbers]
    fields += [(name, pa.int32()) for name in ("width", "height")]
    fields += [(name, pa.float32()) for name in ("x0", "y0", "x1", "y1", "score")]
    return pa.schema(fields, metadata={_NOTE: json.dumps(asdict(layout)).encode()})


def _arrow(vectors: NDArray[Any], rows: Sequence[Row], layout: Layout) -> Any:
    import pyarrow as pa

    schema = _schema(layout)
    kept = {name: pa.array([_flat(row)[name] for row in rows], schema.field(name).type) for name in _BESIDE}
    values = pa.array(vectors.reshape(-1))
    kept["vector"] = pa.FixedSizeListArray.from_arrays(values, layout.dim)
    return pa.table([kept[name] for name in schema.names], schema=schema)


def _flat(row: Row) -> dict[str, Any]:
    corners = dict(zip(("x0", "y0", "x1", "y1"), row.box or (None,) * 4, strict=True))
    size = dict(zip(("width", "height"), row.size or (None,) * 2, strict=True))
    stamp = dict(zip(("bytes", "time"), row.stamp or (None,) * 2, strict=True))
    said = {"id": row.id, "path": row.path, "name": row.name, "score": row.score, "tags": list(row.tags)}
    return {**said, **corners, **size, **stamp}


def _row(said: dict[str, Any]) -> Row:
    box, size = [said[name] for name in ("x0", "y0", "x1", "y1")], (said["width"], said["height"])
    stamp = (said["bytes"], said["time"])
    return Row(
        id=said["id"],
        path=said["path"],
        box=None if box[0] is None else (box[0], box[1], box[2], box[3]),
        name=said["name"],
        score=said["score"],
        tags=tuple(said["tags"] or ()),
        size=None if size[0] is None else size,
        stamp=None if stamp[0] is None else stamp,
    )


def _condition(where: Filter | None) -> str:
    """A filter as LanceDB's SQL."""
    if where is None or not where.asks:
        return ""
    said = [f"array_has(tags, {_quoted(tag)})" for tag in where.tags]
    said += [f"NOT array_has(tags, {_quoted(tag)})" for tag in where.without]
    if where.names:
        said.append(f"name IN ({', '.join(map(_quoted, where.names))})")
    if where.level is not None:
        said.append(f"x0 IS {'NOT ' if where.level == 'box' else ''}NULL")
    if where.least_score is not None:
        said.append(f"x0 IS NOT NULL AND coalesce(score, 1) >= {float(where.least_score)!r}")
    if where.least_side is not None:
        said.append(f"x1 - x0 >= {float(where.least_side)!r} AND y1 - y0 >= {float(where.least_side)!r}")
    return " AND ".join(f"({each})" for each in said)


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "''") + "'"


def _parts(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), _BATCH):
        yield ids[start : start + _BATCH]


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
