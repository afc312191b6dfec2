# SPDX-License-Identifier: Apache-2.0
"""What is answered. The OpenAPI document is made from these classes, and tests hold every answer against them.

Boxes are left, top, right, bottom in pixels of the picture as it was sent, turned upright as its EXIF tag says.
"""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from unified.contracts.structures import Prediction
from unified.inference.results import as_dict


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Extent(_Strict):
    """Of a picture."""

    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")


class FoundBox(_Strict):
    """One box."""

    name: str = Field(description="Of its class.")
    score: float = Field(ge=0, le=1)
    box_xyxy: tuple[float, float, float, float] = Field(description="Left, top, right, bottom in pixels.")


class Predicted(_Strict):
    """Everything the network says of a picture; what no asked task gives is left out."""

    size: Extent
    boxes: list[FoundBox] | None = Field(None, description="Best score first.")
    tags: dict[str, float] | None = Field(None, description="Every tag with its score.")
    embedding: list[float] | None = Field(None, description="The picture's vector, of unit length.")
    box_embeddings: list[list[float]] | None = Field(None, description="A vector of unit length for every box.")
    space: str | None = Field(None, description="Fingerprint of the vectors' space: only equal ones can be compared.")
    extras: dict[str, Any] | None = Field(None, description="What tasks of other packages say, by task.")


class Embedded(_Strict):
    """Vectors of a picture, or of its boxes."""

    size: Extent
    level: str
    precision: str
    space: str = Field(description="Fingerprint of the vectors' space: only equal ones can be compared.")
    embedding: list[float] | None = Field(None, description="With level=image.")
    boxes: list[FoundBox] | None = Field(None, description="With level=box.")
    box_embeddings: list[list[float]] | None = Field(None, description="With level=box: a vector for every box.")


class Limits(_Strict):
    """What the server takes."""

    body_bytes: int
    pixels: int
    max_batch: int
    queue: int


class Described(_Strict):
    """The model and its server."""

    name: str
    version: str = Field(description="Of Unified.")
    tasks: list[str]
    classes: list[str] = Field(description="Of boxes.")
    tags: list[str]
    size: int = Field(description="Side of the network's input in pixels.")
    space: str | None = Field(description="Fingerprint of the embedding space; null without embeddings.")
    limits: Limits


class State(_Strict):
    """How the server is."""

    status: str


class ProblemDocument(_Strict):
    """Why there is no answer (RFC 9457)."""

    title: str
    status: int
    detail: str = Field(description="What is wrong and what to do, in one line.")
    reason: str = Field(description="A word that stays the same, for programs.")


def predicted(prediction: Prediction, space: str | None, embeddings: bool) -> dict[str, Any]:
    """A prediction as :class:`Predicted` in plain JSON."""
    entry = as_dict(prediction, embeddings)
    if not embeddings:
        entry.pop("embedding", None)
        entry.pop("box_embeddings", None)
    elif "embedding" in entry or "box_embeddings" in entry:
        entry["space"] = space
    return entry


def dump(entry: dict[str, Any]) -> bytes:
    """As JSON in UTF-8. A number that is none, such as a strange task's NaN, becomes null: JSON has no word for it."""
    try:
        text = json.dumps(entry, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(entry), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
