# SPDX-License-Identifier: Apache-2.0
"""What a request may ask for. These classes check it, and the OpenAPI document is made from them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from unified.contracts.errors import suggestion
from unified.data.picture import said
from unified.serve.problem import Problem, bad_word

Words = Mapping[str, Sequence[str]]
"""Names and their values, as a query or a form has them."""


class Ask(BaseModel):
    """What every question has."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    confidence: float = Field(0.25, ge=0, le=1, description="Least score of a box.")


class PredictAsk(Ask):
    """Settings of ``/predict``."""

    tasks: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="Only these tasks, by name; all by default. In a query or a form: names with commas between.",
    )
    embeddings: bool = Field(False, description="Whether to give the vectors of the picture and of its boxes.")


class EmbedAsk(Ask):
    """Settings of ``/embed``."""

    level: Literal["image", "box"] = Field("image", description="One vector for the picture, or one for every box.")
    precision: Literal["float32", "float16", "int8", "binary"] = Field(
        "float32", description="The form of the vectors; binary: a bit a coordinate, eight of them a number."
    )
    truncate_dim: int | None = Field(None, ge=1, description="Keep only the first so many coordinates.")


class _Pictured(BaseModel):
    image: str = Field(description="The picture file's bytes in base64.", json_schema_extra={"format": "byte"})

    @field_validator("image")
    @classmethod
    def _is_base64(cls, value: str) -> str:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", value):
            raise ValueError("is a URL, and nothing is fetched: send the picture's bytes in base64")
        return value


class PredictJson(PredictAsk, _Pictured):
    """A question to ``/predict`` with its picture."""


class EmbedJson(EmbedAsk, _Pictured):
    """A question to ``/embed`` with its picture."""


A = TypeVar("A", bound=Ask)


def from_words(kind: type[A], words: Words) -> A:
    """A question from a query or a form.

    Raises:
        Problem: 400: a name that is not known, given twice, or a value that does not fit.
    """
    values: dict[str, Any] = {}
    for name, given in words.items():
        if name not in kind.model_fields:
            raise bad_word("", f"unknown setting '{said(name)}'{suggestion(said(name), kind.model_fields)}")
        if name == "tasks":
            values[name] = tuple(part.strip() for word in given for part in word.split(",") if part.strip())
        elif len(given) > 1:
            raise bad_word(name, "given more than once")
        else:
            values[name] = given[0]
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _explained(error) from None


def from_json(kind: type[A], body: bytes) -> tuple[A, bytes]:
    """A question and its picture's bytes from a JSON body; ``kind`` is one with a picture.

    Raises:
        Problem: 400: no JSON, or not as it must be.
    """
    try:
        asked = kind.model_validate_json(body)
        picture = base64.b64decode(getattr(asked, "image").encode("ascii"), validate=True)  # noqa: B009
    except ValidationError as error:
        raise _explained(error) from None
    except (binascii.Error, UnicodeEncodeError):
        raise bad_word("image", "is no base64 (RFC 4648, with '+' and '/', padded, without line breaks)") from None
    return asked, picture


def _explained(error: ValidationError) -> Problem:
    """The first complaint in one line, without the value that was given: it may be a picture."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "unknown setting"
    return bad_word(place, message[:1].lower() + message[1:])
