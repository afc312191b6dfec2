# SPDX-License-Identifier: Apache-2.0
"""A batch packed flat for its trip between processes: one image tensor and a handful of arrays.

Sent as it is, a batch of 64 images carries some five hundred small tensors, each through a file descriptor of its own.
Legend: B images, N boxes of an image, M boxes of the batch, K classes of a task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unified.contracts.structures import Annotations, Batch, Frame, Sample
from unified.data.spoilage import Spoiled

COLUMNS: Final = ("boxes_xyxy", "box_labels", "box_states", "box_identities", "box_areas", "box_crowd")


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """What :func:`pack` makes of samples and :meth:`unpack` turns into a :class:`Batch`."""

    images: Tensor  # (B, 3, S, S) uint8
    columns: Mapping[str, NDArray[Any]]  # each (M, ...)
    counts: tuple[int, ...]  # B
    identities: tuple[int, ...]  # B
    states: Mapping[str, NDArray[np.int8]]  # task -> (B, K)
    extras: tuple[Mapping[str, Any], ...]  # B
    frames: tuple[Frame, ...]  # B
    dataset: str
    tasks: tuple[str, ...]
    spoiled: tuple[Spoiled, ...] = ()  # unreadable pictures met on the way
    seconds: float = 0.0  # of one processor, to make it

    def pin_memory(self) -> PackedBatch:
        """The same batch with its images in page-locked memory, from where they reach a GPU without a copy."""
        return replace(self, images=self.images.pin_memory())

    def unpack(self) -> Batch:
        """The batch as the trainer and the tasks know it."""
        columns = {
            name: torch.split(torch.from_numpy(column), list(self.counts)) for name, column in self.columns.items()
        }
        states = {task: torch.from_numpy(table).unbind(0) for task, table in self.states.items()}
        annotations = tuple(
            Annotations(
                **{name: parts[k] for name, parts in columns.items()},
                identity=self.identities[k],
                states={task: rows[k] for task, rows in states.items()},
                extras=self.extras[k],
            )
            for k in range(len(self.counts))
        )
        return Batch(self.images, annotations, self.frames, self.dataset, self.tasks)


def pack(samples: Sequence[Sample], dataset: str, tasks: tuple[str, ...]) -> PackedBatch:
    """Samples of one dataset as a packed batch. All must be of one size and know the same tasks."""
    if not samples:
        return PackedBatch(torch.zeros(0, 3, 0, 0, dtype=torch.uint8), {}, (), (), {}, (), (), dataset, tasks)
    found = [sample.annotations for sample in samples]
    columns = {name: torch.cat([getattr(each, name) for each in found]).numpy() for name in COLUMNS}
    states = {task: torch.stack([each.states[task] for each in found]).numpy() for task in found[0].states}
    return PackedBatch(
        images=torch.stack([sample.image for sample in samples]),
        columns=columns,
        counts=tuple(len(each) for each in found),
        identities=tuple(each.identity for each in found),
        states=states,
        extras=tuple(each.extras for each in found),
        frames=tuple(sample.frame for sample in samples),
        dataset=dataset,
        tasks=tasks,
    )
