# SPDX-License-Identifier: Apache-2.0
"""An index of vectors: exact in a folder by default, or LanceDB for large and shared collections.

``create`` makes one, ``open`` opens one that is there, ``add``, ``delete`` and ``search`` are the same for both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from unified.contracts.errors import ConfigError, suggestion
from unified.index.exact import ExactIndex
from unified.index.protocol import Found, Hit, Layout, VectorIndex, Vectors
from unified.index.row import Filter, Metric, Row
from unified.inference.encoder import Precision

__all__ = ["ExactIndex", "Filter", "Found", "Hit", "Layout", "Row", "VectorIndex", "Vectors", "create", "open"]

Backend = Literal["exact", "lance"]
BACKENDS = ("exact", "lance")


def open(where: str | Path, verify: bool = True) -> VectorIndex:
    """An index that is there.

    Args:
        where: its folder, or a LanceDB database: a folder, or an address such as ``s3://bucket/pictures``.
        verify: whether the files of an exact index are compared with their SHA-256.

    Raises:
        DataError: there is none, or it is damaged.
        ConfigError: it is LanceDB's, and LanceDB is not installed (extra ``index``).
    """
    if _is_lance(where):
        from unified.index.lance import LanceIndex

        return LanceIndex(str(where))
    return ExactIndex(where, verify)


def create(
    where: str | Path,
    dim: int,
    space: str | None = None,
    metric: Metric = "cosine",
    precision: Precision = "float32",
    backend: Backend | None = None,
    **layout: Any,
) -> VectorIndex:
    """A new, empty index.

    Args:
        where: a folder that is not there or empty; for LanceDB also an address such as ``s3://bucket/pictures``.
        dim: D of the vectors.
        space: fingerprint of the model that makes them (``UnifiedModel.space``): then vectors of others are refused.
        metric: ``cosine`` or ``ip``, the inner product.
        precision: ``float32``, ``float16``, ``int8`` or ``binary``, as ``UnifiedModel.encode`` gives them.
        backend: ``exact`` or ``lance``; by default what the place looks like.
        layout: more of :class:`Layout`, such as ``ranges`` of int8.

    Raises:
        DataError: the place holds something already, or cannot be written.
        ConfigError: an unknown word, or LanceDB is not installed (extra ``index``).
    """
    if backend is not None and backend not in BACKENDS:
        raise ConfigError(f"unknown backend '{backend}'{suggestion(backend, BACKENDS)}")
    made = Layout(dim, space, metric, precision, **layout)
    if backend == "lance" or (backend is None and _is_lance(where)):
        from unified.index.lance import LanceIndex

        return LanceIndex.create(str(where), made)
    if "://" in str(where):
        raise ConfigError(f"'{where}' is an address, and an exact index is a folder; choose backend 'lance'")
    return ExactIndex.create(where, made)


def _is_lance(where: str | Path) -> bool:
    """Whether a place is LanceDB's: an address, a name that says so, or a database that is there."""
    path = Path(where)
    named = "://" in str(where) or path.suffix == ".lancedb"
    return named or (path.is_dir() and any(path.glob("*.lance")))
