# SPDX-License-Identifier: Apache-2.0
"""Whether a written file answers like the network it was made from: output by output, for several batches and sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unified.contracts.errors import CheckpointError
from unified.contracts.exporting import Runner
from unified.data.shapes.scene import render
from unified.export.graph import ExportGraph
from unified.export.matching import matched

TOLERANCE: Final[Mapping[str, float]] = {"fp32": 1e-4, "fp16": 1e-2, "int8": float("inf")}
"""By precision, see :attr:`Row.error`. An INT8 network is judged by its scores instead."""


@dataclass(frozen=True)
class Row:
    """One output, over all pictures it was compared on."""

    output: str
    shape: tuple[int, ...]  # of the last comparison
    largest: float  # magnitude of the network's own answer
    difference: float  # greatest
    mean: float  # difference
    error: float  # greatest difference; of numbers above 1, such as pixels, in shares of the largest

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Parity:
    """What was compared, and how far it is off."""

    runtime: str
    precision: str
    tolerance: float
    inputs: tuple[tuple[int, ...], ...]  # shapes
    rows: tuple[Row, ...]

    @property
    def worst(self) -> Row:
        return max(self.rows, key=lambda row: row.error)

    @property
    def passed(self) -> bool:
        """Whether every output is within the tolerance; a number that is none never is."""
        return all(row.error <= self.tolerance for row in self.rows)

    def told(self) -> dict[str, Any]:
        """As JSON."""
        limit = None if np.isinf(self.tolerance) else self.tolerance
        rows = [row.told() for row in self.rows]
        return {**asdict(self), "tolerance": limit, "rows": rows, "passed": self.passed}


def compare(graph: ExportGraph, runner: Runner, size: int, stride: int) -> tuple[list[Row], list[tuple[int, ...]]]:
    """How far a file is off from the network: its rows by output, and the shapes it was given.

    Args:
        graph: of the network itself.
        runner: of the file.
        size: pixels: the side it was trained for.
        stride: of which sides are multiples.
    """
    gathered: dict[str, list[Row]] = {name: [] for name in graph.names}
    shapes = []
    for images in pictures(size, stride):
        shapes.append(tuple(images.shape))
        with torch.no_grad():
            expected = dict(zip(graph.names, (each.numpy() for each in graph(images)), strict=True))
        got = _run(runner, images, graph.names)
        alike = all(expected[name].shape == got[name].shape for name in graph.names)
        mine, theirs = matched(graph.outlets, expected, got) if alike else (expected, got)
        for name in graph.names:
            gathered[name].append(_row(name, mine[name], theirs[name]))
    return [_joined(rows) for rows in gathered.values()], shapes


def _run(runner: Runner, images: Tensor, names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
    try:
        return runner(images.numpy(), names)
    except Exception as error:  # a format's program may fail in any way
        shape = "x".join(map(str, images.shape))
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"the file cannot answer images of {shape}: {line}; nothing was written") from error


def pictures(size: int, stride: int) -> Iterator[Tensor]:
    """Drawn scenes as inputs (B, 3, H, W): one, three, and two that are neither square nor of the usual size."""
    for batch, height, width in ((1, size, size), (3, size, size), (2, size + stride, max(2 * stride, size - stride))):
        scenes = [_scene(k + batch, max(height, width, 64))[:height, :width] for k in range(batch)]
        yield torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2).float().div(255).contiguous()


@lru_cache(maxsize=16)
def _scene(index: int, side: int) -> NDArray[np.uint8]:
    """(side, side, 3) RGB."""
    return render(index, size=side).image


def _row(name: str, expected: NDArray[Any], got: NDArray[Any]) -> Row:
    if expected.shape != got.shape:
        return Row(name, got.shape, float("nan"), float("nan"), float("nan"), float("inf"))
    if not expected.size:
        return Row(name, got.shape, 0.0, 0.0, 0.0, 0.0)
    apart = np.abs(expected.astype(np.float64) - got.astype(np.float64))
    largest, difference = float(np.abs(expected).max()), float(apart.max())
    error = difference / max(1.0, largest)
    return Row(name, got.shape, largest, difference, float(apart.mean()), error if np.isfinite(error) else float("inf"))


def _joined(rows: Sequence[Row]) -> Row:
    last = rows[-1]
    top = {name: max(getattr(row, name) for row in rows) for name in ("largest", "difference", "error")}
    return Row(last.output, last.shape, mean=float(np.mean([row.mean for row in rows])), **top)
