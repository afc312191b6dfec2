# SPDX-License-Identifier: Apache-2.0
"""TorchScript, for programs that still read it. PyTorch no longer develops it; prefer ONNX or torch.export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from unified.contracts.errors import ConfigError
from unified.contracts.exporting import Blueprint, Exporter, Runner
from unified.export.torch_export import ModuleRunner
from unified.export.tracing import example, quiet


class TorchScriptExporter(Exporter):
    """``model.torchscript`` for libtorch. It is compared as it is written; files of this kind are not opened here."""

    suffix: ClassVar[str] = ".torchscript"

    def __init__(self) -> None:
        self._written: Any = None

    def check(self, precision: str) -> None:
        """Nothing beside torch is needed."""

    def write(self, blueprint: Blueprint, file: Path) -> None:
        """Raises ConfigError where the network cannot be traced."""
        try:
            with quiet(), torch.no_grad():
                trace: Any = torch.jit.trace
                self._written = torch.jit.freeze(trace(blueprint.graph, example(blueprint)).eval())
                self._written.save(str(file), _extra_files={"unified.json": blueprint.about})
        except Exception as error:
            raise ConfigError(f"TorchScript cannot follow this network: {str(error).splitlines()[0]}") from error

    def open(self, file: Path, outputs: Sequence[str], device: str) -> Runner:
        if self._written is None:
            raise ConfigError(
                f"'{file}' is TorchScript, which is written for other programs and can run code of its maker's when it "
                "is opened; export as onnx or openvino to load it here"
            )
        return ModuleRunner(self._written, outputs)

    def runtime(self) -> str:
        return f"TorchScript {torch.__version__}"
