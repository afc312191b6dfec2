# SPDX-License-Identifier: Apache-2.0
"""Masks as COCO's run lengths, drawn when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask


@dataclass(frozen=True)
class Rle:
    """A run-length mask of an image of ``size`` (height, width)."""

    size: tuple[int, int]
    counts: bytes  # compressed

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Rle:
        """From COCO's own record."""
        height, width = record["size"]
        return cls((int(height), int(width)), record["counts"])

    def __call__(self) -> NDArray[np.bool_]:
        """(H, W)."""
        return np.asarray(coco_mask.decode({"size": list(self.size), "counts": self.counts}), dtype=np.bool_)
