# SPDX-License-Identifier: Apache-2.0
"""The counting task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Labels, Task
from unified.contracts.structures import Annotations, Batch, LossTerm, Prediction, Vocabulary

from .answer import Counts, DensityOutput
from .metric import CountMetric
from .target import counted, density


class CountTask(Task):
    """How many objects of each class an image shows.

    Args:
        name: the task's name.
        vocabulary: its ``boxes`` are the classes.
        spread: width of an object's bell as a share of its box.
        count_weight: of the loss of the sum, beside that of the map.

    Raises:
        ConfigError: no classes, or a number out of its range.
    """

    protocol: ClassVar[int] = 1
    labels: ClassVar[Labels] = "boxes"
    default_head: ClassVar[str] = "density"
    primary: ClassVar[str] = "MAE"
    scores: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "MAE": "mean absolute error of an image's number of objects",
            "RMSE": "root of the mean squared error of that number; a few large errors count more",
            "MAE_class": "mean absolute error of the number of one class in an image",
        }
    )
    lower: ClassVar[frozenset[str]] = frozenset({"MAE", "RMSE", "MAE_class"})

    def __init__(self, name: str, vocabulary: Vocabulary, *, spread: float = 0.2, count_weight: float = 0.5) -> None:
        super().__init__()
        if not vocabulary.boxes:
            raise ConfigError(f"task '{name}': no dataset of this run has boxes, so there is nothing to count")
        if spread <= 0 or count_weight < 0:
            raise ConfigError(f"task '{name}': spread must be above 0 and count_weight 0 or more")
        self.name = name
        self.vocabulary = vocabulary
        self.outputs = len(vocabulary.boxes)
        self.spread, self.count_weight = spread, count_weight

    def loss(self, output: DensityOutput, batch: Batch) -> Mapping[str, LossTerm]:
        """``map``: of the cells, ``count``: of their sum; each summed over the known (image, class) pairs."""
        maps = output.density.float()
        target, counts, known = (t.to(maps.device) for t in self._targets(batch, maps.shape[-2:], output.stride))
        number = known.sum()
        cells = deviance(maps, target).sum(dim=(2, 3))  # (B, K)
        sums = deviance(output.counts, counts)
        return {
            "map": LossTerm((cells * known).sum(), number),
            "count": LossTerm((sums * known).sum(), number, weight=self.count_weight),
        }

    def _targets(self, batch: Batch, shape: Sequence[int], stride: int) -> tuple[Tensor, Tensor, Tensor]:
        """Densities (B, K, H, W), counts (B, K) and which are known (B, K)."""
        size = (int(shape[0]), int(shape[1]))
        maps = [density(a, self.outputs, size, stride, self.spread) for a in batch.annotations]
        counts, known = zip(*(counted(a, self.name, self.outputs) for a in batch.annotations), strict=True)
        return torch.stack(maps), torch.stack(counts), torch.stack(known)

    def predict(self, output: DensityOutput, predictions: Sequence[Prediction], **options: Any) -> list[Prediction]:
        """Adds :class:`Counts` under the task's name."""
        cell = (float(output.stride), float(output.stride))
        told = zip(predictions, output.counts.detach(), output.density.detach(), strict=True)
        return [
            replace(
                p, extras={**p.extras, self.name: Counts(counts, self.vocabulary.boxes, maps.sum(dim=0), cell=cell)}
            )
            for p, counts, maps in told
        ]

    def metric(self) -> CountMetric:
        return CountMetric(self.name, self.vocabulary.boxes)

    def truth(self, annotations: Annotations) -> Counts | None:
        counts, known = counted(annotations, self.name, self.outputs)
        return Counts(counts * known, self.vocabulary.boxes) if known.any() else None


def deviance(said: Tensor, true: Tensor) -> Tensor:
    """Of a Poisson distribution, element by element: 2 (t log(t / s) - t + s); zero where they are equal.

    Counts of rare things are mostly zero; an absolute error would have them called zero always, this has not.
    """
    said = said + 1e-6
    return 2 * (torch.xlogy(true, true) - true * said.log() - true + said)
