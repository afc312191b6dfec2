# SPDX-License-Identifier: Apache-2.0
"""A bar for long work, on standard error and only where somebody watches it."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """Counts what is done; a context manager.

    Args:
        what: is counted, such as ``pictures``.
        total: how many there are, where it is known.
        quiet: show nothing, as where standard error is no terminal.
    """

    def __init__(self, what: str, total: int | None = None, quiet: bool = False) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        shown = not quiet and sys.stderr.isatty()
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown)
        self._task = self._progress.add_task(what, total=total)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def of(self, total: int) -> None:
        """How many there are."""
        self._progress.update(self._task, total=total)

    def add(self, done: int = 1) -> None:
        """So many more are done."""
        self._progress.advance(self._task, done)
