# SPDX-License-Identifier: Apache-2.0
"""Tasks that a dataset is said to label but gives nothing to learn from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from unified.contracts.errors import DataError
from unified.contracts.protocols import Task
from unified.data.mixing import Mixture

LOOKED_AT: Final = 20  # images of a dataset


def unfed(mixture: Mixture, tasks: Mapping[str, Task]) -> list[str]:
    """One line for every dataset whose images lack what a task learns from (``Task.learns_from``)."""
    lines = []
    for dataset, served in mixture.serves.items():
        wanted = {name: set(tasks[name].learns_from) for name in served if name in tasks and tasks[name].learns_from}
        found = _extras(mixture, dataset) if wanted else set()
        lost = {task: " and no ".join(sorted(names - found)) for task, names in wanted.items() if names - found}
        lines += [
            f"dataset '{dataset}' is said to label '{task}', but its first images have no {words}"
            for task, words in lost.items()
        ]
    return lines


def _extras(mixture: Mixture, dataset: str) -> set[str]:
    """Names of what the first images carry beside boxes and tags."""
    found: set[str] = set()
    for index in range(min(LOOKED_AT, len(mixture.sources[dataset]))):
        try:
            found |= set(mixture.sources[dataset].read(index).annotations.extras)
        except DataError:  # of unreadable pictures others tell
            continue
    return found
