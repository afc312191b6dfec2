# SPDX-License-Identifier: Apache-2.0
"""What tasks are given to predict from, and whether a prediction is what it must be."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from unified.contracts.protocols import Task
from unified.contracts.structures import Batch, Prediction
from unified.testing.contract import must

_FIELDS = {each.name for each in fields(Prediction)}


def check_prediction(task: Task, before: Prediction, after: Prediction) -> None:
    """Whether a task added what it provides to a prediction, and nothing else."""
    own = set(task.provides) & _FIELDS
    for name in _FIELDS - {"extras", *own}:
        allowed = (name.endswith("names") and bool(own)) or _goes_with(name, own)
        same = allowed or _same(getattr(before, name), getattr(after, name))
        must(same, f"predict() changes '{name}', which it does not provide")
    missing = sorted(name for name in own if getattr(after, name) is None)
    if before.boxes_xyxy is not None or not set(task.uses) & {"boxes_xyxy"}:
        must(not missing, f"predict() leaves {', '.join(missing)} empty, which it provides")
        must(bool(own) or task.name in after.extras, "predict() adds nothing; put what it says in extras[self.name]")
    strange = set(after.extras) - set(before.extras) - {task.name}
    must(not strange, f"predict() writes extras {', '.join(sorted(strange))}; expected extras[self.name] alone")


def _same(was: Any, now: Any) -> bool:
    if isinstance(was, Tensor) and isinstance(now, Tensor):
        return torch.equal(was, now)
    return was is now or (not isinstance(was, Tensor) and not isinstance(now, Tensor) and bool(was == now))


def _goes_with(name: str, own: set[str]) -> bool:
    """Columns of boxes belong to whoever finds boxes."""
    return "boxes_xyxy" in own and name in ("scores", "labels")


def seen(batch: Batch) -> list[Prediction]:
    """The true boxes, as another task would have found them."""
    names = tuple(f"class {i}" for i in range(100))
    return [
        Prediction(
            size=size_of(batch),
            boxes_xyxy=known.boxes_xyxy,
            scores=torch.linspace(0.9, 0.5, max(len(known), 1))[: len(known)],
            labels=known.box_labels,
            box_names=names,
        )
        for known in batch.annotations
    ]


def nothing_seen(batch: Batch) -> list[Prediction]:
    """A look that found no box."""
    none = torch.zeros(0)
    blank = Prediction(size_of(batch), none.reshape(0, 4), none, none.long(), ("class 0",))
    return [replace(blank) for _ in batch.annotations]


def size_of(batch: Batch) -> tuple[int, int]:
    """(height, width) of the input in pixels."""
    return int(batch.images.shape[-2]), int(batch.images.shape[-1])


def many(found: Any) -> str:
    """What a task's ``predict`` gave, in words."""
    return f"{len(found)} predictions" if isinstance(found, list) else f"a {type(found).__name__}"
