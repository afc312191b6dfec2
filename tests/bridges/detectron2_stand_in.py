# SPDX-License-Identifier: Apache-2.0
"""The part of detectron2 that the bridge touches, by its documentation; for machines that do not have the package.

It is as strict as the original where a bridge could go wrong: fields of unequal length, boxes that are scaled in place,
metadata that changes, names that are registered twice.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor


class CfgNode(dict[str, Any]):
    """A dictionary whose keys are attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


def get_cfg() -> CfgNode:
    """The defaults that matter here."""
    cfg = CfgNode(MODEL=CfgNode(), INPUT=CfgNode(), DATASETS=CfgNode())
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "GeneralizedRCNN", "cuda"
    cfg.INPUT.FORMAT, cfg.DATASETS.TRAIN = "BGR", ()
    return cfg


class Registry:
    """Classes by their own name."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}

    def register(self) -> Callable[[Any], Any]:
        def add(made: Any) -> Any:
            assert made.__name__ not in self.known
            self.known[made.__name__] = made
            return made

        return add

    def get(self, name: str) -> Any:
        return self.known[name]


class Boxes:
    """Boxes (N, 4) xyxy; ``scale`` and ``clip`` change them where they are."""

    def __init__(self, tensor: Tensor) -> None:
        assert tensor.dim() == 2
        assert tensor.size(-1) == 4
        self.tensor = tensor.to(torch.float32)

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, item: Tensor) -> Boxes:
        return Boxes(self.tensor[item])

    def scale(self, x: float, y: float) -> None:
        self.tensor[:, 0::2] *= x
        self.tensor[:, 1::2] *= y

    def clip(self, size: tuple[int, int]) -> None:
        height, width = size
        self.tensor[:, 0::2].clamp_(0, width)
        self.tensor[:, 1::2].clamp_(0, height)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        sides = self.tensor[:, 2:] - self.tensor[:, :2]
        return (sides > threshold).all(1)


class Instances:
    """Fields of one length."""

    def __init__(self, image_size: tuple[int, int], **fields: Any) -> None:
        self._image_size, self._fields = image_size, {}  # type: ignore[var-annotated]
        for name, value in fields.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
            return
        assert not self._fields or len(value) == len(self), f"{name}: {len(value)} for {len(self)} instances"
        self._fields[name] = value

    def __getattr__(self, name: str) -> Any:
        if name == "_fields" or name not in self._fields:
            raise AttributeError(name)
        return self._fields[name]

    @property
    def image_size(self) -> tuple[int, int]:
        return self._image_size

    def has(self, name: str) -> bool:
        return name in self._fields

    def get_fields(self) -> dict[str, Any]:
        return self._fields

    def __getitem__(self, item: Tensor) -> Instances:
        return Instances(self._image_size, **{name: value[item] for name, value in self._fields.items()})

    def __len__(self) -> int:
        return len(next(iter(self._fields.values())))


class Catalog(dict[str, Any]):
    """Functions that give datasets, by name."""

    def register(self, name: str, func: Callable[[], Any]) -> None:
        assert name not in self
        self[name] = func

    def get(self, name: str) -> Any:  # type: ignore[override]
        return self[name]()

    def remove(self, name: str) -> None:
        self.pop(name)


class Metadata(SimpleNamespace):
    """What is known of a dataset."""

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key, default)


class MetadataStore(dict[str, Metadata]):
    """Metadata by name, made when first asked for."""

    def get(self, name: str) -> Metadata:  # type: ignore[override]
        return self.setdefault(name, Metadata(name=name))

    def remove(self, name: str) -> None:
        self.pop(name)


def detector_postprocess(results: Instances, output_height: int, output_width: int) -> Instances:
    """The instances in pixels of another size; their boxes are changed in place."""
    high, wide = output_height / results.image_size[0], output_width / results.image_size[1]
    made = Instances((output_height, output_width), **results.get_fields())
    made.pred_boxes.scale(wide, high)
    made.pred_boxes.clip(made.image_size)
    return made[made.pred_boxes.nonempty()]


def stand_in(patch: pytest.MonkeyPatch) -> None:
    """Lets ``import detectron2`` find this."""
    registry = Registry()

    def build_model(cfg: CfgNode) -> Any:
        return registry.get(cfg.MODEL.META_ARCHITECTURE)(cfg).to(torch.device(cfg.MODEL.DEVICE))

    parts: dict[str, dict[str, Any]] = {
        "": {},
        ".config": {"CfgNode": CfgNode, "get_cfg": get_cfg},
        ".data": {"DatasetCatalog": Catalog(), "MetadataCatalog": MetadataStore()},
        ".structures": {"Boxes": Boxes, "Instances": Instances},
        ".modeling": {
            "META_ARCH_REGISTRY": registry,
            "build_model": build_model,
            "detector_postprocess": detector_postprocess,
        },
    }
    for name, words in parts.items():
        module = ModuleType(f"detectron2{name}")
        vars(module).update(words)
        patch.setitem(sys.modules, f"detectron2{name}", module)
