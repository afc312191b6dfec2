# SPDX-License-Identifier: Apache-2.0
"""How far directions are off (Tulsiani and Malik 2015, Viewpoints and Keypoints, section 5), at the true boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from unified.contracts.protocols import Curve
from unified.contracts.structures import Annotations, Batch, Prediction

from .answer import HeadingOutput

ENOUGH = 30.0  # degrees


class HeadingMetric:
    """Acc30 and MedErr.

    Args:
        known: boxes (N, 4) and unit vectors (N, 2) of an image's objects whose direction is known.
    """

    def __init__(self, known: Callable[[Annotations], tuple[Tensor, Tensor]]) -> None:
        self.known = known
        self._off: list[Tensor] = []  # degrees

    def update(self, output: HeadingOutput, predictions: Sequence[Prediction], batch: Batch) -> None:
        told = [self.known(each) for each in batch.annotations]
        said = output.at([boxes for boxes, _ in told]).cpu()
        cosine = (said * torch.cat([vectors for _, vectors in told])).sum(dim=1)
        self._off.append(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))))

    def evidence(self) -> dict[str, Tensor]:
        """What was gathered, so that several ranks may share the evaluation."""
        return {"off": torch.cat(self._off) if self._off else torch.zeros(0)}

    def extend(self, evidence: Mapping[str, Tensor]) -> None:
        """Adds what another rank gathered."""
        self._off.append(evidence["off"])

    def compute(self) -> dict[str, float]:
        off = torch.cat(self._off) if self._off else torch.zeros(0)
        if not len(off):
            return {}
        return {"Acc30": float((off < ENOUGH).float().mean()), "MedErr": float(off.median())}

    def curves(self) -> dict[str, list[Curve]]:
        """The share of boxes within each error."""
        off = torch.cat(self._off) if self._off else torch.zeros(0)
        if not len(off):
            return {}
        x = torch.linspace(0, 180, 61)
        y = (off[:, None] <= x).float().mean(dim=0)
        return {"error": [Curve(x.tolist(), y.tolist(), "boxes", "error, degrees", "share within")]}
