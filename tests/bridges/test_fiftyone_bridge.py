# SPDX-License-Identifier: Apache-2.0
"""FiftyOne asks our model as it asks its own: labels in shares of the picture, vectors by picture and by box."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from fiftyone_stand_in import stand_in
from spare import noise, spare_model

from unified.contracts.errors import ConfigError
from unified.inference.model import UnifiedModel

MISSING = importlib.util.find_spec("fiftyone") is None
REAL = pytest.param(
    "package",
    marks=pytest.mark.skipif(MISSING, reason="FiftyOne is not installed: pip install 'unified-networks[fiftyone]'"),
)
BRIDGE = "unified.bridges.fiftyone"
PICTURES = [noise(48, 80, 0), noise(60, 60, 1), noise(90, 40, 2)]


@pytest.fixture(params=["stand-in", REAL])
def bridge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    if request.param == "stand-in":
        stand_in(monkeypatch)
    sys.modules.pop(BRIDGE, None)
    yield importlib.import_module(BRIDGE)
    sys.modules.pop(BRIDGE, None)


@pytest.fixture(scope="module")
def model() -> UnifiedModel:
    return spare_model()


def test_it_keeps_the_interface(bridge: ModuleType, model: UnifiedModel) -> None:
    from fiftyone.core.models import EmbeddingsMixin, Model

    theirs = bridge.FiftyOneModel(model)
    assert isinstance(theirs, Model)
    assert isinstance(theirs, EmbeddingsMixin)
    assert (theirs.media_type, theirs.transforms, theirs.ragged_batches) == ("image", None, False)
    assert (theirs.has_embeddings, theirs.preprocess) == (True, False)
    theirs.preprocess = True  # FiftyOne sets it on models that it loads pictures for
    assert theirs.preprocess is False
    with theirs as entered:
        assert entered is theirs
    assert bridge.FiftyOneModel(model, "det").has_embeddings is False


def test_labels_are_what_our_model_says(bridge: ModuleType, model: UnifiedModel) -> None:
    theirs = bridge.FiftyOneModel(model, confidence=0.003, tag_threshold=0.4)
    expected = model.predict(PICTURES, confidence=0.003)
    for said, ours in zip(theirs.predict_all(PICTURES), expected, strict=True):
        height, width = ours.size
        found = said["boxes"].detections
        assert ours.boxes is not None
        assert len(found) == len(ours.boxes) > 0
        for box, one, vector in zip(ours.boxes, found, ours.boxes.embeddings, strict=True):  # type: ignore[arg-type]
            x, y, w, h = one.bounding_box
            assert (one.label, one.confidence) == (box.name, pytest.approx(box.score))
            assert (x * width, y * height, (x + w) * width, (y + h) * height) == pytest.approx(box.xyxy, abs=1e-3)
            assert np.allclose(one.embedding, vector, atol=1e-5)
        tags = {one.label: one.confidence for one in said["tags"].classifications}
        assert tags == pytest.approx({name: score for name, score in ours.tags.items() if score >= 0.4})
        assert list(tags.values()) == sorted(tags.values(), reverse=True)


def test_one_kind_of_answer_is_one_label(bridge: ModuleType, model: UnifiedModel) -> None:
    assert type(bridge.FiftyOneModel(model, "det").predict(PICTURES[0])).__name__ == "Detections"
    assert type(bridge.FiftyOneModel(model, ["cls", "emb"]).predict(PICTURES[0])).__name__ == "Classifications"


def test_embeddings_are_ours(bridge: ModuleType, model: UnifiedModel) -> None:
    theirs = bridge.FiftyOneModel(model)
    expected = model.encode(PICTURES).numpy()
    assert np.allclose(theirs.embed_all(PICTURES), expected, atol=1e-6)
    assert np.allclose(theirs.embed(PICTURES[1]), expected[1], atol=1e-6)
    theirs.predict(PICTURES[2])
    assert np.allclose(theirs.get_embeddings(), expected[2:], atol=1e-6)
    with pytest.raises(ConfigError, match="no embedding of a picture"):
        bridge.FiftyOneModel(model, "det").embed(PICTURES[0])


def test_what_is_wrong_is_one_line(bridge: ModuleType, model: UnifiedModel) -> None:
    with pytest.raises(ConfigError, match="no task 'dett'"):
        bridge.FiftyOneModel(model, "dett")
    with pytest.raises(ConfigError, match="predict first"):
        bridge.FiftyOneModel(model).get_embeddings()


@pytest.mark.skipif(not MISSING, reason="FiftyOne is installed")
def test_without_the_package_one_line_says_so() -> None:
    sys.modules.pop(BRIDGE, None)
    with pytest.raises(ConfigError, match=r"needs fiftyone, which is not installed: pip install .*\[fiftyone\]"):
        importlib.import_module(BRIDGE)
