# SPDX-License-Identifier: Apache-2.0
"""The whole look at a data file: every split of every data set, then what only shows between them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unified.contracts.config import DataConfig, DatasetConfig
from unified.contracts.errors import DataError, UnifiedError
from unified.contracts.protocols import Labels, datasets
from unified.data.lint.claims import check_claims, check_silence, task_tables
from unified.data.lint.counts import Counts, count_states
from unified.data.lint.finding import SEVERITIES, Findings
from unified.data.lint.likeness import BUDGET
from unified.data.lint.part import Part, read_parts
from unified.data.lint.pictures import Depth
from unified.data.lint.splits import Pair, Shared, check_between
from unified.data.lint.words import read_words
from unified.data.source import Source

_SHOWN = 10  # faults that a refusal names


@dataclass(frozen=True, eq=False)
class Report:
    """All that was found."""

    file: str
    findings: Findings
    parts: tuple[Part, ...]
    counts: tuple[Counts, ...]
    shared: tuple[Shared, ...]  # classes that data sets have in common
    pairs: tuple[Pair, ...]  # pictures of train and val that look the same
    looked: str  # how many pictures were compared; empty: none
    drawn: tuple[str, ...]  # data sets that are drawn, not read
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """For the command line's ``--json``."""
        return {
            "file": self.file,
            "refused": self.findings.refused,
            **{f"{severity}s": self.findings.number(severity) for severity in SEVERITIES},
            "findings": [vars(finding) for finding in self.findings],
            "counts": [count.as_json() for counts in self.counts for count in counts.rows],
            "overlap": [vars(shared) for shared in self.shared],
            "near_duplicates": [pair.as_json() for pair in self.pairs],
            "compared": self.looked,
            "seconds": round(self.seconds, 3),
        }


def lint(
    config: DataConfig,
    base: Path,
    file: str,
    *,
    kinds: Mapping[str, str] | None = None,
    depth: Depth = "headers",
    compare: int | None = BUDGET,
) -> Report:
    """Looks at everything a data file names, and changes nothing.

    Args:
        config: the data sets.
        base: folder that their relative paths start from.
        file: the data file's name, for what is said of it.
        kinds: the kind of each task of a run; by default tasks are of the kind they are named after.
        depth: how far to look at pictures.
        compare: most pictures to compare between train and val; None: all of them; 0: none.
    """
    start, findings = time.perf_counter(), Findings()
    tables = task_tables(config.datasets, kinds)
    drawn = tuple(name for name, dataset in config.datasets.items() if _is_drawn(dataset))
    parts: list[Part] = []
    for name, dataset in config.datasets.items():
        check_silence(name, dataset, tables, file, findings)
        if name not in drawn:
            parts += read_parts(name, dataset, base, file, depth, findings)
    for name, dataset in config.datasets.items():
        if (part := next((part for part in parts if part.dataset == name), None)) is not None:
            own = read_words(part.examined.sheet, part.examined.classes.names, dataset)
            if part.examined.sheet.native:
                check_claims(name, dataset, tables, own, file, findings)
    shared, pairs, looked = check_between(parts, file, compare, depth != "records", findings)
    counts = [] if depth == "records" else [_count(part, tables, file, findings) for part in parts if part.source]
    seconds = time.perf_counter() - start
    return Report(file, findings, tuple(parts), tuple(counts), shared, pairs, looked, drawn, seconds)


def refuse_faults(config: DataConfig, base: Path, file: str, kinds: Mapping[str, str]) -> list[str]:
    """What training asks before its first step: the records alone, within seconds.

    Returns:
        The warnings, a line each.

    Raises:
        DataError: faults that training would have to guess about, a line each.
    """
    report = lint(config, base, file, kinds=kinds, depth="records", compare=0)
    errors = [finding.line for finding in report.findings if finding.severity == "error"]
    if not errors:
        return [finding.line for finding in report.findings if finding.severity == "warning"]
    number = report.findings.number("error")
    if number == 1:
        raise DataError(errors[0])
    more = [f"and {number - _SHOWN} more"] if number > _SHOWN else []
    head = f"{number} faults in the data; unified-lint {file} shows all, --fix FOLDER mends a copy"
    raise DataError("\n".join([head, *errors[:_SHOWN], *more]))


def _is_drawn(dataset: DatasetConfig) -> bool:
    """Whether the format has no files that could be wrong. An unknown format is told when it is opened."""
    try:
        cls = datasets.get(dataset.format)
    except UnifiedError:
        return False
    return issubclass(cls, Source) and cls.renders


def _count(part: Part, tables: Mapping[str, Labels | None], file: str, findings: Findings) -> Counts:
    def refused(task: str, reason: str) -> None:
        if not part.examined.sheet.native:  # else the claims were checked against the records
            findings.add("claims-unknown-class", file, f"datasets.{part.dataset}", f"labelled.{task}", reason)

    assert part.source is not None
    return count_states(part.source, part.config, part.split, tables, refused)
