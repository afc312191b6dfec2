# SPDX-License-Identifier: Apache-2.0
"""What a format costs in scores: the network and its file on the same validation pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import torch

from unified.contracts.structures import Batch
from unified.export.calibration import loader, open_split
from unified.hardware import Hardware
from unified.trained import Trained
from unified.training.evaluator import evaluate


@dataclass(frozen=True)
class Watch:
    """Hears how long work goes on."""

    begin: Callable[[int], None]  # with the number of batches
    done: Callable[[int], None]  # with so many more


UNWATCHED: Final = Watch(lambda total: None, lambda more: None)


@dataclass(frozen=True)
class Score:
    """One task's primary score."""

    name: str  # such as det/AP
    before: float  # of the network
    after: float  # of the file
    drop: float  # above 0 where it got worse
    images: int


def scores(
    trained: Trained, opened: Trained, data: str, size: int, limit: int, watch: Watch = UNWATCHED
) -> tuple[Score, ...]:
    """The primary score of every task, of the network in FP32 and of the file, on validation pictures.

    Args:
        trained: the network.
        opened: its file.
        data: as of :func:`unified.export.calibration.open_split`.
        size: pixels: side of the input.
        limit: at most so many pictures of each dataset.
        watch: hears of batches.
    """
    mixture = open_split(trained, data, "val", size)
    cpu = Hardware(torch.device("cpu"), "fp32")
    loaders = [loader(trained, mixture, 16, limit) for _ in range(2)]
    watch.begin(sum(map(len, loaders)))
    both = [
        evaluate(each.network, each.tasks, _heard(batches, watch), cpu, show=0)
        for each, batches in zip((trained, opened), loaders, strict=True)
    ]
    found = []
    for name, task in trained.tasks.items():
        key = f"{name}/{task.primary}"
        if key in both[0].metrics and key in both[1].metrics:
            before, after = (each.metrics[key] for each in both)
            drop = task.goodness(before) - task.goodness(after)
            found.append(Score(key, before, after, drop, both[0].images))
    return tuple(found)


def _heard(batches: Iterable[Batch], watch: Watch) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        watch.done(1)
