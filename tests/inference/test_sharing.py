# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from spare import noise, spare_model
from torch import Tensor

from unified.contracts.errors import UnifiedError
from unified.contracts.protocols import Task
from unified.contracts.structures import Prediction
from unified.inference.model import UnifiedModel
from unified.inference.results import Result

LOW = {"confidence": 0.0}
PICTURES = [noise(40 + 4 * k, 90 - 5 * k, seed=k) for k in range(12)]
FIELDS = ("boxes_xyxy", "scores", "labels", "tag_scores", "embedding", "box_embeddings")


@pytest.fixture(scope="module")
def model() -> UnifiedModel:
    return spare_model()


def tensors(result: Result) -> dict[str, Tensor]:
    return {name: getattr(result, name) for name in FIELDS if getattr(result, name) is not None}


def equal(a: Result, b: Result, names: Sequence[str] = FIELDS) -> bool:
    left, right = tensors(a), tensors(b)
    return all(torch.equal(left[name], right[name]) for name in names if name in left or name in right)


def test_threads_get_the_answers_one_would_get(model: UnifiedModel) -> None:
    alone = [model.predict(picture, **LOW) for picture in PICTURES]
    gate = threading.Barrier(4)

    def look(_: int) -> list[Result]:
        gate.wait()
        return [model.predict(picture, **LOW) for picture in PICTURES]

    with ThreadPoolExecutor(4) as pool:
        for answers in pool.map(look, range(4)):
            assert all(equal(a, b) for a, b in zip(alone, answers, strict=True))


def test_together_and_one_by_one_are_the_same(model: UnifiedModel) -> None:
    """Bit by bit: tasks never see each other's heads, only boxes that are handed from one to the other."""
    for picture in PICTURES[:4]:
        whole = model.predict(picture, **LOW)
        det = model.predict(picture, tasks="det", **LOW)
        assert equal(whole, det, ("boxes_xyxy", "scores", "labels"))
        assert torch.equal(model.predict(picture, tasks="cls").tag_scores, whole.tag_scores)
        assert torch.equal(model.predict(picture, tasks="emb").embedding, whole.embedding)
        assert torch.equal(model.predict(picture, tasks=["emb", "det"], **LOW).box_embeddings, whole.box_embeddings)
        assert torch.equal(model.encode(picture), whole.embedding)
        assert torch.equal(model.encode(picture, level="box", **LOW), whole.box_embeddings)


def test_a_batch_and_its_pictures_alone_agree(model: UnifiedModel) -> None:
    together = model.predict(PICTURES, batch_size=5, **LOW)
    for picture, found in zip(PICTURES, together, strict=True):
        alone = model.predict(picture, **LOW)
        assert torch.allclose(found.embedding, alone.embedding, atol=1e-5, rtol=0)
        assert torch.allclose(found.tag_scores, alone.tag_scores, atol=1e-5, rtol=0)
        assert torch.allclose(found.scores, alone.scores, atol=1e-5, rtol=0)
        assert torch.allclose(found.boxes.xyxyn, alone.boxes.xyxyn, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("tasks", "size"), [("all", 5), (("emb",), 5), (("det", "emb"), 3)], ids=["all", "one", "two"])
def test_the_trunk_runs_once_a_batch_whatever_is_asked(model: UnifiedModel, tasks: Any, size: int) -> None:
    calls: list[int] = []
    hook = model.network.backbone.register_forward_hook(lambda *_: calls.append(1))
    try:
        model.predict(PICTURES[:5], tasks=tasks, batch_size=size)
        assert len(calls) == -(-5 // size)
        model.encode(PICTURES[0], level="box", **LOW)
        assert len(calls) == -(-5 // size) + 1
    finally:
        hook.remove()


def test_vectors_of_boxes_ask_no_more_heads_than_needed(model: UnifiedModel) -> None:
    assert model.tasks_for("image") == ("emb",)
    assert model.tasks_for("box") == ("det", "emb")
    assert model.tasks_for("box", found=False) == ("emb",)


def test_warming_up_runs_real_passes(model: UnifiedModel) -> None:
    seen: list[tuple[int, ...]] = []
    hook = model.network.backbone.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    try:
        seconds = model.warmup(batch_size=3, size=96)
    finally:
        hook.remove()
    assert seconds > 0
    assert seen == [(3, 3, 96, 96)] * 2


def test_the_input_is_laid_out_for_the_device(model: UnifiedModel) -> None:
    seen: list[bool] = []
    hook = model.network.backbone.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    try:
        model.predict(PICTURES[:2])
    finally:
        hook.remove()
    assert seen == [True]
    weights = [p for p in model.network.parameters() if p.ndim == 4 and p.shape[-1] > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


def test_half_precision_gives_close_answers_in_float32(model: UnifiedModel) -> None:
    half = UnifiedModel(spare_model().trained, device="cpu", precision="bf16")
    a, b = model.predict(PICTURES[0], **LOW), half.predict(PICTURES[0], **LOW)
    assert all(t.dtype in (torch.float32, torch.int64) for t in tensors(b).values())
    assert torch.nn.functional.cosine_similarity(a.embedding, b.embedding, dim=0) > 0.99
    assert torch.allclose(a.tag_scores, b.tag_scores, atol=0.03)
    assert not torch.equal(a.embedding, b.embedding)


class Counting(Task):
    """A stranger's task, which no part of the engine names: it counts boxes and says how bright the picture is."""

    provides = ("extras",)
    uses = ("boxes_xyxy",)
    primary = "none"

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.outputs = name, 4

    def loss(self, output: Any, batch: Any) -> dict[str, Any]:
        return {}

    def predict(self, output: Any, predictions: Sequence[Prediction], **options: Any) -> list[Prediction]:
        rows = zip(predictions, output.logits, strict=True)
        return [
            replace(p, extras={**p.extras, self.name: {"boxes": len(p.boxes_xyxy), "logits": logits}})
            for p, logits in rows
        ]

    def metric(self) -> Any:
        raise NotImplementedError


def test_a_strangers_task_appears_in_every_form() -> None:
    model = spare_model({"det": "det", "count": "cls"})
    trained = replace(model.trained, tasks={"count": Counting("count"), "det": model.trained.tasks["det"]})
    found = UnifiedModel(trained, device="cpu", precision="fp32").predict(PICTURES[0], **LOW)
    said = found.extras["count"]
    assert said["boxes"] == len(found.boxes) > 0
    assert not said["logits"].is_inference()
    assert found.to_dict()["extras"]["count"]["logits"] == said["logits"].tolist()
    assert found.plot().size[0] >= 480


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"tasks": ["dett"]}, "this model has no task 'dett'"),
        ({"tasks": []}, "no task was asked for"),
        ({"conf": 1.5}, "confidence must be in 0..1, got 1.5"),
        ({"confidence": -1}, "confidence must be in 0..1"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"size": 70}, "size 70 is no multiple"),
    ],
)
def test_a_wrong_word_is_said_before_anything_is_read(model: UnifiedModel, words: dict[str, Any], said: str) -> None:
    for stream in (False, True):
        with pytest.raises(UnifiedError) as caught:
            model.predict("no/such/picture.jpg", stream=stream, **words)
        assert said in str(caught.value)


def test_conf_is_short_for_confidence(model: UnifiedModel) -> None:
    whole = model.predict(PICTURES[0], **LOW)
    limit = float(whole.scores.median())
    assert equal(model.predict(PICTURES[0], conf=limit), model.predict(PICTURES[0], confidence=limit))
    assert 0 < len(model.predict(PICTURES[0], conf=limit).boxes) < len(whole.boxes)
