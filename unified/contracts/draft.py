# SPDX-License-Identifier: Apache-2.0
"""A configuration in the making: one tree of plain data out of several texts, each value knowing where it came from."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from unified.contracts.complaint import classes_at, dotted
from unified.contracts.config import PartConfig, RunConfig
from unified.contracts.errors import ConfigError, suggestion
from unified.contracts.source import Keys, Place, Source, parse_value

_NAMED_ELSEWHERE = {"tasks": "--tasks", "model": "--model", "data": "--data"}


class Draft:
    """Grows by mounting texts at their place and by single overrides; the last word counts."""

    def __init__(self) -> None:
        self.value: dict[str, Any] = {}
        self.places: dict[Keys, Place] = {(): Place("configuration")}
        self.single_dataset = False

    def source(self) -> Source:
        """The tree so far."""
        return Source(self.value, self.places)

    def mount(self, source: Source, keys: Keys) -> None:
        """Puts a whole text at ``keys``."""
        self.single_dataset |= len(keys) == 3
        self._reach(keys[:-1])[keys[-1]] = source.value
        for inner, place in source.places.items():
            self.places[(*keys, *inner)] = Place(place.text, len(keys))

    def adopt(self, value: Any, keys: Keys, places: Mapping[Keys, Place]) -> None:
        """Puts a value of a text whose keys already are those of the whole configuration."""
        self._reach(keys[:-1])[keys[-1]] = value
        self.places.update({(*keys, *inner): place for inner, place in places.items()})

    def replace(self, items: Sequence[Source], keys: Keys) -> None:
        """Puts a list of values, each with the places it was written at, where something else stood."""
        for known in [known for known in self.places if known[: len(keys)] == keys]:
            del self.places[known]
        self._reach(keys[:-1])[keys[-1]] = [item.value for item in items]
        for i, item in enumerate(items):
            self.places.update({(*keys, i, *inner): place for inner, place in item.places.items()})

    def override(self, text: str) -> None:
        """One ``key=value``. The value is YAML; a key without a dot may be any that is unique in the configuration.

        Raises:
            ConfigError: no ``=``, or a key that nothing or more than one thing answers to.
        """
        key, equals, written = text.partition("=")
        key = key.strip()
        place = f"--set {text}"
        if not equals or not key:
            raise ConfigError(f"{place}: expected key=value, such as lr=0.01")
        self.put(self._resolve(key, place), parse_value(written, place), place)

    def put(self, keys: Keys, value: Any, place: str) -> None:
        """Sets one value and remembers whose word it was."""
        parent = self._parent(keys, place)
        last = self._index(parent, keys[-1], place)
        parent[last] = value
        where = (*self._exact(keys[:-1]), last)
        for known in [known for known in self.places if known[: len(where)] == where]:
            del self.places[known]
        self.places[where] = Place(place)

    def _exact(self, keys: Keys) -> Keys:
        """List positions written as text become numbers."""
        node: Any = self.value
        exact: list[str | int] = []
        for key in keys:
            exact.append(int(key) if isinstance(node, list) else key)
            node = node[exact[-1]]
        return tuple(exact)

    def _reach(self, keys: Keys) -> dict[Any, Any]:
        node: Any = self.value
        for key in keys:
            node = node.setdefault(key, {})
        return node  # type: ignore[no-any-return]

    def _parent(self, keys: Keys, place: str) -> Any:
        node: Any = self.value
        for depth in range(1, len(keys)):
            at = keys[:depth]
            key = self._index(node, at[-1], place)
            if isinstance(node, dict):
                self._refuse_new_name(node, at, place)
                node[key] = _opened(node.get(key), at)
            node = node[key]
        if not isinstance(node, dict | list):
            raise ConfigError(f"{place}: {dotted(keys[:-1])} is {node!r} and has no '{keys[-1]}'")
        if isinstance(node, dict):
            self._refuse_new_name(node, keys, place)
        return node

    def _refuse_new_name(self, node: Mapping[str, Any], keys: Keys, place: str) -> None:
        """Tasks and datasets are named by their own options; an override only changes those that are there."""
        if keys[:-1] in (("tasks",), ("data", "datasets")) and keys[-1] not in node and not place.startswith("--tasks"):
            word = "task" if keys[0] == "tasks" else "dataset"
            raise ConfigError(f"{place}: this run has no {word} '{keys[-1]}'{suggestion(str(keys[-1]), node)}")

    @staticmethod
    def _index(node: Any, key: str | int, place: str) -> str | int:
        if not isinstance(node, list):
            return key
        if not str(key).isdigit() or int(key) >= len(node):
            raise ConfigError(f"{place}: '{key}' is not a position in a list of {len(node)}; they count from 0")
        return int(key)

    def _resolve(self, key: str, place: str) -> Keys:
        settings = tuple(_settings(RunConfig, ()))
        if key in _NAMED_ELSEWHERE:
            raise ConfigError(f"{place}: {key} is chosen with {_NAMED_ELSEWHERE[key]}")
        if "." in key or key in RunConfig.model_fields:
            if key.split(".")[0] not in RunConfig.model_fields:
                hint = next((f" (did you mean '{dotted(s)}'?)" for s in settings if dotted(s).endswith(f".{key}")), "")
                raise ConfigError(f"{place}: unknown key '{key}'; it must begin with {_roots()}{hint}")
            return tuple(key.split("."))
        found = [s for s in settings if s[-1] == key]
        found = [s for s in found if s[0] == "train"] or found  # most words are said of training
        found = [s for s in found if s == ("train", key)] or found
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(f"{place}: '{key}' could be {' or '.join(map(dotted, found))}; write one of them in full")
        names = [str(s[-1]) for s in settings]
        near = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise ConfigError(
            f"{place}: unknown key '{key}'{hint}; below a name of your own write in full: tasks.det.weight=2"
        )


def _roots() -> str:
    return ", ".join(f"{name}." for name in RunConfig.model_fields)


def _opened(value: Any, keys: Keys) -> Any:
    """A part's short form as a mapping, so that an option can be added; nothing as an empty mapping."""
    found = next(classes_at(RunConfig, keys), None)
    if found is PartConfig and isinstance(value, str):
        return {"name": value}
    if found is PartConfig and value is None:
        parent = next(classes_at(RunConfig, keys[:-1]), None)
        default = parent.model_fields[str(keys[-1])].default if parent else None
        return {"name": default.name} if isinstance(default, PartConfig) else {}
    return {} if value is None else value


def _settings(cls: type[BaseModel], above: Keys) -> Iterator[Keys]:
    """Every key of the configuration that stands at a fixed place: not below a name that a person chose."""
    for name in cls.model_fields:
        inner = next(classes_at(cls, (name,)), None)
        if inner is None or inner is PartConfig:
            yield (*above, name)
        else:
            yield from _settings(inner, (*above, name))
