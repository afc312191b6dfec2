# SPDX-License-Identifier: Apache-2.0
"""The graph of a network for any batch, height and width, as torch.export sees it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

from unified.contracts.errors import ConfigError
from unified.contracts.exporting import INPUT, Blueprint

LARGEST: Final = 8192  # pixels of a side
MOST: Final = 4096  # images a batch
_LOUD: Final = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch._dynamo", "torch.fx")


def example(blueprint: Blueprint) -> torch.Tensor:
    """An input none of whose sides is like another: (2, 3, H, W)."""
    side = max(blueprint.size, 2 * blueprint.stride)
    return torch.rand(2, 3, side, side + blueprint.stride, generator=torch.Generator().manual_seed(0))


def traced(blueprint: Blueprint) -> torch.export.ExportedProgram:
    """The graph with a batch of 1 or more and sides that are multiples of the stride.

    Raises:
        ConfigError: it does something that depends on what a picture shows, or on a fixed size.
    """
    dim: Any = torch.export.Dim
    most = LARGEST // blueprint.stride
    rows, columns = (blueprint.stride * dim(name, min=2, max=most) for name in ("rows", "columns"))
    shapes = {INPUT: {0: dim("batch", min=1, max=MOST), 2: rows, 3: columns}}
    graph = _Named(blueprint.graph)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(graph, (example(blueprint),), dynamic_shapes=shapes, strict=False)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ConfigError(
            f"torch.export cannot follow this network for any batch and size ({type(error).__name__}: "
            f"{lines[0] if lines else 'no reason given'})"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the notes that exporters write for their own developers."""
    levels = {name: logging.getLogger(name).level for name in _LOUD}
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


class _Named(torch.nn.Module):
    """The graph with its input called as every file calls it."""

    def __init__(self, graph: torch.nn.Module) -> None:
        super().__init__()
        self.body = graph  # "graph" is a word of torch.fx

    def forward(self, images: torch.Tensor) -> Any:
        return self.body(images)
