# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from spare import noise, spare_model
from torch.nn import functional as F

from unified.contracts.errors import UnifiedError
from unified.inference.encoder import calibrate, dequantize, quantize, shorten, similarity
from unified.inference.model import UnifiedModel

PICTURES = [noise(seed=k) for k in range(4)]


@pytest.fixture(scope="module")
def model() -> UnifiedModel:
    return spare_model()


@pytest.fixture(scope="module")
def vectors() -> torch.Tensor:
    return F.normalize(torch.randn(200, 32, generator=torch.Generator().manual_seed(0)), dim=1)


def test_every_precision_has_its_type_and_shape(model: UnifiedModel) -> None:
    whole = model.encode(PICTURES)
    assert whole.shape == (4, 16)
    expected = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8, "binary": torch.uint8}
    for precision, dtype in expected.items():
        got = model.encode(PICTURES, precision=precision)
        assert got.dtype == dtype
        assert got.shape == (4, 2 if precision == "binary" else 16)
        assert torch.equal(got, quantize(whole, precision))
    assert model.encode(PICTURES[0], precision="binary").shape == (2,)


def test_shortened_vectors_are_of_unit_length_again(model: UnifiedModel) -> None:
    whole, short = model.encode(PICTURES), model.encode(PICTURES, truncate_dim=8)
    assert torch.allclose(short, F.normalize(whole[:, :8], dim=1), atol=1e-6)
    raw = model.encode(PICTURES, truncate_dim=8, normalize=False)
    assert torch.allclose(raw, whole[:, :8], atol=1e-6)
    assert model.encode(PICTURES, truncate_dim=8, level="box", confidence=0.0)[0].shape[1] == 8


def test_bits_are_those_of_numpy_and_sentence_transformers(vectors: torch.Tensor) -> None:
    packed = quantize(vectors, "binary")
    assert np.array_equal(packed.numpy(), np.packbits(vectors.numpy() > 0, axis=-1))
    signs = np.where(vectors.numpy() > 0, 1.0, -1.0)
    assert np.array_equal(dequantize(packed).numpy(), signs)
    same = 1 - 2 * (signs[:5, None] != signs[None, :7]).mean(axis=-1)
    assert np.allclose(similarity(packed[:5], packed[:7]).numpy(), same, atol=1e-6)
    library = pytest.importorskip("sentence_transformers.util.quantization", reason="needs sentence-transformers")
    theirs = library.quantize_embeddings(vectors.numpy(), "ubinary")
    assert np.array_equal(packed.numpy(), theirs)


def test_bytes_are_those_of_sentence_transformers(vectors: torch.Tensor) -> None:
    ranges = calibrate(vectors)
    ours = quantize(vectors, "int8", ranges)
    assert ours.amin() == -128
    assert ours.amax() == 127
    library = pytest.importorskip("sentence_transformers.util.quantization", reason="needs sentence-transformers")
    theirs = library.quantize_embeddings(vectors.numpy(), "int8", ranges=ranges.numpy())
    difference = np.abs(ours.numpy().astype(int) - theirs.astype(int))
    assert difference.max() <= 1  # they cut towards zero, we round
    error = {name: float((dequantize(x, ranges) - vectors).abs().mean()) for name, x in (("ours", ours),)}
    cut = dequantize(torch.from_numpy(theirs), ranges)
    assert error["ours"] <= float((cut - vectors).abs().mean())


def test_a_cosine_of_bytes_is_close_to_that_of_floats(vectors: torch.Tensor) -> None:
    exact = vectors @ vectors.T
    plain = quantize(vectors, "int8")
    assert (similarity(plain, plain) - exact).abs().max() < 0.03
    ranges = calibrate(vectors)
    fitted = quantize(vectors, "int8", ranges)
    assert (similarity(fitted, fitted, ranges) - exact).abs().mean() < (similarity(plain, plain) - exact).abs().mean()
    half = quantize(vectors, "float16")
    assert (similarity(half, half) - exact).abs().max() < 1e-3


def test_bytes_out_of_their_range_are_clipped_not_wrapped() -> None:
    ranges = torch.tensor([[-0.1] * 8, [0.1] * 8])
    far = torch.tensor([[-5.0] * 4 + [5.0] * 4])
    assert quantize(far, "int8", ranges).tolist() == [[-128] * 4 + [127] * 4]


def test_similarity_is_cosine(model: UnifiedModel) -> None:
    a, b = torch.tensor([[3.0, 0], [1, 1]]), torch.tensor([0.0, 2])
    assert torch.allclose(model.similarity(a, b), torch.tensor([[0.0], [0.5**0.5]]), atol=1e-6)
    whole = model.encode(PICTURES)
    assert torch.allclose(model.similarity(whole, whole).diagonal(), torch.ones(4), atol=1e-5)


def test_boxes_that_are_given_get_vectors(model: UnifiedModel) -> None:
    found = model.predict(PICTURES, confidence=0.0)
    given = [r.boxes.xyxy for r in found]
    edges = torch.tensor([80.0, 48.0] * 2)
    assert any(((boxes == 0) | (boxes == edges)).any() for boxes in given)  # cut off at the picture's border
    again = model.encode(PICTURES, level="box", boxes=given)
    for result, vectors in zip(found, again, strict=True):
        assert vectors.shape == (len(result.boxes), 16)
        assert torch.allclose(vectors, result.box_embeddings, atol=1e-4)
    one = model.encode(PICTURES[0], level="box", boxes=torch.tensor([[8.0, 8, 40, 40]]))
    assert one.shape == (1, 16)
    assert model.encode(PICTURES[0], level="box", boxes=torch.zeros(0, 4)).shape == (0, 16)
    emb_only = spare_model({"emb": "emb"})
    assert emb_only.encode(PICTURES[0], level="box", boxes=torch.tensor([[8.0, 8, 40, 40]])).shape == (1, 16)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"level": "images"}, "unknown level 'images'; known: box, image (did you mean 'image'?)"),
        ({"precision": "int4"}, "unknown precision 'int4'; known: binary, float16, float32, int8"),
        ({"truncate_dim": 17}, "truncate_dim 17 does not fit vectors of width 16"),
        ({"truncate_dim": 0}, "truncate_dim 0"),
        ({"truncate_dim": 12, "precision": "binary"}, "multiple of 8, got 12; give truncate_dim=8"),
        ({"precision": "int8", "ranges": torch.zeros(2, 8)}, "ranges must be (2, 16)"),
        ({"level": "box", "boxes": torch.zeros(2, 5)}, "must be a tensor (N, 4) xyxy in pixels; got (2, 5)"),
        ({"level": "box", "boxes": [torch.zeros(2, 4)] * 2}, "boxes for 2 pictures were given with 1 pictures"),
        ({"boxes": torch.zeros(2, 4)}, "boxes are for level='box'"),
        ({"tasks": "embb"}, "this model has no task 'embb'"),
        ({"size": 65}, "size 65"),
    ],
)
def test_a_wrong_word_is_one_line(model: UnifiedModel, words: dict[str, Any], said: str) -> None:
    with pytest.raises(UnifiedError) as caught:
        model.encode(PICTURES[0], **words)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: similarity(torch.zeros(2, 4), torch.zeros(2, 5)), "width 4 and 5 cannot be compared"),
        (lambda: similarity(torch.zeros(2, 4), torch.zeros(2, 1, dtype=torch.uint8)), "only be compared with packed"),
        (lambda: similarity(torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 4)), "got torch.int64"),
        (lambda: calibrate(torch.zeros(1, 4)), "two or more"),
        (lambda: calibrate(torch.full((3, 4), float("nan"))), "no numbers"),
        (lambda: shorten(torch.zeros(1, 4), 5, True), "truncate_dim 5"),
    ],
)
def test_vectors_that_do_not_fit_are_one_line(call: Any, said: str) -> None:
    with pytest.raises(UnifiedError) as caught:
        call()
    assert said in str(caught.value)


def test_a_model_without_vectors_says_so() -> None:
    tags = spare_model({"cls": "cls"})
    for level in ("image", "box"):
        with pytest.raises(UnifiedError, match=f"gives no {level} embeddings; its tasks are cls"):
            tags.encode(PICTURES[0], level=level)  # type: ignore[call-overload]
    assert tags.space is None
