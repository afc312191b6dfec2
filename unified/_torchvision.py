# SPDX-License-Identifier: Apache-2.0
"""Lets torchvision be imported where its compiled operators cannot load.

The torchvision wheel of the common package index is a CUDA build. Beside a CPU-only torch its library cannot be opened,
``import torchvision`` ends in "operator torchvision::nms does not exist", and everything that imports torchvision falls
with it. Just before torchvision is first imported, this module checks whether the library loads; where it does, nothing
is changed. Where it does not, ``nms`` is defined in plain torch, which is all this project and timm need; boxes whose
coordinates are NaN are never kept, as in the compiled operator's CPU path.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

BLOCK = 256  # boxes whose overlaps are computed at once


def _iou(a: Any, b: Any) -> Any:
    """Pairwise IoU of boxes xyxy (N, 4) and (M, 4) as arrays: (N, M), NaN for a pair without area."""
    import numpy as np

    width = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    height = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    overlap = np.maximum(width, 0) * np.maximum(height, 0)
    areas = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (a, b)]
    with np.errstate(divide="ignore", invalid="ignore"):
        return overlap / (areas[0][:, None] + areas[1][None] - overlap)


def greedy_nms(boxes: Any, scores: Any, iou_threshold: float) -> Any:
    """Indices of the boxes kept by greedy non-maximum suppression, best score first.

    boxes: (N, 4) xyxy; scores: (N,); returns (M,) int64. The result equals torchvision's compiled operator.
    """
    import numpy as np
    import torch

    order = torch.argsort(scores, descending=True, stable=True)
    corners = boxes[order].detach().to("cpu", torch.float64 if boxes.dtype == torch.float64 else torch.float32).numpy()
    alive = np.ones(len(corners), dtype=bool)
    for start in range(0, len(corners), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(corners)))
        block = block[alive[block]]
        overlapped = _iou(corners[block], corners[start:]) > iou_threshold
        for row, i in enumerate(block):
            if alive[i]:
                alive[i + 1 :] &= ~overlapped[row, i + 1 - start :]
    return order[torch.from_numpy(np.flatnonzero(alive)).to(order.device)]


def compiled_operators_load(package: Path) -> bool:
    """Whether torchvision's compiled library can be opened; True also where there is none to judge by."""
    import torch  # noqa: F401  (its libraries must be in the process before torchvision's are opened)

    libraries = [*package.glob("_C*.so"), *package.glob("_C*.pyd"), *package.glob("_C*.dylib")]
    try:
        for library in libraries:
            ctypes.CDLL(str(library))
    except OSError:
        return False
    return bool(libraries)


def define_operators() -> None:
    """Registers ``torchvision::nms`` in plain torch."""
    import torch

    if hasattr(torch.ops.torchvision, "nms"):
        return
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", greedy_nms, "CompositeExplicitAutograd")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    define_operators.library = library  # type: ignore[attr-defined]  # the definitions live as long as this object


class _MendingLoader(importlib.abc.Loader):
    """Defines nms, runs the package's own loader, then tells its box operators that nms is there."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        define_operators()
        self._loader.exec_module(module)
        module.ops.boxes._assert_has_ops = lambda: None


class TorchvisionFinder(importlib.abc.MetaPathFinder):
    """Stands in front of the import of torchvision; whoever only asks whether it is there may ask often."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "torchvision":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.origin is None or compiled_operators_load(Path(spec.origin).parent):
            return spec
        spec.loader = _MendingLoader(spec.loader)
        return spec


def watch() -> None:
    """Arranges for torchvision to be mended when it is first imported; does nothing if it already is."""
    watching = any(isinstance(finder, TorchvisionFinder) for finder in sys.meta_path)
    if "torchvision" not in sys.modules and not watching:
        sys.meta_path.insert(0, TorchvisionFinder())
