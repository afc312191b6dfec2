# SPDX-License-Identifier: Apache-2.0
"""One annotation file as the linter sees it: plain records that may hold anything, each with its place in the file."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from unified.data.formats.flaw import Place
from unified.data.lint.finding import Findings, place, shown

Record = Mapping[str, Any]
KINDS: Final = ("images", "categories", "annotations")


@dataclass(frozen=True)
class Rows:
    """The records of one list that are objects, and where each stands in the file."""

    kind: str
    records: Sequence[Record]
    index: Sequence[int]
    places: Sequence[Place | None] = ()  # of records laid out from another format, where it is known

    def __len__(self) -> int:
        return len(self.records)

    def at(self, k: int) -> str:
        """The place of the k-th record, in words."""
        if self.places and (found := self.places[k]) is not None:
            return str(found)
        return place(self.kind, self.index[k], self.records[k])


@dataclass(frozen=True)
class Sheet:
    """A split of a data set: its records, the folder its pictures are in, and the name its faults are told under."""

    file: str
    images: Rows
    categories: Rows
    annotations: Rows
    folder: Path | None = None  # None: there are no pictures to look at
    document: Mapping[str, Any] = field(default_factory=dict)  # the whole file
    native: bool = True  # False: laid out from another format, which need not have boxes


def parse(data: bytes, file: str, findings: Findings) -> Mapping[str, Any] | None:
    """A file's JSON object; None, and a finding, where it is none. NaN and Infinity are read as numbers."""
    if data.startswith(b"\xef\xbb\xbf"):
        findings.add("byte-order-mark", file, "", "", "begins with a byte order mark")
    twice: dict[str, int] = {}

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(items)
        if len(record) != len(items):
            _count_repeats([key for key, _ in items], twice)
        return record

    try:
        document = json.loads(data.decode("utf-8-sig"), object_pairs_hook=pairs)
    except UnicodeDecodeError as error:
        findings.add("not-json", file, "", "", f"is not text in UTF-8 (byte {error.start})")
        return None
    except (ValueError, RecursionError) as error:
        findings.add("not-json", file, "", "", "is empty" if not data.strip() else f"is not JSON: {_reason(error)}")
        return None
    for key, times in twice.items():
        findings.add("key-twice", file, "", shown(key), f"stands more than once in {times} of the file's objects")
    if not isinstance(document, dict):
        what = "a bare list; are these detections, not a data set?" if isinstance(document, list) else shown(document)
        findings.add("not-an-object", file, "", "", f"holds {what}")
        return None
    return document


def _count_repeats(keys: Sequence[str], twice: dict[str, int]) -> None:
    for key in {key for key in keys if keys.count(key) > 1} if len(keys) < 1000 else {"(many)"}:
        twice[key] = twice.get(key, 0) + 1


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "brackets are nested too deep"
    return " ".join(str(error).split())[:120]


def lay_out(document: Mapping[str, Any], file: str, folder: Path | None, findings: Findings) -> Sheet | None:
    """The three lists of a document; None, and findings, where one is missing."""
    rows = {kind: _rows(document, kind, file, findings) for kind in KINDS}
    images, categories, annotations = (rows[kind] for kind in KINDS)
    if images is None or categories is None or annotations is None:
        return None
    return Sheet(file, images, categories, annotations, folder, document)


def _rows(document: Mapping[str, Any], kind: str, file: str, findings: Findings) -> Rows | None:
    value = document.get(kind)
    if not isinstance(value, list):
        near = difflib.get_close_matches(kind, [key for key in document if key not in KINDS], n=1, cutoff=0.6)
        hint = f" (did you mean {shown(near[0])}?)" if near else ""
        said = f"must be a list, got {shown(value)}" if kind in document else f"has no list '{kind}'{hint}"
        findings.add("list-missing", file, "", kind, said)
        return None
    if all(type(record) is dict for record in value):
        return Rows(kind, value, range(len(value)))
    good = []
    for k, record in enumerate(value):
        if isinstance(record, Mapping):
            good.append(k)
        else:
            findings.add("record-type", file, f"{kind}[{k}]", "", f"must be an object, got {shown(record)}")
    return Rows(kind, [value[k] for k in good], good)


def is_id(value: Any) -> bool:
    """Whole numbers and texts can be ids."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def identify(rows: Rows, noun: str, file: str, findings: Findings) -> tuple[dict[int | str, int], set[int | str]]:
    """The first record of every id, and the ids that stand more than once; faults named after ``noun``."""
    first: dict[int | str, int] = {}
    twice: set[int | str] = set()
    for k, record in enumerate(rows.records):
        ident = record.get("id")
        if ident is None:
            findings.add(f"{noun}-id-missing", file, rows.at(k), "id", "is missing")
        elif not is_id(ident):
            findings.add(f"{noun}-id-type", file, rows.at(k), "id", f"must be a number or a text, got {shown(ident)}")
        elif first.setdefault(ident, k) != k:
            twice.add(ident)
            other = f"{rows.kind}[{rows.index[first[ident]]}]"
            findings.add(f"{noun}-id-twice", file, rows.at(k), "id", f"{shown(ident)} is also that of {other}")
    return first, twice


def listed(words: Iterable[str], most: int = 5) -> str:
    """``a, b, c, ...``."""
    some = list(words)
    return ", ".join(shown(word, 40) for word in some[:most]) + (", …" if len(some) > most else "")
