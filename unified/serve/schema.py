# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI 3.1 description of the routes, made from the classes that check questions and answers."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from unified import __version__
from unified.serve import answers
from unified.serve.asked import Ask, EmbedAsk, EmbedJson, PredictAsk, PredictJson
from unified.serve.settings import Settings

Json = dict[str, Any]
_KINDS: Final = ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/tiff", "application/octet-stream")
_REFUSALS: Final = {
    "400": "A setting, form or JSON that is not as it must be.",
    "408": "The request did not arrive in time.",
    "413": "Too many bytes or pixels.",
    "415": "A body of a kind that is not taken.",
    "422": "A picture that cannot be read.",
    "429": "The queue is full; Retry-After says when to come back.",
}
_UNAVAILABLE: Final = "No answer at present; Retry-After says when to come back."
_ANSWERS: Final = (answers.Predicted, answers.Embedded, answers.Described, answers.State, answers.ProblemDocument)
_ASKED: Final = (PredictJson, EmbedJson)


def document(settings: Settings) -> Json:
    """The description, as a server with these settings behaves."""
    described: Json = {
        "openapi": "3.1.0",
        "info": {"title": "Unified", "version": __version__, "summary": "Boxes, tags and embeddings in one pass."},
        "paths": {
            "/predict": {
                "post": _question("predict", "Boxes, tags and vectors of a picture.", PredictAsk, PredictJson)
            },
            "/embed": {"post": _question("embed", "The vectors of a picture or of its boxes.", EmbedAsk, EmbedJson)},
            "/healthz": {"get": _plain("healthz", "Whether the process does its work.", answers.State, unready=True)},
            "/readyz": {"get": _plain("readyz", "Whether to send pictures here now.", answers.State, unready=True)},
            "/model": {"get": _plain("model", "What can be asked, and the limits.", answers.Described)},
            "/metrics": {"get": _text("metrics", "Counters for Prometheus.")},
            "/openapi.json": {"get": _plain("openapi", "This description.", None)},
        },
        "components": {"schemas": _schemas()},
    }
    for path in described["paths"].values():
        for operation in path.values():
            operation["responses"] |= _everywhere(settings)
    if settings.token is not None:
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
    return described


def _schemas() -> Json:
    asked = models_json_schema([(m, "validation") for m in _ASKED], ref_template="#/components/schemas/{model}")[1]
    given = models_json_schema([(m, "validation") for m in _ANSWERS], ref_template="#/components/schemas/{model}")[1]
    return {**asked.get("$defs", {}), **given.get("$defs", {})}


def _question(name: str, summary: str, plain: type[Ask], with_picture: type[Ask]) -> Json:
    answer = answers.Predicted if name == "predict" else answers.Embedded
    refused = {status: _problem(text) for status, text in _REFUSALS.items()}
    return {
        "operationId": name,
        "summary": summary,
        "parameters": _parameters(plain),
        "requestBody": {"required": True, "content": _content(plain, with_picture)},
        "responses": {"200": _json("The answer.", answer), **refused, "503": _problem(_UNAVAILABLE, True)},
    }


def _content(plain: type[Ask], with_picture: type[Ask]) -> Json:
    raw: Json = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _KINDS}
    fields = {each["name"]: each["schema"] for each in _parameters(plain)}
    picture = {"type": "string", "format": "binary", "description": "The picture file."}
    form = {"type": "object", "properties": {"image": picture, **fields}, "required": ["image"]}
    return {
        **raw,
        "multipart/form-data": {"schema": {**form, "additionalProperties": False}},
        "application/json": {"schema": _reference(with_picture)},
    }


def _parameters(plain: type[Ask]) -> list[Json]:
    """Settings as words of a query: lists are written with commas."""
    found = []
    for name, schema in plain.model_json_schema()["properties"].items():
        kinds = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
        kept = {key: value for key, value in kinds[0].items() if key not in ("title", "default", "description")}
        shown: Json = {"type": "string"} if kept.get("type") == "array" else kept
        said = {"name": name, "in": "query", "required": False, "description": schema["description"], "schema": shown}
        found.append(said)
    return found


def _plain(name: str, summary: str, answer: type[BaseModel] | None, unready: bool = False) -> Json:
    good = _json(summary, answer)
    more = {"503": _problem(_UNAVAILABLE, True)} if unready else {}
    return {"operationId": name, "summary": summary, "responses": {"200": good, **more}}


def _text(name: str, summary: str) -> Json:
    content = {"text/plain": {"schema": {"type": "string"}}}
    return {"operationId": name, "summary": summary, "responses": {"200": {"description": summary, "content": content}}}


def _json(text: str, answer: type[BaseModel] | None) -> Json:
    schema = {"type": "object"} if answer is None else _reference(answer)
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _problem(text: str, again: bool = False) -> Json:
    content = {"application/problem+json": {"schema": _reference(answers.ProblemDocument)}}
    headers = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return {"description": text, "content": content, **({"headers": headers} if again or "Retry-After" in text else {})}


def _everywhere(settings: Settings) -> Json:
    """Refusals that any route may give."""
    if settings.token is not None:
        return {"401": _problem("No token, or another one.")}
    others = {"403": "Asked by a page of another site.", "421": "Called by a name that is not this server's."}
    return {status: _problem(text) for status, text in others.items()}


def _reference(model: type[BaseModel]) -> Json:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
