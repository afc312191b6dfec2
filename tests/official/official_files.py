# SPDX-License-Identifier: Apache-2.0
"""Files in the official formats, with weights by the rule of the reference fixtures."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unified.official.darknet import as_floats
from unified.official.design import DESIGNS
from unified.official.layout import layout


def value(key: str, shape: tuple[int, ...], gain: float, mul: bool) -> Tensor:
    """A tensor by its name alone."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if key.endswith("implicit"):
        array = float(mul) + 0.5 * rng.standard_normal(shape)
    elif key.endswith(("BatchNorm2d.weight", "running_var")):
        array = rng.uniform(0.5, 1.5, shape)
    elif key.endswith(("BatchNorm2d.bias", "running_mean", "Conv2d.bias")):
        array = 0.1 * rng.standard_normal(shape)
    else:
        array = np.sqrt(gain / np.prod(shape[1:])) * rng.standard_normal(shape)
    return torch.from_numpy(np.asarray(array, dtype=np.float32))


def official_state(name: str, classes: int, gain: float = 2.0) -> dict[str, Tensor]:
    """The state dict of a design as its authors would save it."""
    return {
        key: value(key, shape, gain, section.kind == "mul")
        for section in layout(DESIGNS[name], classes)
        for key, shape in section.tensors()
    }


def state_by_keys(keys: Iterable[dict[str, Any]], gain: float) -> dict[str, Tensor]:
    """A state dict by a list of keys, as the fixtures give it."""
    return {k["key"]: value(k["key"], tuple(k["shape"]), gain, k.get("kind") == "implicit_mul") for k in keys}


def write_pt(path: Path, state: dict[str, Tensor], **others: Any) -> Path:
    """A main-branch file: the state dict beside what training leaves there."""
    beside = {"epoch": 449, "best_fitness": np.array([0.525]), "best_fitness_ap": np.float64(0.5), "optimizer": None}
    torch.save({**beside, "training_results": "", "wandb_id": None, "model": state, **others}, path)
    return path


def write_weights(path: Path, name: str, classes: int, state: dict[str, Tensor]) -> Path:
    """A DarkNet file of version 0.2.5."""
    path.write_bytes(struct.pack("<iiiq", 0, 2, 5, 0) + as_floats(state, layout(DESIGNS[name], classes)).tobytes())
    return path
