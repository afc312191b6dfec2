# SPDX-License-Identifier: Apache-2.0
"""What an evaluation found, told to every rank in the same bits."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from unified.contracts.protocols import Task


def told_scores(metrics: Mapping[str, float], tasks: Mapping[str, Task], accelerator: Accelerator) -> dict[str, float]:
    """The scores of the first rank's evaluation: by task/score all of them, and by task how good its primary one is.

    Args:
        metrics: by task/score, on the first rank; others know none.
    """
    keys = {name: f"{name}/{task.primary}" for name, task in tasks.items()}
    primary = {name: tasks[name].goodness(metrics[key]) for name, key in keys.items() if key in metrics}
    scores = {**metrics, **primary}
    if accelerator.num_processes == 1:
        return scores
    raw = json.dumps(scores).encode()
    length = broadcast(torch.tensor([len(raw)], device=accelerator.device), from_process=0)
    room = torch.zeros(int(length), dtype=torch.uint8, device=accelerator.device)  # type: ignore[arg-type]
    if accelerator.is_main_process:
        room.copy_(torch.frombuffer(bytearray(raw), dtype=torch.uint8))
    found: dict[str, float] = json.loads(bytes(broadcast(room, from_process=0).tolist()))  # type: ignore[union-attr]
    return found
