# SPDX-License-Identifier: Apache-2.0
"""An evaluation by several ranks: each answers for a share of the images, the first one scores all of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from unified.contracts.protocols import Task
from unified.contracts.scoring import metric_of, shareable
from unified.contracts.structures import Batch
from unified.hardware import Hardware
from unified.model.network import UnifiedNetwork
from unified.tensors import pieces, unpacked
from unified.training.evaluator import Evaluation, measure, summed_up
from unified.training.ranks import Ranks
from unified.training.snapshot import put_together, taken_apart

Testimony = list[dict[str, Mapping[str, Any]]]
"""What the metrics of the tasks gathered of each batch, by task."""


def together(tasks: Mapping[str, Task], ranks: Ranks) -> bool:
    """Whether several ranks evaluate: there are some, and the evidence of every metric can be sent."""
    return ranks.count > 1 and all(shareable(metric_of(task)) for task in tasks.values())


def alike(network: nn.Module, ranks: Ranks) -> None:
    """Has all ranks evaluate one network: weights are alike, running statistics are those of the first rank."""
    ranks.follow(network.buffers())


@torch.inference_mode()
def heard(
    network: UnifiedNetwork,
    tasks: Mapping[str, Task],
    batches: Iterable[Batch],
    hardware: Hardware,
    show: int = 64,
    total: int = 0,
) -> tuple[Evaluation, Testimony]:
    """Runs this rank's batches: images to be shown, and the evidence of every batch on its own, so that all of it can
    be put together in the order of the batches. ``total`` counts this rank's images.
    """
    start, result, told = time.monotonic(), Evaluation(), Testimony()
    training = network.training
    network.eval()
    for batch in batches:
        result.parts = {name: metric_of(task) for name, task in tasks.items()}
        shown = 0 if total and result.images >= total else show
        measure(network, tasks, batch, hardware, result, shown, max(1, total // max(show, 1)))
        told.append({name: _evidence(result.parts[name]) for name in tasks if name in batch.tasks})
    network.train(training)
    result.seconds = time.monotonic() - start
    return result, told


def _evidence(metric: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = metric.evidence()
    return found


def verdict(own: Evaluation, told: Testimony, tasks: Mapping[str, Task], ranks: Ranks) -> Evaluation:
    """The evaluation of all ranks, on the first one; its own part on the others. Every rank must call it."""
    start = time.monotonic()
    said = ranks.blobs(_packed({"images": own.images, "batches": told}))
    if not ranks.main:
        return Evaluation(images=own.images, seconds=own.seconds)
    found = [_unpacked(data) for data in said]
    own.images = sum(each["images"] for each in found)
    metrics = {name: metric_of(task) for name, task in tasks.items()}
    for evidence in _in_turn([each["batches"] for each in found]):
        for name, part in evidence.items():
            extend: Any = metrics[name]
            extend.extend(part)
    own.parts = metrics
    own.seconds += time.monotonic() - start
    return summed_up(own)


def _in_turn(told: Sequence[Testimony]) -> Iterator[Mapping[str, Mapping[str, Any]]]:
    """The batches of all ranks in their own order: rank 0 had the first, rank 1 the second ..."""
    for k in range(max(map(len, told))):
        yield from (batches[k] for batches in told if k < len(batches))


def _packed(told: Mapping[str, Any]) -> bytes:
    """Plain data and tensors as bytes, without a pickle."""
    plain, tensors = taken_apart(told, "told")
    text = json.dumps(plain).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(map(bytes, pieces(tensors)))


def _unpacked(data: bytes) -> Any:
    end = 8 + int.from_bytes(data[:8], "little")
    return put_together(json.loads(data[8:end]), unpacked(data[end:]))
