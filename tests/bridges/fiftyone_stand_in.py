# SPDX-License-Identifier: Apache-2.0
"""The part of FiftyOne that the bridge touches, by its documentation; for machines that do not have the package."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class Model:
    """What every model must answer."""

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    @property
    def media_type(self) -> str:
        raise NotImplementedError

    @property
    def ragged_batches(self) -> bool:
        raise NotImplementedError

    @property
    def transforms(self) -> Any:
        raise NotImplementedError

    def predict(self, arg: Any) -> Any:
        raise NotImplementedError


class EmbeddingsMixin:
    """What a model with embeddings must answer."""

    @property
    def has_embeddings(self) -> bool:
        raise NotImplementedError

    def get_embeddings(self) -> Any:
        raise NotImplementedError


def _label(name: str, *required: str) -> type:
    def __init__(self: Any, **words: Any) -> None:  # noqa: N807
        assert set(required) <= set(words)
        SimpleNamespace.__init__(self, **words)

    return type(name, (SimpleNamespace,), {"__init__": __init__})


def stand_in(patch: pytest.MonkeyPatch) -> None:
    """Lets ``import fiftyone`` find this."""
    labels = {
        "Detection": _label("Detection", "label", "bounding_box"),
        "Detections": _label("Detections", "detections"),
        "Classification": _label("Classification", "label"),
        "Classifications": _label("Classifications", "classifications"),
    }
    parts = {"": labels, ".core": {}, ".core.models": {"Model": Model, "EmbeddingsMixin": EmbeddingsMixin}}
    for name, words in parts.items():
        module = ModuleType(f"fiftyone{name}")
        vars(module).update(words)
        patch.setitem(sys.modules, f"fiftyone{name}", module)
