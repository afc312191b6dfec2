# SPDX-License-Identifier: Apache-2.0
"""Evidence of several ranks put together: the scores of one process, for every metric of the project's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from unified.contracts.protocols import Metric, Task
from unified.contracts.scoring import Metrics, shareable
from unified.contracts.structures import Batch, Prediction, TagOutput, positive
from unified.data.loader import EvalLoader
from unified.model.build import assemble
from unified.training.evaluator import Evaluation, summed_up
from unified.training.jury import Testimony, verdict
from unified.training.run import open_splits

WORLD = 3
SHOWN = ("det/AP50", "cls/mAP", "emb/R@5")


@dataclass
class Said:
    """Vectors that show an identity, though not well."""

    image: Tensor
    vectors: list[Tensor]

    def box_vectors(self, boxes: list[Tensor]) -> list[Tensor]:
        return self.vectors


class Fellows:
    """One of several ranks that were heard one after the other."""

    def __init__(self, index: int, said: list[bytes]) -> None:
        self.index, self.count, self.main, self.said = index, WORLD, index == 0, said

    def blobs(self, data: bytes) -> list[bytes]:
        self.said[self.index] = data
        return self.said


@pytest.fixture(scope="module")
def evidence(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Task], list[tuple[Batch, dict[str, Any], Any]]]:
    """The tasks, and of every batch what was said: near the truth, and sometimes wrong."""
    place = tmp_path_factory.mktemp("jury")
    tiny.cache_at(place)
    config, base = tiny.config(place)
    splits = open_splits(config, base)
    parts = assemble(config.model, config.tasks, splits.train.vocabulary)
    tasks = {name: parts.task(name) for name in config.tasks}
    rng = torch.Generator().manual_seed(0)
    loader = EvalLoader(splits.train, batch=3, size=96)
    return tasks, [(batch, *said(batch, tasks, rng)) for batch in loader]


def said(batch: Batch, tasks: dict[str, Task], rng: torch.Generator) -> tuple[dict[str, Any], list[Prediction]]:
    predictions, vectors = [], []
    for each in batch.annotations:
        moved = each.boxes_xyxy + torch.randn(each.boxes_xyxy.shape, generator=rng) * 4
        scores = torch.rand(len(each), generator=rng)
        labels = torch.where(scores > 0.2, each.box_labels, 0)
        predictions.append(Prediction(size=(96, 96), boxes_xyxy=moved, scores=scores, labels=labels))
        marks = torch.nn.functional.one_hot(each.box_identities.clamp(min=0) % 64, 64).float()
        vectors.append(marks + torch.randn(marks.shape, generator=rng) / 4)
    truth = positive(batch.states("cls", tasks["cls"].outputs)).float()
    logits = truth * 2 - 1 + torch.randn(truth.shape, generator=rng)
    return {"det": None, "cls": TagOutput(logits), "emb": Said(torch.zeros(len(batch), 64), vectors)}, predictions


def shown(metrics: dict[str, Any], batches: Iterator[Any] | list[Any]) -> dict[str, Any]:
    for batch, outputs, predictions in batches:
        for name, metric in metrics.items():
            metric.update(outputs[name], predictions, batch)
    return metrics


def heard(tasks: dict[str, Task], batches: list[Any], fresh: Callable[[Task], Metric]) -> Testimony:
    told = []
    for batch in batches:
        metrics = shown({name: fresh(task) for name, task in tasks.items()}, [batch])
        told.append({name: metric.evidence() for name, metric in metrics.items()})
    return told


def plain(task: Task) -> Metric:
    return task.metric()


def test_evidence_of_three_ranks_gives_the_scores_of_one(evidence: Any) -> None:
    tasks, batches = evidence
    whole = summed_up(Evaluation(parts=shown({name: task.metric() for name, task in tasks.items()}, batches)))
    assert {key: 0 < whole.metrics[key] < 1 for key in SHOWN} == dict.fromkeys(SHOWN, True), whole.metrics
    slips: list[bytes] = [b""] * WORLD
    found = Evaluation()
    for rank in (*range(1, WORLD), 0):  # the first one last, when it can read what the others wrote
        own = batches[rank::WORLD]
        mine = Evaluation(images=sum(len(batch) for batch, _, _ in own))
        found = verdict(mine, heard(tasks, own, plain), tasks, Fellows(rank, slips))  # type: ignore[arg-type]
        assert bool(found.metrics) == (rank == 0)
    assert found.metrics == whole.metrics
    assert found.curves == whole.curves
    assert found.images == 24
    sections = [
        [part.model_dump() for part in each.parts[name].sections()] for each in (found, whole) for name in tasks
    ]
    assert sections[: len(tasks)] == sections[len(tasks) :]


def test_another_order_of_images_is_seen() -> None:
    """The control: were the batches not put back in turn, ties would fall otherwise."""
    from unified.training.jury import _in_turn

    told: list[Testimony] = [[{"a": {"k": 0}}, {"a": {"k": 2}}], [{"a": {"k": 1}}]]
    assert [batch["a"]["k"] for batch in _in_turn(told)] == [0, 1, 2]


def test_a_metric_that_cannot_tell_keeps_the_first_rank_at_work(tmp_path: Path) -> None:
    class Silent:
        def update(self, output: Any, predictions: Any, batch: Batch) -> None: ...

        def compute(self) -> dict[str, float]:
            return {}

        def curves(self) -> dict[str, Any]:
            return {}

    class Telling(Silent):
        def evidence(self) -> dict[str, Any]:
            return {}

        def extend(self, evidence: Any) -> None: ...

    assert shareable(Telling())
    assert shareable(Metrics("a", (Telling(), Telling())))
    assert not shareable(Silent())
    assert not shareable(Metrics("a", (Telling(), Silent())))


def test_every_batch_is_one_rank_s(evidence: Any, tmp_path: Path) -> None:
    tiny.cache_at(tmp_path)
    config, base = tiny.config(tmp_path)
    train = open_splits(config, base).train
    whole = [order.items for order in EvalLoader(train, batch=5, size=96).orders()]
    shares = [EvalLoader(train, batch=5, size=96, share=(rank, 3)) for rank in range(3)]
    assert sorted(order.items for share in shares for order in share.orders()) == sorted(whole)
    assert [len(share) for share in shares] == [len([*share.orders()]) for share in shares] == [2, 2, 1]
