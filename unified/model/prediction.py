# SPDX-License-Identifier: Apache-2.0
"""From the heads' outputs to what the network says of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unified.contracts.protocols import Task
from unified.contracts.structures import Prediction


def in_order(tasks: Mapping[str, Task]) -> list[str]:
    """Task names ordered so that a task follows those that fill the fields it uses."""
    waiting, order = dict(tasks), list[str]()
    while waiting:
        ready = [name for name, task in waiting.items() if not _blocked(task, waiting)] or list(waiting)
        order += ready
        waiting = {name: task for name, task in waiting.items() if name not in ready}
    return order


def _blocked(task: Task, waiting: Mapping[str, Task]) -> bool:
    return any(set(task.uses) & set(other.provides) for other in waiting.values() if other is not task)


def predict_all(
    tasks: Mapping[str, Task],
    outputs: Mapping[str, Any],
    size: tuple[int, int],
    images: int,
    given: Sequence[Prediction] = (),
    **options: Any,
) -> list[Prediction]:
    """Every answered task's part of every image's prediction, in input pixels.

    Args:
        tasks: by name, at least those in ``outputs``.
        outputs: the network's answers by task name.
        size: (height, width) of the network's input in pixels.
        images: number of images B.
        given: what is known of each image beforehand, in input pixels, such as boxes to be embedded; B, or none.
        options: passed on to every task's ``predict``, such as ``confidence``.
    """
    predictions = list(given) or [Prediction(size=size) for _ in range(images)]
    for name in in_order({name: tasks[name] for name in outputs}):
        predictions = tasks[name].predict(outputs[name], predictions, **options)
    return predictions
