# SPDX-License-Identifier: Apache-2.0
"""A JSON object whose long lists are handed over item by item, so that it never stands in memory as objects."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from unified.contracts.errors import DataError, suggestion

Taker = Callable[[int, Mapping[str, Any]], None]
"""Called with the position and the object of every item of a list."""

_SPACE: Final = re.compile(r"[ \t\r\n]*")


def read_lists(path: Path, takers: Mapping[str, Taker], shape: str) -> None:
    """Reads the file once, in its own order, and hands the items of the named lists to their takers.

    Args:
        path: a JSON file in UTF-8.
        takers: by key; each of these lists must be there, and hold objects.
        shape: what the file must be, for the error.

    Raises:
        DataError: the file is missing, is not JSON, is no object, or lacks a list.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"annotation file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"annotation file {path} is not JSON: {error}") from error
    try:
        found = _Walk(text, path, takers).object(shape)
    except (ValueError, RecursionError) as error:
        raise DataError(f"annotation file {path} is not JSON: {error}") from error
    for key in takers:
        if key not in found:
            raise DataError(f"{path} has no list '{key}'{suggestion(key, found)}")


def hand_lists(path: Path, document: Mapping[str, Any], takers: Mapping[str, Taker]) -> None:
    """What :func:`read_lists` does, of a file that somebody has parsed already.

    Raises:
        DataError: as there.
    """
    for key, taker in takers.items():
        if key not in document:
            raise DataError(f"{path} has no list '{key}'{suggestion(key, document)}")
        if not isinstance(items := document[key], list):
            raise DataError(f"{path} has no list '{key}'; its '{key}' is {type(items).__name__}")
        for k, item in enumerate(items):
            if not isinstance(item, dict):
                raise DataError(f"{path}: {key}[{k}] must be an object, got {type(item).__name__}")
            taker(k, item)


class _Walk:
    """One way through the text, from its first to its last character."""

    def __init__(self, text: str, path: Path, takers: Mapping[str, Taker]) -> None:
        self.text, self.path, self.takers = text, path, takers
        self.decode = json.JSONDecoder().raw_decode

    def object(self, shape: str) -> list[str]:
        """The keys of the object that the text is."""
        at = self._skip(0)
        if self.text[at : at + 1] != "{":
            self.decode(self.text, at)  # not JSON at all is told as such
            raise DataError(f"annotation file {self.path} must hold {shape}")
        at, keys = self._skip(at + 1), []
        if self.text[at : at + 1] != "}":
            while True:
                key, at = self._key(at)
                if key in keys:
                    raise DataError(f"{self.path}: the key '{key}' stands twice; remove one")
                keys.append(key)
                at = self._value(key, at)
                if self.text[at : at + 1] != ",":
                    break
                at = self._skip(at + 1)
        self._expect("}", at)
        if (end := self._skip(at + 1)) != len(self.text):
            raise json.JSONDecodeError("Extra data", self.text, end)
        return keys

    def _skip(self, at: int) -> int:
        match = _SPACE.match(self.text, at)
        return match.end() if match else at

    def _expect(self, character: str, at: int) -> None:
        if self.text[at : at + 1] != character:
            raise json.JSONDecodeError(f"Expecting '{character}' or ','", self.text, at)

    def _key(self, at: int) -> tuple[str, int]:
        if self.text[at : at + 1] != '"':
            raise json.JSONDecodeError("Expecting property name enclosed in double quotes", self.text, at)
        key, at = self.decode(self.text, at)
        at = self._skip(at)
        if self.text[at : at + 1] != ":":
            raise json.JSONDecodeError("Expecting ':' delimiter", self.text, at)
        return key, self._skip(at + 1)

    def _value(self, key: str, at: int) -> int:
        taker = self.takers.get(key)
        if taker is not None and self.text[at : at + 1] == "[":
            return self._items(key, taker, at + 1)
        value, at = self.decode(self.text, at)
        if taker is not None:
            raise DataError(f"{self.path} has no list '{key}'; its '{key}' is {type(value).__name__}")
        return self._skip(at)

    def _items(self, key: str, taker: Taker, at: int) -> int:
        at, k = self._skip(at), 0
        text, decode, space = self.text, self.decode, _SPACE.match
        if text[at : at + 1] == "]":
            return self._skip(at + 1)
        while True:
            item, at = decode(text, at)
            if not isinstance(item, dict):
                raise DataError(f"{self.path}: {key}[{k}] must be an object, got {type(item).__name__}")
            taker(k, item)
            at, k = space(text, at).end(), k + 1  # type: ignore[union-attr]
            if text[at : at + 1] != ",":
                break
            at = space(text, at + 1).end()  # type: ignore[union-attr]
        self._expect("]", at)
        return self._skip(at + 1)
