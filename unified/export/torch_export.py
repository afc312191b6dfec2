# SPDX-License-Identifier: Apache-2.0
"""torch.export: the graph as PyTorch itself keeps it, and AOTInductor: the same compiled to this machine's code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray

from unified.contracts.errors import CheckpointError, ConfigError
from unified.contracts.exporting import Blueprint, Exporter, Runner
from unified.export import suppression
from unified.export.tracing import quiet, traced


class TorchExporter(Exporter):
    """``model.pt2`` for ``torch.export.load``; open only files that you trust."""

    suffix: ClassVar[str] = ".pt2"
    suppresses: ClassVar[bool] = True

    def check(self, precision: str) -> None:
        """Nothing beside torch is needed."""

    def write(self, blueprint: Blueprint, file: Path) -> None:
        with quiet():
            torch.export.save(traced(blueprint), file)

    def open(self, file: Path, outputs: Sequence[str], device: str) -> Runner:
        assert suppression.unrepeated is not None  # registers the operator that a file may hold
        try:
            with quiet():
                module = torch.export.load(file).module()
        except Exception as error:
            raise CheckpointError(f"'{file}' cannot be opened by torch: {_line(error)}") from error
        return ModuleRunner(module, outputs)

    def runtime(self) -> str:
        return f"torch {torch.__version__}"


class AotExporter(TorchExporter):
    """``model.pt2`` for AOTInductor: machine code for this kind of processor, without Python; open only what you trust.

    Suppression has no machine code here and stays outside.
    """

    suppresses: ClassVar[bool] = False

    def check(self, precision: str) -> None:
        """Raises ConfigError where there is no C++ compiler."""
        if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++")):
            raise ConfigError("AOTInductor needs a C++ compiler (g++ or clang++), which is not here")

    def write(self, blueprint: Blueprint, file: Path) -> None:
        from torch._inductor import aoti_compile_and_package

        with quiet(), torch.no_grad():
            aoti_compile_and_package(traced(blueprint), package_path=str(file))

    def open(self, file: Path, outputs: Sequence[str], device: str) -> Runner:
        from torch._inductor import aoti_load_package

        try:
            return ModuleRunner(aoti_load_package(str(file)), outputs)
        except Exception as error:
            raise CheckpointError(f"'{file}' cannot be opened by torch: {_line(error)}") from error

    def runtime(self) -> str:
        return f"AOTInductor {torch.__version__}"


class ModuleRunner:
    """A loaded graph whose outputs have names."""

    def __init__(self, module: Any, names: Sequence[str]) -> None:
        self.module, self.names = module, names

    def __call__(self, images: NDArray[Any], outputs: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        with torch.inference_mode():
            found = dict(zip(self.names, self.module(torch.from_numpy(images)), strict=True))
        return {name: found[name].numpy() for name in outputs}


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
