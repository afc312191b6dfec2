# SPDX-License-Identifier: Apache-2.0
"""What the linter says: one fault, one line, with file, record, field, reason and what will be done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from unified.data.formats.flaw import Place
from unified.data.lint.faults import ELSEWHERE, FAULTS

Severity = Literal["error", "warning", "note"]
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "note")

KEPT: Final = 10_000  # lines of one fault in one file; more are only counted


@dataclass(frozen=True)
class Finding:
    """One fault. ``error``: training refuses it; ``warning``: it is told; ``note``: worth knowing."""

    fault: str  # a key of FAULTS
    severity: Severity
    file: str
    record: str  # such as annotations[3] (id 17); empty: the whole file
    field: str  # such as bbox; empty: the whole record
    reason: str
    action: str

    @property
    def line(self) -> str:
        """The one line a person reads."""
        where = f"{self.record}.{self.field}" if self.record and self.field else self.record or self.field
        return f"{self.file}: {where + ': ' if where else ''}{self.reason}; {self.action}"


class Findings:
    """The faults found so far. The same line is told once."""

    def __init__(self) -> None:
        self._told: dict[Finding, None] = {}
        self.counts: Counter[tuple[str, str]] = Counter()  # by (file, fault), also of lines that were not kept

    def add(self, fault: str, file: str, record: str, field: str, reason: str, action: str = "") -> None:
        """Files one fault; its severity and, if ``action`` says nothing else, what will be done are the catalogue's."""
        entry = FAULTS[fault]
        finding = Finding(fault, entry.severity, file, record, field, reason, action or entry.action)
        if finding in self._told:
            return
        self.counts[file, fault] += 1
        if self.counts[file, fault] <= KEPT:
            self._told[finding] = None

    def __iter__(self) -> Iterator[Finding]:
        """Errors first, then warnings, then notes; otherwise in the order they were found."""
        return iter(sorted(self._told, key=lambda finding: SEVERITIES.index(finding.severity)))

    def __len__(self) -> int:
        return sum(self.counts.values())

    def number(self, severity: Severity) -> int:
        """How many faults there are of one severity."""
        return sum(count for (_, fault), count in self.counts.items() if FAULTS[fault].severity == severity)

    def refused_in(self, files: Iterable[str]) -> bool:
        """Whether training would refuse any of these files."""
        wanted = set(files)
        return any(file in wanted and FAULTS[fault].severity == "error" for file, fault in self.counts)

    @property
    def refused(self) -> bool:
        """Whether training would refuse this data."""
        return self.number("error") > 0


class Elsewhere(Findings):
    """Files what is found in records laid out from another format under the places they were read from.

    Args:
        findings: where all of it goes.
        places: by what the records are called.
    """

    def __init__(self, findings: Findings, places: Mapping[str, Place]) -> None:
        self.findings, self.places = findings, places

    def add(self, fault: str, file: str, record: str, field: str, reason: str, action: str = "") -> None:
        found = self.places.get(record, Place(file, record))
        where = "box" if field == "bbox" and record in self.places else field
        self.findings.add(fault, found.file, found.record, where, reason, action or ELSEWHERE.get(fault, ""))


def shown(value: Any, most: int = 60) -> str:
    """A value of a file as text on one line, however odd it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= most else f"{text[: most - 1]}…"


def place(kind: str, index: int, record: Mapping[str, Any]) -> str:
    """``annotations[3] (id 17)``."""
    ident = record.get("id")
    known = isinstance(ident, int | str) and not isinstance(ident, bool)
    return f"{kind}[{index}] (id {shown(ident, 30)})" if known else f"{kind}[{index}]"
