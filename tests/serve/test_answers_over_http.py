# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from live import PNG, Live, encoded, form, live, lively_model, picture, wait_for

from unified.contracts.errors import ConfigError
from unified.inference.model import UnifiedModel


@pytest.fixture(scope="module")
def served(model: UnifiedModel) -> Iterator[Live]:
    with live(model, max_wait=0.02) as running:
        yield running


def plain(model: UnifiedModel, data: bytes, **words: Any) -> dict[str, Any]:
    """What the Python API says, as JSON gives it back."""
    said = model.predict(data, **words).to_dict()
    return json.loads(json.dumps({key: value for key, value in said.items() if key != "source"}))


NEAR = {"box_xyxy": 2e-2, "score": 2e-4, "tags": 2e-4}


def close(a: Any, b: Any, atol: float = 1e-5) -> bool:
    """Alike in form, and in numbers up to what a batch and JSON's rounding change."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key], NEAR.get(key, atol)) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(close(x, y, atol) for x, y in zip(a, b, strict=True))
    return bool(abs(a - b) <= atol) if isinstance(a, float) else a == b


def of_size(k: int) -> bytes:
    """Pictures that no two of are alike to a network that has learned nothing."""
    return picture(k, 40 + 4 * k, 90 - 5 * k)


def test_three_forms_of_one_question_get_the_answer_of_the_python_api(served: Live, model: UnifiedModel) -> None:
    data = picture(1)
    words = {"confidence": "0.0", "embeddings": "true"}
    body, kind = form(data, words)
    asked = {"image": base64.b64encode(data).decode(), "confidence": 0.0, "embeddings": True}
    replies = [
        served.ask(f"/predict?{urlencode(words)}", data, PNG),
        served.ask(f"/predict?{urlencode(words)}", data, {"Content-Type": "application/octet-stream"}),
        served.ask("/predict", body, {"Content-Type": kind}),
        served.ask("/predict", json.dumps(asked).encode(), {"Content-Type": "application/json"}),
    ]
    truth = plain(model, data, confidence=0.0) | {"space": model.space}
    assert truth["boxes"]
    for reply in replies:
        assert reply.status == 200, reply.body
        assert reply.json == truth
        assert re.fullmatch(r"queue;dur=[\d.]+, pass;dur=[\d.]+, all;dur=[\d.]+", reply.headers["server-timing"])


def test_vectors_are_left_out_unless_asked_for(served: Live, model: UnifiedModel) -> None:
    found = served.ask("/predict?confidence=0.0", picture(1), PNG).json
    assert found.keys() == {"size", "boxes", "tags"}
    assert found["size"] == {"width": 80, "height": 48}


def test_some_tasks_only(served: Live) -> None:
    assert served.ask("/predict?tasks=cls", picture(), PNG).json.keys() == {"size", "tags"}
    assert served.ask("/predict?tasks=cls,det", picture(), PNG).json.keys() == {"size", "tags", "boxes"}
    assert served.ask("/predict?tasks=cls&tasks=det", picture(), PNG).json.keys() == {"size", "tags", "boxes"}


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "binary"])
@pytest.mark.parametrize("width", [None, 8])
def test_vectors_are_those_of_encode(served: Live, model: UnifiedModel, precision: Any, width: int | None) -> None:
    words = {"precision": precision, **({"truncate_dim": str(width)} if width else {})}
    for level, name in (("image", "embedding"), ("box", "box_embeddings")):
        asked = urlencode({**words, "level": level, "confidence": "0.0"})
        found = served.ask(f"/embed?{asked}", picture(2), PNG).json
        how: Any = {"level": level, "precision": precision, "truncate_dim": width, "confidence": 0.0}
        truth = model.encode(picture(2), **how)
        assert found[name] == json.loads(json.dumps(truth.tolist()))
        assert found["space"] == model.space
        assert level == "image" or len(found["boxes"]) == len(found[name]) > 0


def test_many_at_once_each_get_their_own_answer(served: Live, model: UnifiedModel) -> None:
    """Threads with different pictures, settings and routes: passes are shared, answers are not."""
    seeds = list(range(6))
    alone = {k: plain(model, of_size(k), confidence=0.0) | {"space": model.space} for k in seeds}
    tags = {k: plain(model, of_size(k), tasks="cls") for k in seeds}
    gate = threading.Barrier(16)

    def look(worker: int) -> bool:
        gate.wait()
        good = True
        for k in seeds[worker % 6 :] + seeds[: worker % 6]:
            if worker % 3:
                said = served.ask("/predict?confidence=0.0&embeddings=true", of_size(k), PNG).json
                good &= close(said, alone[k])
            else:
                good &= close(served.ask("/predict?tasks=cls", of_size(k), PNG).json, tags[k])
        return good

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(look, range(16)))
    text = served.ask("/metrics").body.decode()
    assert 'unified_batch_pictures_bucket{le="1.0"}' in text
    sizes = {line.split(" ")[0]: float(line.split(" ")[1]) for line in text.splitlines() if line.startswith("unified_")}
    shared = sizes["unified_batch_pictures_count"] - sizes['unified_batch_pictures_bucket{le="1.0"}']
    assert shared > 0  # some passes had more than one picture


def test_the_test_above_would_see_answers_that_are_swapped(model: UnifiedModel) -> None:
    """The control: two pictures' answers are further apart than what a batch changes."""
    a, b = (plain(model, of_size(k), confidence=0.0) for k in (0, 1))
    assert close(a, a)
    assert not close(a, b)
    assert not close(plain(model, of_size(0), tasks="cls"), plain(model, of_size(1), tasks="cls"))


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/predict?tasks=dett", 400, "this model has no task 'dett'; known: cls, det, emb (did you mean 'det'?)"),
        ("/predict?tasks=", 400, "tasks:"),
        ("/predict?confidence=1.5", 400, "confidence: input should be less than or equal to 1"),
        ("/predict?confidence=nan", 400, "confidence: "),
        ("/predict?confidence=a", 400, "confidence: input should be a valid number"),
        ("/predict?confidence=0.1&confidence=0.2", 400, "confidence: given more than once"),
        ("/predict?confidense=0.1", 400, "unknown setting 'confidense'"),
        ("/predict?url=http://127.0.0.1/a.png", 400, "unknown setting 'url'"),
        ("/embed?level=boxes", 400, "level: input should be 'image' or 'box'"),
        ("/embed?truncate_dim=0", 400, "truncate_dim: "),
        ("/embed?truncate_dim=99", 400, "truncate_dim 99 does not fit vectors of width 16"),
        ("/embed?precision=binary&truncate_dim=7", 400, "binary vectors need a width that is a multiple of 8"),
        ("/nowhere", 404, "no such route"),
        ("/predict/", 404, "no such route"),
    ],
)
def test_a_wrong_word_is_one_clear_line(served: Live, path: str, status: int, said: str) -> None:
    reply = served.ask(path, picture(), PNG)
    assert reply.status == status
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json["status"] == status
    assert said in reply.json["detail"]
    assert "\n" not in reply.json["detail"]


@pytest.mark.parametrize(
    ("body", "kind", "status", "said"),
    [
        (b"", "image/png", 400, "there is no picture"),
        (b"no picture", "image/png", 422, "is damaged or not one of JPEG, PNG, WEBP, BMP, TIFF"),
        (picture()[:200], "image/png", 422, "cannot be read"),
        (
            encoded(np.zeros((4, 4, 3), np.uint8), "GIF"),
            "image/gif",
            422,
            "is GIF, which is not read; known: JPEG, PNG, WEBP, BMP, TIFF",
        ),
        (b"x", "text/plain", 415, "send the picture's bytes"),
        (b"a=b", "application/x-www-form-urlencoded", 415, "send the picture's bytes"),
        (b"{", "application/json", 400, "invalid JSON"),
        (b"[" * 100_000, "application/json", 400, "invalid JSON"),
        (b"[]", "application/json", 400, "input should be an object"),
        (b"{}", "application/json", 400, "image: field required"),
        (b'{"image": 1}', "application/json", 400, "image: input should be a valid string"),
        (b'{"image": "*"}', "application/json", 400, "image: is no base64"),
        (b'{"image": "\xc3\xa9"}', "application/json", 400, "image: is no base64"),
        (b'{"image": ""}', "application/json", 400, "there is no picture"),
        (b'{"image": "http://127.0.0.1/a.png"}', "application/json", 400, "image: is a URL, and nothing is fetched"),
        (b'{"image": "data:image/png;base64,aaaa"}', "application/json", 400, "image: is a URL"),
        (b'{"image": "aaaa", "model": "x"}', "application/json", 400, "model: unknown setting"),
        (b"--frontier--", "multipart/form-data", 400, "Missing boundary"),
        (form(None, {"a": "b"})[0], form(None)[1], 400, "no file in its field 'image'"),
        (form(picture(), {"a": "b"})[0], form(None)[1], 400, "unknown setting 'a'"),
        (form(picture(), name="file")[0], form(None)[1], 400, "the picture is the form's field 'image'"),
        (form(picture(), {"tasks": "x" * 9000})[0], form(None)[1], 400, "the form cannot be read: Part exceeded"),
    ],
)
def test_a_wrong_body_is_one_clear_line(served: Live, body: bytes, kind: str, status: int, said: str) -> None:
    reply = served.ask("/predict", body, {"Content-Type": kind})
    assert (reply.status, said in reply.json["detail"]) == (status, True), reply.body


def test_a_model_without_embeddings_says_so() -> None:
    with live(lively_model({"det": "det"})) as served:
        reply = served.ask("/embed", picture(), PNG)
        assert reply.status == 400
        assert reply.json["detail"] == "level: this model gives no image embeddings; its tasks are det"
        assert served.ask("/model").json["space"] is None


def test_numbers_that_are_none_become_null(model: UnifiedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of another package may say anything; JSON must stay JSON."""
    whole = model.predictor.__call__

    def strange(*given: Any, **words: Any) -> Any:
        said = {"pose": {"points": torch.tensor([1.0, float("nan")]), "far": float("inf")}}
        return [replace(found, extras=said) for found in whole(*given, **words)]

    monkeypatch.setattr(model, "_predictor", strange)
    with live(model) as served:
        reply = served.ask("/predict", picture(), PNG)
        assert reply.json["extras"] == {"pose": {"points": [1.0, None], "far": None}}


def test_a_head_that_breaks_is_a_500_and_the_next_is_answered(
    model: UnifiedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any, **words: Any) -> Any:
        raise ArithmeticError("a secret of the inside")

    with live(model) as served:
        with monkeypatch.context() as patch:
            patch.setattr(model, "_predictor", broken)
            reply = served.ask("/predict", picture(), PNG)
        assert reply.status == 500
        assert b"secret" not in reply.body
        assert reply.headers["x-request-id"] in reply.json["detail"]
        assert served.ask("/predict", picture(), PNG).status == 200
        assert served.desk.service.held == 0


def test_what_the_network_cannot_be_asked_is_a_line(model: UnifiedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an exported file says that boxes below its confidence are not in it any more."""

    def settled(*given: Any, **words: Any) -> Any:
        raise ConfigError("confidence 0.1 cannot be had")

    monkeypatch.setattr(model, "_predictor", settled)
    with live(model) as served:
        reply = served.ask("/predict?confidence=0.1", picture(), PNG)
        assert (reply.status, reply.json["detail"]) == (400, "confidence 0.1 cannot be had")


def test_another_size_is_another_space(model: UnifiedModel) -> None:
    with live(model, size=96) as served:
        found = served.ask("/embed", picture(), PNG).json
        assert found["space"] == model.space_at(96) != model.space
        assert served.ask("/model").json["size"] == 96
        assert found["embedding"] == json.loads(json.dumps(model.encode(picture(), size=96).tolist()))


def test_ready_only_once_it_is_warm(model: UnifiedModel) -> None:
    with live(model, ready=False) as served:
        assert served.ask("/healthz").status == 200
        cold = served.ask("/readyz")
        assert (cold.status, cold.headers["retry-after"], cold.json["reason"]) == (503, "5", "warming")
        served.desk.service.warm_up()
        assert served.ask("/readyz").json == {"status": "ready"}


def test_a_dead_pass_thread_is_unhealthy(model: UnifiedModel) -> None:
    with live(model) as served:
        served.desk.service._batcher.close()
        wait_for(lambda: not served.desk.service.alive)
        assert served.ask("/healthz").status == 503
        assert served.ask("/readyz").status == 503
