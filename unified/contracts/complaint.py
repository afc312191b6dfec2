# SPDX-License-Identifier: Apache-2.0
"""What is wrong in a configuration, as one line a fault: where it stands, what was got, what was expected."""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from unified.contracts.errors import ConfigError, suggestion
from unified.contracts.source import Keys, Place, Source

M = TypeVar("M", bound=BaseModel)

SHOWN = 5  # faults told at once

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "bool_type": "true or false",
    "greater_than": "a number greater than {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number less than {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "literal_error": "{expected}",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


@dataclass(frozen=True)
class _Fault:
    keys: Keys
    problem: str
    expected: str = ""
    choices: tuple[str, ...] = ()


def validate(cls: type[M], source: Source, extra_keys: Mapping[Keys, Sequence[str]] | None = None) -> M:
    """The configuration of class ``cls`` written in ``source``. Types are strict: the text '3' is no number.

    Args:
        extra_keys: words a file may hold beside a mapping's own, for the list of known keys.

    Raises:
        ConfigError: up to five lines, one a fault.
    """
    try:
        return cls.model_validate_json(json.dumps(source.value), strict=True)
    except ValidationError as error:
        faults = [_fault(cls, source, details, extra_keys or {}) for details in error.errors(include_url=False)]
    lines = [_line(fault, source) for fault in _merged(faults)]
    raise ConfigError("\n".join(lines[:SHOWN]))


def place_of(keys: Keys, source: Source) -> Place:
    """Where a value stands, or the nearest thing above it that was written."""
    for length in range(len(keys), -1, -1):
        if keys[:length] in source.places:
            return source.places[keys[:length]]
    return Place("configuration")


def dotted(keys: Sequence[str | int]) -> str:
    """``latents[0].site`` for the keys to a value."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def known_keys(cls: type[BaseModel], keys: Keys) -> tuple[str, ...]:
    """The keys a mapping at ``keys`` may have, where the configuration's class says so."""
    for found in classes_at(cls, keys):
        return tuple(found.model_fields)
    return ()


def classes_at(annotation: Any, keys: Keys) -> Iterator[type[BaseModel]]:
    """The configuration classes that may stand at ``keys`` below a class or annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not keys:
            yield annotation
        elif keys[0] in annotation.model_fields:
            yield from classes_at(annotation.model_fields[str(keys[0])].annotation, keys[1:])
        return
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from classes_at(argument, keys)
    elif origin in (dict, tuple) and keys:
        yield from classes_at(arguments[1] if origin is dict else arguments[0], keys[1:])


def _written(value: Any, location: Sequence[str | int]) -> tuple[Keys, Any]:
    """The part of an error's location that leads through the text (the rest names union members), and what is there."""
    keys: list[str | int] = []
    for key in location:
        if (isinstance(value, dict) and key in value) or (isinstance(value, list) and isinstance(key, int)):
            value = value[key]  # type: ignore[index]
            keys.append(key)
    return tuple(keys), value


def _fault(cls: type[BaseModel], source: Source, details: ErrorDetails, extra: Mapping[Keys, Sequence[str]]) -> _Fault:
    location, context = details["loc"], details.get("ctx", {})
    keys, got = _written(source.value, location)
    if details["type"] == "extra_forbidden":
        parent = keys[:-1]
        beside = extra.get(parent, ()) if place_of(keys, source).mount else ()
        return _Fault(keys, "unknown", choices=(*known_keys(cls, parent), *beside))
    if details["type"] == "missing":
        return _Fault((*keys, location[-1]), "missing", choices=known_keys(cls, keys))
    if details["type"] not in _EXPECTED:
        return _Fault(keys, f"got {_shown(got)}; {details['msg'].removeprefix('Value error, ')}")
    expected = _EXPECTED[details["type"]].format(**context)
    if context.get("class_name") == "PartConfig":
        expected = "a name, or a mapping with a name and options"
    choices = tuple(part.strip("'") for part in expected.replace(" or ", ", ").split(", ")) if "'" in expected else ()
    return _Fault(keys, f"got {_shown(got)}", expected, choices)


def _merged(faults: Sequence[_Fault]) -> list[_Fault]:
    """Members of a union complain one by one; a person reads one line, of the member that fits best."""
    merged: dict[Keys, _Fault] = {}
    for fault in faults:
        if any(len(other.keys) > len(fault.keys) and other.keys[: len(fault.keys)] == fault.keys for other in faults):
            continue
        first = merged.get(fault.keys)
        if first is None:
            merged[fault.keys] = fault
        elif fault.expected and fault.expected not in first.expected:
            expected = f"{first.expected}, or {fault.expected}"
            merged[fault.keys] = _Fault(fault.keys, first.problem, expected, (*first.choices, *fault.choices))
    return list(merged.values())


def _line(fault: _Fault, source: Source) -> str:
    place = place_of(fault.keys, source)
    path = fault.keys[place.mount :]
    if fault.problem == "unknown":
        inside = f" in {dotted(path[:-1])}" if len(path) > 1 else ""
        return f"{place.text}: unknown key '{path[-1]}'{inside}{suggestion(str(path[-1]), fault.choices)}"
    if fault.problem == "missing":
        inside = f" in {dotted(path[:-1])}" if len(path) > 1 else ""
        return f"{place.text}: key '{path[-1]}' is missing{inside}; known: {', '.join(fault.choices)}"
    expected = f"; expected {fault.expected}" if fault.expected else ""
    return f"{place.text}: {dotted(path) or 'the whole'}: {fault.problem}{expected}{_near(fault, source)}"


def _near(fault: _Fault, source: Source) -> str:
    _, got = _written(source.value, fault.keys)
    near = difflib.get_close_matches(got, fault.choices, n=1, cutoff=0.6) if isinstance(got, str) else []
    return f" (did you mean '{near[0]}'?)" if near else ""


def _shown(value: Any) -> str:
    """A value as a person wrote it, shortened."""
    if isinstance(value, dict):
        return (
            f"a mapping ({', '.join(list(value)[:3])}{', …' if len(value) > 3 else ''})"
            if value
            else "an empty mapping"
        )
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = f"'{value}'" if isinstance(value, str) else json.dumps(value)
    if value is None:
        return "nothing"
    return text if len(text) <= 60 else text[:57] + "…'"
