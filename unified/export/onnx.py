# SPDX-License-Identifier: Apache-2.0
"""ONNX, by torch's dynamo exporter; run by onnxruntime."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from numpy.typing import NDArray

from unified.contracts.errors import CheckpointError, needs
from unified.contracts.exporting import INPUT, Blueprint, Exporter, Runner
from unified.export import suppression
from unified.export.tracing import quiet, traced

OPSET: Final = 20
KEY: Final = "unified"  # of the description among the file's properties


class OnnxExporter(Exporter):
    """One ``model.onnx`` that carries its description inside: batch, height and width are free, outputs are named."""

    suffix: ClassVar[str] = ".onnx"
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    suppresses: ClassVar[bool] = True

    def check(self, precision: str) -> None:
        if not find_spec("onnxruntime"):
            raise needs("running an ONNX file", "onnxruntime", "onnx")

    def write(self, blueprint: Blueprint, file: Path) -> None:
        """Raises ConfigError where onnx and onnxscript are not installed."""
        for package in ("onnx", "onnxscript"):
            if not find_spec(package):
                raise needs("writing ONNX", package, "onnx")
        program = traced(blueprint)
        with quiet():
            made: Any = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(blueprint.outputs),
                custom_translation_table={torch.ops.unified.unrepeated.default: _unrepeated()},
                verbose=False,
            )
        _tidy(made.model)
        made.model.metadata_props[KEY] = blueprint.about
        made.model.producer_name, made.model.producer_version = "unified", version("unified-networks")
        made.save(file)

    def open(self, file: Path, outputs: Sequence[str], device: str) -> Runner:
        return _Session(file, device)

    def runtime(self) -> str:
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def about(self, file: Path) -> str | None:
        """Raises ConfigError where onnxruntime is not installed, CheckpointError where the file cannot be read."""
        self.check("fp32")
        said = _Session(file, "cpu").session.get_modelmeta().custom_metadata_map.get(KEY)
        return None if said is None else str(said)


class _Session:
    """A session of onnxruntime, which threads may share."""

    def __init__(self, file: Path, device: str) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        wanted = {"cuda": "CUDAExecutionProvider", "mps": "CoreMLExecutionProvider"}.get(device)
        here = ort.get_available_providers()
        providers = [name for name in (wanted, "CPUExecutionProvider") if name in here]
        try:
            self.session = ort.InferenceSession(str(file), options, providers=providers)
        except Exception as error:
            raise CheckpointError(f"'{file}' cannot be opened by onnxruntime: {str(error).splitlines()[0]}") from error

    def __call__(self, images: NDArray[Any], outputs: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        return dict(zip(outputs, self.session.run(list(outputs), {INPUT: images}), strict=True))


def _unrepeated() -> Any:
    """:func:`unified.export.suppression.unrepeated` in ONNX, whose own operator takes a whole batch."""
    import onnxscript

    op: Any = onnxscript.opset20
    assert suppression.unrepeated is not None  # registers the operator

    def unrepeated(boxes: Any, scores: Any, iou: float) -> Any:
        most, each = op.Shape(scores, start=1, end=2), op.Unsqueeze(scores, op.Constant(value_ints=[1]))
        limits = op.Constant(value_float=iou), op.Constant(value_float=-0.5)
        found = op.NonMaxSuppression(boxes, each, most, *limits)  # (S, 3): image, class, row
        where = op.Gather(found, op.Constant(value_ints=[0, 2]), axis=1)
        none = op.Expand(op.Constant(value_float=0.0), op.Shape(scores))
        kept = op.Expand(op.Constant(value_float=1.0), op.Shape(where, start=0, end=1))
        return op.Cast(op.ScatterND(none, where, kept), to=9)  # 9: bool

    return unrepeated


def _tidy(model: Any) -> None:
    """Calls the free sides of inputs and outputs batch, rows and columns instead of s34 and s77.

    ``model`` is an ``onnx_ir.Model``. What tracing notes at every node, with this machine's paths, is left out.
    """
    sides = [str(dim) for dim in model.graph.inputs[0].shape]
    symbols = [re.findall(r"s\d+", sides[i]) for i in (0, 2, 3)]
    names = {found[0]: name for found, name in zip(symbols, ("batch", "rows", "columns"), strict=True) if found}
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = type(value.shape)(
            [dim if isinstance(dim, int) else _renamed(str(dim), names) for dim in value.shape]
        )
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    for value in model.graph.initializers.values():
        value.metadata_props.clear()


def _renamed(text: str, names: Mapping[str, str]) -> str:
    return re.sub(r"s\d+", lambda found: names.get(found[0], found[0]), text)
