# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import unified
from unified.contracts.errors import UnifiedError
from unified.contracts.structures import Prediction
from unified.inference.model import UnifiedModel, load
from unified.inference.source import as_pixels
from unified.training.run import train

LOW = {"confidence": 0.0}  # an untrained network is sure of nothing


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predictor")
    tiny.cache_at(folder)
    config, base = tiny.config(folder, "max_steps=2")
    train(config, base, out=folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def model(run: Path) -> UnifiedModel:
    return load(run, device="cpu", precision="fp32")


def picture(height: int = 70, width: int = 120, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def assert_close(a: Prediction, b: Prediction, atol: float = 0.0) -> None:
    for field in fields(Prediction):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, torch.Tensor):
            assert x.shape == y.shape, field.name
            assert torch.allclose(x.float(), y.float(), rtol=0, atol=atol), field.name
        else:
            assert x == y, field.name


def test_a_picture_is_the_same_in_every_form(model: UnifiedModel, tmp_path: Path) -> None:
    array = picture()
    Image.fromarray(array).save(tmp_path / "a.png")
    forms: list[Any] = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(array), array]
    forms += [torch.from_numpy(array).permute(2, 0, 1), np.asfortranarray(array)]
    first, *others = [model.predict(form, **LOW) for form in forms]
    assert len(first.boxes_xyxy) > 0
    for other in others:
        assert_close(first, other)
    assert not torch.equal(model.predict(array[..., ::-1].copy(), **LOW).embedding, first.embedding)


def test_pictures_in_a_batch_are_answered_as_alone(model: UnifiedModel) -> None:
    pictures = [picture(70, 120, 1), picture(130, 60, 2), picture(96, 96, 3)]
    alone = [model.predict(one, **LOW) for one in pictures]
    for size in (1, 2, 16):
        together = model.predict(pictures, batch_size=size, **LOW)
        assert isinstance(together, list)
        for a, b in zip(alone, together, strict=True):
            assert_close(a, b, atol=1e-5 * 130)  # boxes are in pixels
            assert torch.allclose(a.embedding, b.embedding, atol=1e-5)
            assert torch.allclose(a.tag_scores, b.tag_scores, atol=1e-5)


def test_boxes_are_in_the_pictures_own_pixels(model: UnifiedModel) -> None:
    """A 96 x 96 picture set on the grey of a wide one's letterbox is the same input: boxes are twice as large."""
    wide = np.full((48, 96, 3), 114, np.uint8)
    wide[:, 20:70] = picture(48, 50)
    small = model.predict(wide, **LOW)
    large = model.predict(wide.repeat(2, axis=0).repeat(2, axis=1), **LOW)
    assert small.size == (48, 96)
    assert large.size == (96, 192)
    for found, (height, width) in ((small, (48, 96)), (large, (96, 192))):
        boxes = found.boxes_xyxy
        assert boxes.min() >= 0
        assert boxes[:, 0::2].max() <= width
        assert boxes[:, 1::2].max() <= height
        assert (boxes[:, 2:] >= boxes[:, :2]).all()
    assert large.boxes_xyxy[:, 2].max() > 96


def test_a_known_box_leads_back_through_the_letterbox(model: UnifiedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """120 x 60 at side 96 is scaled by 0.8 and set 24 pixels down."""
    asked = [Prediction(size=(96, 96), boxes_xyxy=torch.tensor([[8.0, 32, 88, 64]]), scores=torch.ones(1))]
    from unified.inference import predictor

    monkeypatch.setattr(predictor, "predict_all", lambda *args, **options: asked)
    found = model.predict(picture(60, 120))
    assert torch.allclose(found.boxes_xyxy, torch.tensor([[10.0, 10, 110, 50]]))
    assert found.size == (60, 120)


def test_only_what_was_asked_is_answered(model: UnifiedModel) -> None:
    whole = model.predict(picture(), **LOW)
    tags = model.predict(picture(), tasks=["cls"])
    assert tags.boxes_xyxy is tags.scores is tags.embedding is tags.box_embeddings is None
    assert torch.equal(tags.tag_scores, whole.tag_scores)
    assert len(tags.tags) == len(tags.tag_names) == 23
    assert list(tags.tags.values()) == sorted(tags.tags.values(), reverse=True)
    boxes = model.predict(picture(), tasks="det", **LOW)
    assert boxes.tag_scores is boxes.embedding is None
    assert torch.equal(boxes.boxes_xyxy, whole.boxes_xyxy)
    assert boxes.scores.tolist() == sorted(boxes.scores.tolist(), reverse=True)
    assert len(boxes.box_names) == 12


def test_confidence_keeps_the_best(model: UnifiedModel) -> None:
    whole = model.predict(picture(), **LOW)
    limit = whole.scores.median().item()
    kept = model.predict(picture(), confidence=limit)
    assert 0 < len(kept.scores) < len(whole.scores)
    assert kept.scores.min() >= limit


def test_the_trunk_runs_once_for_everything(model: UnifiedModel) -> None:
    calls: list[int] = []
    hook = model.network.backbone.register_forward_hook(lambda *_: calls.append(1))
    try:
        model.predict(picture())
        assert len(calls) == 1
        model.predict([picture()] * 5, batch_size=2)
        assert len(calls) == 1 + 3
    finally:
        hook.remove()


def test_embeddings_are_unit_vectors(model: UnifiedModel) -> None:
    pictures = [picture(seed=k) for k in range(3)]
    one, three = model.encode(pictures[0]), model.encode(pictures)
    assert one.shape == (16,)
    assert three.shape == (3, 16)
    assert torch.allclose(three[0], one, atol=1e-5)
    assert torch.allclose(three.norm(dim=1), torch.ones(3), atol=1e-5)
    boxes = model.encode(pictures, level="box", **LOW)
    found = model.predict(pictures, **LOW)
    assert [len(vectors) for vectors in boxes] == [len(p.boxes_xyxy) for p in found]
    assert torch.allclose(boxes[1], found[1].box_embeddings)
    assert torch.allclose(boxes[1].norm(dim=1), torch.ones(len(boxes[1])), atol=1e-5)
    assert model.encode(pictures[0], level="box", confidence=1.0).shape == (0, 16)


def test_answers_are_plain_tensors(model: UnifiedModel) -> None:
    found = model.predict(picture(), **LOW)
    for name in ("boxes_xyxy", "scores", "tag_scores", "embedding", "box_embeddings"):
        tensor = getattr(found, name)
        assert (tensor.dtype, tensor.device.type) == (torch.float32, "cpu")
        assert not tensor.is_inference()
        assert not tensor.requires_grad


def test_another_size_is_another_input(model: UnifiedModel) -> None:
    seen: list[tuple[int, ...]] = []
    hook = model.network.backbone.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    try:
        model.predict(picture())
        found = model.predict(picture(), size=64)
    finally:
        hook.remove()
    assert seen == [(1, 3, 96, 96), (1, 3, 64, 64)]
    assert found.size == (70, 120)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (np.zeros((8, 8, 3), np.float32), "float32 of shape (8, 8, 3)"),
        (np.zeros((8, 8), np.uint8), "uint8 of shape (8, 8)"),
        (np.zeros((8, 8, 4), np.uint8), "uint8 of shape (8, 8, 4)"),
        (np.zeros((0, 8, 3), np.uint8), "of shape (0, 8, 3)"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), "uint8 of shape (8, 8, 3)"),
        (torch.full((3, 8, 8), 114.0), "a floating tensor must lie in 0..1; got 114..114"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "int64 of shape (3, 8, 8)"),
        ([], "the list is empty"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "uint8 of shape (1, 3, 8, 8)"),
        ("no/such/file.jpg", "no/such/file.jpg"),
    ],
)
def test_what_is_no_picture_is_one_line(model: UnifiedModel, source: Any, said: str) -> None:
    with pytest.raises(UnifiedError) as caught:
        model.predict(source)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"tasks": ["dett"]}, "this model has no task 'dett'; known: cls, det, emb (did you mean 'det'?)"),
        ({"tasks": "clss"}, "this model has no task 'clss'"),
        ({"size": 100}, "size 100 is no multiple of the network's coarsest stride 32; try 96"),
        ({"size": 5}, "try 32"),
        ({"size": -32}, "size -32"),
        ({"size": 0}, "size 0"),
    ],
)
def test_a_wrong_word_is_one_line(model: UnifiedModel, words: dict[str, Any], said: str) -> None:
    with pytest.raises(UnifiedError) as caught:
        model.predict(picture(), **words)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_embeddings_that_are_not_there_are_said(model: UnifiedModel) -> None:
    with pytest.raises(UnifiedError, match=r"unknown level 'boxes'.*did you mean 'box'"):
        model.encode(picture(), level="boxes")  # type: ignore[arg-type]
    with pytest.raises(UnifiedError, match="no image embeddings"):
        model.encode(picture(), tasks=["cls"])


def test_a_run_and_its_checkpoint_are_the_same_model(run: Path, model: UnifiedModel) -> None:
    step = next((run / "checkpoints").glob("step-*"))
    for path in (step, run / "checkpoints", str(run)):
        other = unified.load(path, device="cpu", precision="fp32")
        assert_close(other.predict(picture(), **LOW), model.predict(picture(), **LOW))
    assert model.tasks == ("det", "cls", "emb")


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnifiedError, match=r"nothing' does not exist; give the folder of a run"):
        load(tmp_path / "nothing")
    with pytest.raises(UnifiedError, match="is neither a run with a checkpoint nor a checkpoint"):
        load(tmp_path)


def test_pixels_of_other_modes_become_rgb() -> None:
    grey = Image.fromarray(picture()).convert("L")
    pixels = as_pixels(grey)
    assert pixels.shape == (3, 70, 120)
    assert torch.equal(pixels[0], pixels[2])
