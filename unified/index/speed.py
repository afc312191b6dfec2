# SPDX-License-Identifier: Apache-2.0
"""How fast the indexes answer, and how much they find, on made-up vectors that gather in clusters as embeddings do.

Legend: R rows, n queries, D width, k neighbours.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unified.contracts.errors import needs
from unified.index.exact import ExactIndex
from unified.index.protocol import Layout

TARGET: Final = 1.2  # seconds of the exact index, over those of FAISS' flat one
RECALL: Final = 0.95  # of LanceDB's partitions
_SPREAD: Final = 1.2  # length of the noise over the length of a centre


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    rows: int = 1_000_000
    dim: int = 128
    queries: int = 100
    k: int = 10
    repeats: int = 5
    centres: int = 2000
    threads: int = 1
    kind: str = "ivf_pq"
    probes: int | None = None  # None: by the number of rows
    refine: int = 10
    seed: int = 0


@dataclass(frozen=True)
class Pace:
    """How one index did."""

    name: str
    build: float  # seconds until every row is in it
    search: float  # seconds for all queries, the median of the repeats
    slowest: float
    recall: float  # share of the true k nearest that is found
    one: float | None = None  # seconds of a single query


def vectors_like(count: int, setting: Setting, seed: int) -> Tensor:
    """Unit vectors (count, D) round centres that are the same for every seed."""
    centres = torch.randn(setting.centres, setting.dim, generator=torch.Generator().manual_seed(setting.seed))
    generator = torch.Generator().manual_seed(seed)
    chosen = centres[torch.randint(setting.centres, (count,), generator=generator)]
    noise = torch.empty(count, setting.dim).normal_(generator=generator)
    return F.normalize(chosen.add_(noise, alpha=_SPREAD), dim=1)


def truth_of(rows: Tensor, queries: Tensor, k: int) -> Tensor:
    """The true k nearest (n, k), by float64 and a full sort of every chunk's best."""
    best = torch.empty(len(queries), 0, dtype=torch.float64)
    where = torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(rows), 1 << 15):
        scores = queries.double() @ rows[start : start + (1 << 15)].double().T
        top = scores.topk(min(k, scores.shape[1]), dim=1)
        best, where = torch.cat([best, top.values], dim=1), torch.cat([where, top.indices + start], dim=1)
        kept = best.topk(min(k, best.shape[1]), dim=1)
        best, where = kept.values, where.gather(1, kept.indices)
    return where


def recall_of(found: Tensor, truth: Tensor) -> float:
    """Share of the true neighbours, (n, k), that were found."""
    hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
    return sum(hits) / truth.numel()


def measure_exact(setting: Setting, folder: Path | None = None) -> list[Pace]:
    """The exact index and, where it is installed, FAISS' flat one; their searches take turns."""
    torch.set_num_threads(setting.threads)
    rows, queries = vectors_like(setting.rows, setting, 1), vectors_like(setting.queries, setting, 2)
    truth = truth_of(rows, queries, setting.k)
    with tempfile.TemporaryDirectory(dir=folder, prefix="unified-bench-") as place:
        start = time.perf_counter()
        index = ExactIndex.create(Path(place) / "index", Layout(setting.dim))
        index.add(rows, [str(k) for k in range(len(rows))])
        built = {"exact": time.perf_counter() - start}
        calls: dict[str, Callable[[Tensor], Any]] = {
            "exact": lambda some: index.search(some, setting.k).positions,
            "faiss flat": _faiss(rows, setting, built),
        }
        calls = {name: call for name, call in calls.items() if call is not None}
        return _timed(calls, queries, truth, built, setting)


def measure_lance(setting: Setting, folder: Path | None = None) -> list[Pace]:
    """LanceDB's approximate index, trained on the rows.

    Raises:
        ConfigError: LanceDB is not installed (extra ``index``).
    """
    try:
        from unified.index.lance import Effort, LanceIndex
    except ImportError:
        raise needs("this measurement", "LanceDB", "index") from None
    torch.set_num_threads(setting.threads)
    rows, queries = vectors_like(setting.rows, setting, 1), vectors_like(setting.queries, setting, 2)
    truth = truth_of(rows, queries, setting.k)
    with tempfile.TemporaryDirectory(dir=folder, prefix="unified-bench-") as place:
        start = time.perf_counter()
        index = LanceIndex.create(str(Path(place) / "index"), Layout(setting.dim))
        for first in range(0, len(rows), 1 << 17):
            some = rows[first : first + (1 << 17)]
            index.add(some, [str(first + k) for k in range(len(some))], replace=False)
        index.train(setting.kind)  # type: ignore[arg-type]
        name = f"lancedb {setting.kind}"
        built = {name: time.perf_counter() - start}
        index.effort = Effort(setting.probes, setting.refine or None)

        def numbers(some: Tensor) -> Tensor:
            return torch.tensor([[int(hit.id) for hit in hits] for hits in index.search(some, setting.k)])

        return _timed({name: numbers}, queries, truth, built, setting)


def _faiss(rows: Tensor, setting: Setting, built: dict[str, float]) -> Any:
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(setting.threads)
    start = time.perf_counter()
    flat = faiss.IndexFlatIP(setting.dim)
    flat.add(rows.numpy())
    built["faiss flat"] = time.perf_counter() - start
    return lambda some: torch.from_numpy(np.asarray(flat.search(some.numpy(), setting.k)[1]))


def _timed(
    calls: Mapping[str, Callable[[Tensor], Tensor]],
    queries: Tensor,
    truth: Tensor,
    built: Mapping[str, float],
    setting: Setting,
) -> list[Pace]:
    """Searches in turns, so that a busy moment of the machine hits all alike; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    alone: dict[str, list[float]] = {name: [] for name in calls}
    recall = {}
    for turn in range(setting.repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            found = call(queries)
            middle = time.perf_counter()
            call(queries[:1])
            if turn:
                times[name].append(middle - start)
                alone[name].append(time.perf_counter() - middle)
            recall[name] = recall_of(found, truth)
    return [
        Pace(name, built[name], statistics.median(took), max(took), recall[name], statistics.median(alone[name]))
        for name, took in times.items()
    ]


def with_threads(setting: Setting, threads: int | None) -> Setting:
    """The setting with so many threads; by default those torch would take."""
    return replace(setting, threads=threads or torch.get_num_threads())
