# SPDX-License-Identifier: Apache-2.0
"""What every index can do, and what a search answers.

Legend: n queries or new vectors, D width, k neighbours asked for. Scores: greater is nearer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unified.contracts.errors import ConfigError, DataError
from unified.index.row import Filter, Metric, Row, check_metric
from unified.inference.encoder import Precision, quantize

Vectors: TypeAlias = Tensor | NDArray[Any]
_TYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8, "binary": torch.uint8}


@dataclass(frozen=True)
class Layout:
    """What all vectors of an index have in common."""

    dim: int  # D, before any packing
    space: str | None = None  # fingerprint, see ``UnifiedModel.space``; None: nobody said, nothing is compared
    metric: Metric = "cosine"
    precision: Precision = "float32"
    ranges: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # (2, D) of int8
    level: str | None = None  # image or box, where the index holds one kind
    model: str | None = None  # folder of the model that made them
    side: int | None = None  # its input in pixels, where it is not the model's own
    truncate: bool = False  # whether vectors were shortened to ``dim``

    def __post_init__(self) -> None:
        check_metric(self.metric)
        if self.dim < 1:
            raise ConfigError(f"an index needs a width of 1 or more, got {self.dim}")
        if self.metric == "ip" and self.precision == "binary":
            raise ConfigError("bits have no length: an index of binary vectors needs metric 'cosine'")
        quantize(torch.zeros(1, self.dim), self.precision, self.tensor_ranges)  # a word that does not fit is said now

    @property
    def width(self) -> int:
        """Numbers of a vector as it is kept."""
        return self.dim // 8 if self.precision == "binary" else self.dim

    @property
    def dtype(self) -> torch.dtype:
        """Type of a vector as it is kept."""
        return _TYPES[self.precision]

    @property
    def tensor_ranges(self) -> Tensor | None:
        """(2, D) of int8."""
        return None if self.ranges is None else torch.tensor(self.ranges)

    def check_space(self, space: str | None, what: str) -> None:
        """Refuses vectors of another space.

        Raises:
            DataError: they are, or they do not say.
        """
        if self.space is None or space == self.space:
            return
        if space is None:
            raise DataError(f"{what} do not say which model made them; give space=model.space (the index has one)")
        raise DataError(
            f"{what} are of another model (space {space[:12]}..., the index holds {self.space[:12]}...); embed anew"
        )

    def check(self, vectors: Vectors, what: str) -> Tensor:
        """Vectors (n, W) in the index's form; one vector counts as a row. Floats are put into that form.

        Raises:
            DataError: another width or type, or values that are no numbers.
        """
        given = torch.from_numpy(np.ascontiguousarray(vectors)) if isinstance(vectors, np.ndarray) else vectors
        if not isinstance(given, Tensor):
            raise DataError(f"{what} must be a tensor or array (n, {self.dim}), got {type(vectors).__name__}")
        given = given.detach().cpu()
        given = given[None] if given.ndim == 1 else given
        floating = given.is_floating_point()
        width = self.dim if floating else self.width
        if given.ndim != 2 or given.shape[1] != width:
            raise DataError(f"{what} must be (n, {width}) for this index, got shape {tuple(given.shape)}")
        if not floating and given.dtype != self.dtype:
            raise DataError(f"{what} must be floats or {self.precision} for this index, got {_word(given.dtype)}")
        if floating and not bool(torch.isfinite(given).all()):
            bad = int((~torch.isfinite(given)).any(dim=1).nonzero()[0])
            raise DataError(f"{what} hold values that are no numbers (row {bad}); nothing was done")
        if given.dtype == self.dtype:
            return given.contiguous()
        kept = quantize(given.float(), self.precision, self.tensor_ranges).contiguous()
        if floating and kept.is_floating_point() and not bool(torch.isfinite(kept).all()):
            raise DataError(f"{what} are too large for {self.precision}; make the index with float32")
        return kept


@dataclass(frozen=True)
class Hit:
    """One neighbour of a query."""

    score: float  # cosine or inner product: greater is nearer
    row: Row
    position: int = -1  # in the index as it stands

    @property
    def id(self) -> str:
        """Of the row."""
        return self.row.id

    @property
    def path(self) -> str | None:
        """Of the picture's file."""
        return self.row.path

    def to_dict(self) -> dict[str, Any]:
        """The hit as JSON knows it."""
        return {"score": round(self.score, 6), **self.row.to_dict()}


@dataclass(frozen=True, eq=False)
class Found(Sequence[list[Hit]]):
    """The neighbours of n queries, best first; the q-th item is the list of hits of query q."""

    hits: list[list[Hit]]
    scores: Tensor = field(repr=False)  # (n, k) float32; -inf where there are fewer than k
    positions: Tensor = field(repr=False)  # (n, k) int64; -1 where there are fewer than k

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, query: Any) -> Any:
        return self.hits[query]

    def __iter__(self) -> Iterator[list[Hit]]:
        return iter(self.hits)

    def to_list(self) -> list[list[dict[str, Any]]]:
        """All hits as JSON knows them."""
        return [[hit.to_dict() for hit in hits] for hits in self.hits]


class VectorIndex(Protocol):
    """Vectors with their rows, and the nearest of them."""

    @property
    def layout(self) -> Layout:
        """What all vectors have in common."""

    def __len__(self) -> int: ...

    def rows(self) -> Iterator[Row]:
        """All rows."""

    def row(self, position: int) -> Row:
        """The row at a position."""

    def vectors(self) -> tuple[Tensor, Tensor]:
        """All vectors (R, W) as they are kept, and their positions (R,)."""

    def get(self, ids: Sequence[str]) -> list[Row | None]:
        """The rows of ids; None where there is none."""

    def add(
        self, vectors: Vectors, rows: Sequence[Row | str] | None = None, space: str | None = None, replace: bool = False
    ) -> int:
        """Adds n vectors; when it returns they are on the disk."""

    def delete(self, ids: Sequence[str]) -> int:
        """Removes rows; returns how many there were."""

    def search(self, vectors: Vectors, k: int = 10, where: Filter | None = None, space: str | None = None) -> Found:
        """The k nearest rows of every query."""

    def kneighbors(
        self, vectors: Vectors, n_neighbors: int = 5, return_distance: bool = True
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | NDArray[np.int64]:
        """Distances and positions, as scikit-learn's ``NearestNeighbors`` gives them."""


def neighbours_of(
    index: VectorIndex, vectors: Vectors, n_neighbors: int, return_distance: bool
) -> tuple[NDArray[np.float32], NDArray[np.int64]] | NDArray[np.int64]:
    """``kneighbors`` of any index: distances are 1 - cosine, or the negative inner product.

    Raises:
        DataError: more neighbours than rows, as scikit-learn has it; see also ``search``.
    """
    if n_neighbors > len(index):
        raise DataError(f"n_neighbors {n_neighbors} is more than the {len(index)} rows of the index")
    found = index.search(vectors, n_neighbors)
    positions: NDArray[np.int64] = found.positions.numpy()
    if not return_distance:
        return positions
    distances = 1 - found.scores if index.layout.metric == "cosine" else -found.scores
    return distances.numpy(), positions


def check_k(k: int) -> None:
    """Refuses a number of neighbours below 1.

    Raises:
        ConfigError: it is.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ConfigError(f"k must be 1 or more neighbours, got {k}")


def check_rows(rows: Sequence[Row | str], count: int) -> list[Row]:
    """Rows for ``count`` vectors, whose ids are texts that stand once.

    Raises:
        DataError: as many rows as vectors are needed, or an id is empty or stands twice.
    """
    made = [Row(row) if isinstance(row, str) else row for row in rows]
    if len(made) != count:
        raise DataError(f"{count} vectors came with {len(made)} rows; give one a vector")
    ids = [row.id for row in made]
    if not all(isinstance(each, str) and each for each in ids):
        raise DataError("an id must be a text that is not empty")
    if len(set(ids)) < len(ids):
        twice = next(each for each, times in Counter(ids).items() if times > 1)
        raise DataError(f"id '{twice[:80]}' stands twice among the rows; ids must differ")
    return made


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
