# SPDX-License-Identifier: Apache-2.0
"""COCO's panoptic pictures: a pixel's colour is the number of its segment, R + 256 G + 65536 B."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unified.contracts.errors import DataError
from unified.data.picture import read_picture


@dataclass(frozen=True)
class PanopticMap:
    """Reads one of them when it is called."""

    file: str
    root: Path
    ids: tuple[int, ...]  # (S,) drawn numbers
    size: tuple[int, int]  # (height, width) of the photograph

    def __call__(self) -> Tensor:
        """(H, W) int32 positions in ``ids``, -1 elsewhere.

        Raises:
            DataError: the picture is missing, damaged or of another size than the photograph.
        """
        colours = read_picture(self.file, self.root).to(torch.int32)
        if tuple(colours.shape[1:]) != self.size:
            raise DataError(f"panoptic picture {self.root / self.file} is not of the photograph's size {self.size}")
        numbers = (colours[0] + 256 * colours[1] + 65536 * colours[2]).numpy()
        order = np.argsort(self.ids).astype(np.int32)
        ids = np.array(self.ids, dtype=np.int32)[order]
        if not len(ids):
            return torch.full(self.size, -1, dtype=torch.int32)
        place = np.searchsorted(ids, numbers).clip(max=len(ids) - 1)
        return torch.from_numpy(np.where(ids[place] == numbers, order[place], np.int32(-1)))
