# SPDX-License-Identifier: Apache-2.0
"""A YAML text as plain data that remembers where every value was written.

The dialect is YAML 1.2's core schema, because the 1.1 readings surprise people: here ``1e-3`` is a number, and ``no``,
``010`` and ``2024-01-01`` are texts, as they look. Only plain scalars, lists and mappings exist; tags are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from unified.contracts.errors import ConfigError

Keys = tuple[str | int, ...]
"""The way to a value: mapping keys and list positions from the root."""

LIMIT = 50_000  # values in one text; aliases can make far more out of a few lines
DEPTH = 40

_SCALARS = (
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789")),
    (
        "float",
        re.compile(
            r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        list("-+.0123456789"),
    ),
    ("merge", re.compile(r"^<<$"), ["<"]),
)
_RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
for _name, _pattern, _firsts in _SCALARS:
    for _first in _firsts:
        _RESOLVERS.setdefault(_first, []).append((f"tag:yaml.org,2002:{_name}", _pattern))

_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _RESOLVERS


class _Dumper(yaml.SafeDumper):
    # both dialects, so that a text which either would take for something else is put in quotes
    yaml_implicit_resolvers = {  # noqa: RUF012  (the base class declares it so)
        first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *_RESOLVERS.get(first, [])]
        for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_RESOLVERS}
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


@dataclass(frozen=True)
class Place:
    """Where a value was written, in the words an error shows."""

    text: str  # fod.yaml:7, or --set train.lr=1
    mount: int = 0  # how many keys of the whole configuration stand above the text's own root


@dataclass(frozen=True)
class Source:
    """Plain data and the place of each of its values; ``places`` always holds the root ``()``."""

    value: Any
    places: Mapping[Keys, Place] = field(default_factory=dict)

    def below(self, *keys: str | int) -> dict[Keys, Place]:
        """Places of the values under ``keys``, seen from there."""
        return {k[len(keys) :]: place for k, place in self.places.items() if k[: len(keys)] == keys}

    def under(self, *keys: str | int) -> Source:
        """The part of the data at ``keys``; its places' mounts are counted from there."""
        value = self.value
        for key in keys:
            value = value[key]
        places = {k: Place(p.text, max(p.mount - len(keys), 0)) for k, p in self.below(*keys).items()}
        return Source(value, {(): Place("configuration"), **places})


def read_source(path: Path) -> Source:
    """The data of a YAML file.

    Raises:
        ConfigError: no such file, not text, not YAML, a key twice, a tag, or something beyond plain data.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{shown_path(path)}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown_path(path)}: not a text file in UTF-8 (byte {error.start})") from error
    return parse_source(text, shown_path(path))


def shown_path(path: Path) -> str:
    """A path as a person would type it here: relative where it lies below the current folder."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def parse_source(text: str, name: str) -> Source:
    """The data of a YAML text; ``name`` stands before the line number in errors."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            return _Reader(loader, name).read(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line}: not valid YAML: {error.problem or error.context}") from error
    except RecursionError as error:
        raise ConfigError(f"{name}: not valid YAML: brackets nested too deeply") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from error


def parse_value(text: str, name: str) -> Any:
    """The value written after the ``=`` of an override."""
    try:
        return parse_source(text, name).value
    except ConfigError as error:
        raise ConfigError(str(error).replace(f"{name}:1:", f"{name}:", 1)) from error


def dump_yaml(value: Any) -> str:
    """Plain data as YAML that :func:`parse_source` reads back as the same data."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Reader:
    """Walks a node tree once, building data and places side by side."""

    def __init__(self, loader: _Loader, name: str) -> None:
        self.loader = loader
        self.name = name
        self.places: dict[Keys, Place] = {}
        self.count = 0

    def read(self, node: yaml.Node | None) -> Source:
        self.places[()] = Place(f"{self.name}:1")
        value = None if node is None else self._value(node, ())
        return Source(value, self.places)

    def _fail(self, node: yaml.Node, problem: str) -> ConfigError:
        return ConfigError(f"{self.name}:{node.start_mark.line + 1}: {problem}")

    def _value(self, node: yaml.Node, keys: Keys) -> Any:
        self.count += 1
        if self.count > LIMIT or len(keys) > DEPTH:
            raise self._fail(node, f"more than {LIMIT} values or {DEPTH} levels; is an alias repeated?")
        if node.tag not in _PLAIN:
            raise self._fail(
                node, f"tag '{node.tag.replace('tag:yaml.org,2002:', '!!')}' is not allowed; plain data only"
            )
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, keys)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(child, (*keys, i)) for i, child in enumerate(node.value)]
        return self._scalar(node)

    def _item(self, node: yaml.Node, keys: Keys) -> Any:
        self.places[keys] = Place(f"{self.name}:{node.start_mark.line + 1}")
        return self._value(node, keys)

    def _mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Any]:
        self._refuse_duplicates(node)
        self.loader.flatten_mapping(node)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            here = (*keys, key)
            self.places[here] = Place(f"{self.name}:{key_node.start_mark.line + 1}")
            result[key] = self._value(value_node, here)
        return result

    def _refuse_duplicates(self, node: yaml.MappingNode) -> None:
        first: dict[str, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            key = str(key_node.value)
            if key in first:
                raise self._fail(key_node, f"key '{key}' stands twice (first in line {first[key]}); remove one")
            first[key] = line

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode) or not node.tag.endswith(":str"):
            raise self._fail(node, f"the key {_shown(node)} is not a text; put it in quotes")
        return str(node.value)

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            value = self.loader.construct_object(node)  # type: ignore[no-untyped-call]
        except ValueError as error:
            raise self._fail(node, f"{_shown(node)} cannot be read: {error}") from error
        if isinstance(value, float) and (value != value or abs(value) == float("inf")):
            raise self._fail(node, f"{_shown(node)} is not a finite number")
        return value


def _shown(node: yaml.Node) -> str:
    return f"'{node.value}'" if isinstance(node, yaml.ScalarNode) else "here"
