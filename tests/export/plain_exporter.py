# SPDX-License-Identifier: Apache-2.0
"""A format that needs nothing: it keeps the graph in this process. For tests of everything around the formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from unified.contracts.exporting import Blueprint, Exporter, Runner
from unified.contracts.protocols import exporters
from unified.export.torch_export import ModuleRunner

GRAPHS: dict[str, nn.Module] = {}  # what a file's text stands for


class Liar(nn.Module):
    """Answers a little more than the graph."""

    def __init__(self, graph: nn.Module, more: float) -> None:
        super().__init__()
        self.graph, self.more = graph, more

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(x + self.more if x.is_floating_point() else x for x in self.graph(images))


class PlainExporter(Exporter):
    suffix: ClassVar[str] = ".plain"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8")
    suppresses: ClassVar[bool] = True
    more: ClassVar[float] = 0.0

    def check(self, precision: str) -> None: ...

    def write(self, blueprint: Blueprint, file: Path) -> None:
        key = f"{len(GRAPHS)}"
        GRAPHS[key] = Liar(blueprint.graph, self.more)
        file.write_text(key)
        if blueprint.pictures is not None:
            self.seen = [picture.shape for picture in blueprint.pictures()]

    def open(self, file: Path, outputs: Sequence[str], device: str) -> Runner:
        return ModuleRunner(GRAPHS[file.read_text()], outputs)

    def runtime(self) -> str:
        return "plain"


class LyingExporter(PlainExporter):
    suffix: ClassVar[str] = ".lying"
    more: ClassVar[float] = 0.01


def register() -> None:
    """Makes the formats ``plain`` and ``lying`` known in this process."""
    exporters.register("plain")(PlainExporter)
    exporters.register("lying")(LyingExporter)
