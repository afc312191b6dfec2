# SPDX-License-Identifier: Apache-2.0
"""What a format costs in scores: the network and its file on the same validation pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from unified.export.calibration import loader, open_split
from unified.hardware import Hardware
from unified.trained import Trained
from unified.training.evaluator import evaluate


@dataclass(frozen=True)
class Score:
    """One task's primary score."""

    name: str  # such as det/AP
    before: float  # of the network
    after: float  # of the file
    drop: float  # above 0 where it got worse
    images: int


def scores(trained: Trained, opened: Trained, data: str, size: int, limit: int) -> tuple[Score, ...]:
    """The primary score of every task, of the network in FP32 and of the file, on validation pictures.

    Args:
        trained: the network.
        opened: its file.
        data: as of :func:`unified.export.calibration.open_split`.
        size: pixels: side of the input.
        limit: at most so many pictures of each dataset.
    """
    mixture = open_split(trained, data, "val", size)
    cpu = Hardware(torch.device("cpu"), "fp32")
    both = [
        evaluate(each.network, each.tasks, loader(trained, mixture, 16, limit), cpu, show=0)
        for each in (trained, opened)
    ]
    found = []
    for name, task in trained.tasks.items():
        key = f"{name}/{task.primary}"
        if key in both[0].metrics and key in both[1].metrics:
            before, after = (each.metrics[key] for each in both)
            drop = task.goodness(before) - task.goodness(after)
            found.append(Score(key, before, after, drop, both[0].images))
    return tuple(found)
