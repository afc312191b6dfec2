# SPDX-License-Identifier: Apache-2.0
"""What a data set claims to label, against what it holds."""

from __future__ import annotations

from collections.abc import Mapping

from unified.contracts.config import DatasetConfig
from unified.contracts.errors import suggestion
from unified.contracts.protocols import Labels, tasks
from unified.data.lint.finding import Findings, shown
from unified.data.lint.words import Words, box_aliases


def task_tables(config: Mapping[str, DatasetConfig], kinds: Mapping[str, str] | None) -> dict[str, Labels | None]:
    """The table each task learns from; None for a name that no registered kind of task has.

    ``kinds``: the kind of each task of a run; without it, a task is of the kind it is named after.
    """
    named = kinds or {task: task for dataset in config.values() for task in dataset.labelled}
    known = tasks.names()
    return {task: tasks.get(kind).labels if kind in known else None for task, kind in named.items()}


def check_silence(
    name: str, config: DatasetConfig, tables: Mapping[str, Labels | None], file: str, findings: Findings
) -> None:
    """A data set that does not say what it labels, or says it of tasks that nobody knows."""
    where = f"datasets.{name}"
    said = {task: what for task, what in config.labelled.items() if what not in ("none", ())}
    if not said and "none" not in tables.values():  # a task may need no labels
        what = f"is {shown(dict(config.labelled))}" if config.labelled else "is missing"
        findings.add("says-nothing", file, where, "labelled", f"{what}: the data set does not say what it labels")
    for task in said:
        if tables.get(task, "") is None:
            reason = f"{shown(task)} is no kind of task{suggestion(task, tasks.names())}"
            findings.add("claims-unknown-task", file, where, "labelled", reason)


def check_claims(
    name: str, config: DatasetConfig, tables: Mapping[str, Labels | None], own: Words, file: str, findings: Findings
) -> None:
    """Classes that are claimed and unknown, and tables that are claimed and empty."""
    where = f"datasets.{name}"
    for task, said in config.labelled.items():
        table = tables.get(task)
        if table is None or table == "none" or said in ("none", ()):
            continue
        if table == "identities":
            if not own.identified:
                reason = f"task {shown(task)} is said to be labelled, but no record has an identity"
                findings.add("claims-nothing-there", file, where, "labelled", reason)
            continue
        words = own.boxes if table == "boxes" else own.tags
        if not words:
            reason = f"task {shown(task)} is said to be labelled, but there are no {table}"
            findings.add("claims-nothing-there", file, where, "labelled", reason)
        known = {*words, *box_aliases(config.aliases).values(), *config.aliases.tags.values()}
        for word in () if isinstance(said, str) else said:
            if words and word not in known:
                reason = f"class {shown(word)} of task {shown(task)} is none of its {table}{suggestion(word, words)}"
                findings.add("claims-unknown-class", file, where, "labelled", reason)
