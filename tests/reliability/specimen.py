# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of which every number is known, so that any other is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from unified.checkpoint import Checkpoint

PARTS = ("ema", "model", "optimizer")


def specimen(step: int, numbers: int = 1024) -> Checkpoint:
    """A checkpoint of a step, with ``numbers`` numbers in each of its parts, all made from the step."""
    tensors = {
        part: {
            "weight": torch.from_numpy(np.full((numbers // 32, 32), step + k / 8, dtype=np.float32)),
            "place": torch.from_numpy(np.arange(16, dtype=np.int64) * step),
        }
        for k, part in enumerate(PARTS)
    }
    return Checkpoint(tensors, {"step": step, "progress": {"step": step, "best": step / 4}, "words": ["a", "ö"] * 20})


def same(found: Checkpoint, step: int, numbers: int = 1024, parts: tuple[str, ...] = PARTS) -> bool:
    """Whether a checkpoint is, to the last bit, the specimen of a step."""
    meant = specimen(step, numbers)
    if dict(found.state) != dict(meant.state) or set(found.tensors) != set(parts):
        return False
    return all(_equal(found.tensors[part], meant.tensors[part]) for part in parts)


def _equal(found: Any, meant: Any) -> bool:
    return found.keys() == meant.keys() and all(
        found[name].dtype == meant[name].dtype and torch.equal(found[name], meant[name]) for name in meant
    )
