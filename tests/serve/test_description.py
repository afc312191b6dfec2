# SPDX-License-Identifier: Apache-2.0
"""What the server says of itself is true."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from live import PNG, Live, form, live, picture
from pydantic import BaseModel

pytest.importorskip("starlette", reason="needs starlette (extra 'serve')")
from unified.inference.model import UnifiedModel
from unified.serve import answers
from unified.serve.asked import EmbedJson, PredictJson


@pytest.fixture(scope="module")
def served(model: UnifiedModel) -> Iterator[Live]:
    with live(model) as running:
        yield running


@pytest.fixture(scope="module")
def told(served: Live) -> Any:
    return served.ask("/openapi.json").json


def test_every_route_is_described_and_no_other(served: Live, told: Any) -> None:
    routes = {(route.path, *(route.methods - {"HEAD"})) for route in served.desk.routes}
    assert routes == {(path, method.upper()) for path, item in told["paths"].items() for method in item}
    assert not any("model" in path and "post" in item for path, item in told["paths"].items())  # nothing is uploaded


def test_every_schema_is_one_of_openapi(told: Any) -> None:
    """OpenAPI 3.1: schemas are JSON Schema 2020-12, every parameter has a place, every answer a description."""
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")
    operations = [operation for item in told["paths"].values() for operation in item.values()]
    answers_given = [answer for operation in operations for answer in operation["responses"].values()]
    parameters = [each for operation in operations for each in operation.get("parameters", [])]
    bodies = [operation["requestBody"] for operation in operations if "requestBody" in operation]
    media = [kind for each in [*answers_given, *bodies] for kind in each.get("content", {}).values()]
    schemas = [*told["components"]["schemas"].values(), *(each["schema"] for each in [*media, *parameters])]
    assert (told["openapi"], {"title", "version"} <= set(told["info"])) == ("3.1.0", True)
    assert len(schemas) > 30
    for schema in schemas:
        jsonschema.Draft202012Validator.check_schema(schema)
    assert all(each["description"] for each in answers_given)
    assert all(each["in"] == "query" for each in parameters)
    with pytest.raises(jsonschema.SchemaError):
        jsonschema.Draft202012Validator.check_schema({"type": "no type"})


def test_every_reference_leads_somewhere_and_every_operation_has_a_name(told: Any) -> None:
    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from [value["$ref"]] if "$ref" in value else []
            for each in value.values():
                yield from references(each)
        elif isinstance(value, list):
            for each in value:
                yield from references(each)

    found = set(references(told))
    assert len(found) >= 6
    assert all(name.removeprefix("#/components/schemas/") in told["components"]["schemas"] for name in found)
    names = [operation["operationId"] for item in told["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names)) == 7


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("/predict?confidence=0&embeddings=true", picture(), answers.Predicted),
        ("/predict?tasks=det", picture(), answers.Predicted),
        ("/embed", picture(), answers.Embedded),
        ("/embed?level=box&confidence=0&precision=binary", picture(), answers.Embedded),
        ("/embed?level=box&confidence=1", picture(), answers.Embedded),
        ("/healthz", None, answers.State),
        ("/readyz", None, answers.State),
        ("/model", None, answers.Described),
        ("/predict", b"x", answers.ProblemDocument),
        ("/nowhere", None, answers.ProblemDocument),
    ],
)
def test_answers_are_as_described(served: Live, path: str, body: bytes | None, answer: type[BaseModel]) -> None:
    """The classes that the description is made from refuse whatever they do not name."""
    reply = served.ask(path, body, PNG if body else None)
    answer.model_validate_json(reply.body, strict=True)
    with pytest.raises(ValueError, match="extra"):
        answer.model_validate({**reply.json, "more": 1})


def test_every_parameter_is_taken_in_the_query_and_in_the_form(served: Live, told: Any) -> None:
    values = {"tasks": "cls", "confidence": "0.5", "embeddings": "true", "level": "image"}
    values |= {"precision": "int8", "truncate_dim": "8"}
    for path in ("/predict", "/embed"):
        operation = told["paths"][path]["post"]
        names = [parameter["name"] for parameter in operation["parameters"]]
        fields = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
        assert set(fields) == {"image", *names}
        body, kind = form(picture(), {name: values[name] for name in names})
        assert served.ask(path, body, {"Content-Type": kind}).status == 200
        for name in names:
            assert served.ask(f"{path}?{name}={values[name]}", picture(), PNG).status == 200
        asked = PredictJson if path == "/predict" else EmbedJson
        assert set(asked.model_fields) == {"image", *names}
        for kind in operation["requestBody"]["content"]:
            if kind.startswith(("image/", "application/octet")):
                assert served.ask(path, picture(), {"Content-Type": kind}).status == 200


def test_the_token_is_described_where_there_is_one(model: UnifiedModel, told: Any) -> None:
    assert "security" not in told
    token = "a-token-of-enough-length"
    with live(model, token=token) as served:
        described = served.ask("/openapi.json", None, {"Authorization": f"Bearer {token}"}).json
    assert described["security"] == [{"token": []}]
    assert described["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
    assert all("401" in op["responses"] for item in described["paths"].values() for op in item.values())


def test_prometheus_reads_the_counters(served: Live) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    for body in (picture(), picture(), b"x"):
        served.ask("/predict", body, PNG)
    served.ask("/somewhere/else")
    text = served.ask("/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family.samples for family in parser.text_string_to_metric_families(text.body.decode())}

    def value(name: str, **labels: str) -> float:
        samples = families[name.removesuffix("_total").removesuffix("_count")]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    assert value("unified_requests_total", route="/predict", status="200") >= 2
    assert value("unified_requests_total", route="/predict", status="422") >= 1
    assert value("unified_requests_total", route="other", status="404") >= 1
    assert value("unified_refused_total", reason="bad-picture") >= 1
    assert value("unified_batch_pictures_count") >= 1
    assert value("unified_request_seconds_count", route="/predict") >= 3
    assert value("unified_held_pictures") == 0
    assert value("unified_info", model="spare", tasks="det,cls,emb") == 1
    assert "process_resident_memory_bytes" in families
    assert not any(family.endswith("_created") for family in families)


@pytest.mark.parametrize("path", ["/predict", "/embed", "/healthz", "/readyz", "/model", "/metrics", "/openapi.json"])
def test_a_stranger_finds_no_difference_between_words_and_deeds(served: Live, path: str) -> None:
    """Schemathesis makes requests from the description and holds every answer against it."""
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_dict(served.ask("/openapi.json").json)
    schema.config.update(base_url=f"http://127.0.0.1:{served.port}")
    checks = schemathesis.checks
    kept = [checks.CHECKS.get_one(name) for name in ("not_a_server_error", "status_code_conformance")]
    kept += [checks.CHECKS.get_one(name) for name in ("content_type_conformance", "response_schema_conformance")]
    operation = schema[path]["GET" if path not in ("/predict", "/embed") else "POST"]

    @given(case=operation.as_strategy())
    @settings(
        max_examples=15,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def holds(case: Any) -> None:
        case.call_and_validate(checks=kept)

    holds()
