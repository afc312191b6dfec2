# SPDX-License-Identifier: Apache-2.0
"""From the heads' outputs to what the network says of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from unified.contracts.joining import joined
from unified.contracts.protocols import Task
from unified.contracts.structures import Frame, Prediction


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
    frames: Sequence[Frame] = (),
    **options: Any,
) -> list[Prediction]:
    """Every answered task's part of every image's prediction, in input pixels.

    Where two tasks say the same kind of thing, their boxes and their tags stand together, see
    :func:`unified.contracts.joining.joined`.

    Args:
        tasks: by name, at least those in ``outputs``.
        outputs: the network's answers by task name.
        size: (height, width) of the network's input in pixels.
        images: number of images B.
        given: what is known of each image beforehand, in input pixels, such as boxes to be embedded; B, or none.
        frames: how each image was fitted to the input; B, or none. Boxes are then clipped to the image before other
            tasks use them: what is said of a box is what is said of it when it is given as it was told.
        options: passed on to every task's ``predict``, such as ``confidence``.
    """
    predictions, said = list(given) or [Prediction(size=size) for _ in range(images)], set[str]()
    for name in in_order({name: tasks[name] for name in outputs}):
        task = tasks[name]
        found = task.predict(outputs[name], predictions, **options)
        twice = said.intersection(task.provides)
        predictions = [joined(p, q, twice) for p, q in zip(predictions, found, strict=True)] if twice else found
        said.update(task.provides)
        if frames and "boxes_xyxy" in task.provides:
            predictions = [_clipped(p, frame) for p, frame in zip(predictions, frames, strict=True)]
    return predictions


def _clipped(prediction: Prediction, frame: Frame) -> Prediction:
    """With boxes that end where the image does, not on the border that fills it up to the input."""
    boxes = prediction.boxes_xyxy
    return prediction if boxes is None else replace(prediction, boxes_xyxy=frame.to_input(frame.to_original(boxes)))
