# SPDX-License-Identifier: Apache-2.0
"""OpenVINO, made from the ONNX graph; FP32, FP16 weights, or INT8 by NNCF."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray

from unified.contracts.errors import CheckpointError, ConfigError, needs
from unified.contracts.exporting import INPUT, Blueprint, Exporter, Runner
from unified.export.onnx import OnnxExporter
from unified.export.tracing import quiet


class OpenVinoExporter(Exporter):
    """``model.xml`` with its weights in ``model.bin``; batch, height and width are free, outputs are named."""

    suffix: ClassVar[str] = ".xml"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8")
    suppresses: ClassVar[bool] = True

    def check(self, precision: str) -> None:
        if not find_spec("openvino"):
            raise needs("OpenVINO", "openvino", "openvino")

    def write(self, blueprint: Blueprint, file: Path) -> None:
        """Raises ConfigError where onnx, onnxscript or, for INT8, nncf are not installed."""
        if blueprint.precision == "int8" and not find_spec("nncf"):
            raise needs("INT8", "nncf", "openvino")
        import openvino as ov

        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            between = Path(folder) / "model.onnx"
            OnnxExporter().write(blueprint, between)
            keep_dimensions(between)
            model = ov.Core().read_model(str(between))
            if blueprint.precision == "int8":
                model = _quantized(model, blueprint)
            model.set_rt_info(blueprint.about, "unified")
            ov.save_model(model, str(file), compress_to_fp16=blueprint.precision == "fp16")
            del model  # it reads the file of the temporary folder

    def open(self, file: Path, outputs: Sequence[str], device: str) -> Runner:
        return _Compiled(file, device)

    def runtime(self) -> str:
        import openvino as ov

        return f"openvino {ov.__version__.split('-')[0]}"


class _Compiled:
    """A compiled model, which threads may share: each has a request of its own."""

    def __init__(self, file: Path, device: str) -> None:
        import openvino as ov

        self._own = threading.local()
        core = ov.Core()
        name = "GPU" if device == "xpu" and "GPU" in core.available_devices else "CPU"
        # The CPU would otherwise compute in bfloat16 where it can, a hundred times less exactly.
        own = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        try:
            self.model = core.compile_model(str(file), name, own if name == "CPU" else {})
        except Exception as error:
            raise CheckpointError(f"'{file}' cannot be opened by OpenVINO: {str(error).splitlines()[0]}") from error

    def __call__(self, images: NDArray[Any], outputs: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        if not hasattr(self._own, "request"):
            self._own.request = self.model.create_infer_request()
        request = self._own.request
        request.infer({INPUT: images}, share_inputs=True)
        return {name: request.get_tensor(name).data.copy() for name in outputs}


def keep_dimensions(file: Path) -> None:
    """Rewrites every reduction of an ONNX file so that it keeps the dimension, which is taken away afterwards.

    OpenVINO 2026.4 joins a reduction that drops its dimension with a multiplication by channel behind it, and gives
    every picture of a batch but the first a wrong answer.
    """
    import onnx
    from onnx import helper

    model = onnx.load(str(file))
    nodes = []
    for number, node in enumerate(model.graph.node):
        nodes.append(node)
        kept = next((each for each in node.attribute if each.name == "keepdims"), None)
        if not node.op_type.startswith("Reduce") or len(node.input) < 2 or kept is None or kept.i:
            continue
        kept.i, out = 1, node.output[0]
        node.output[0] = f"{out}_kept"
        nodes.append(helper.make_node("Squeeze", [node.output[0], node.input[1]], [out], name=f"squeeze_{number}"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, str(file))


def _quantized(model: Any, blueprint: Blueprint) -> Any:
    """The model with 8-bit convolutions, by the ranges that it shows on the calibration pictures."""
    if blueprint.pictures is None:
        raise ConfigError("INT8 needs pictures to calibrate with; give --calibrate DATA")
    os.environ.setdefault("NNCF_CI", "1")  # nncf otherwise sends word of its use over the network
    import nncf

    given = [{INPUT: picture} for picture in blueprint.pictures()]
    with quiet(), redirect_stdout(sys.stderr):  # its bars; standard output is the command's own
        return nncf.quantize(model, nncf.Dataset(given), subset_size=len(given), preset=nncf.QuantizationPreset.MIXED)
