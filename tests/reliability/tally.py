# SPDX-License-Identifier: Apache-2.0
"""Counts what a harness tried, what failed, and whether its control failed as it must."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LOG = os.environ.get("UNIFIED_RELIABILITY_LOG")  # a file that gets a line for every trial, to follow a long run
ROW = "reliability"
SHOWN = 5  # failures that are told


class Tally:
    """One harness's row.

    Args:
        scale: of the counts; 0 for the share that the ordinary run takes.
        properties: of the test, where the row is left for the table.
    """

    def __init__(self, scale: float, properties: list[tuple[str, Any]]) -> None:
        self.scale, self._properties = scale, properties
        self.name, self.what = "", ""
        self.trials = self.failures = self.control_trials = self.control_failures = 0
        self.control_what = ""
        self.faults: list[str] = []
        self.notes: list[str] = []
        self.told = False
        self._start = time.monotonic()

    @property
    def full(self) -> bool:
        """Whether this is more than the ordinary run's share."""
        return self.scale > 0

    def begin(self, name: str, what: str = "") -> None:
        """Names the row."""
        self.name, self.what = name, what

    def count(self, full: int, share: int) -> int:
        """How many trials to make."""
        return max(share, round(full * self.scale)) if self.full else share

    def add(self, good: bool, text: str = "") -> None:
        """One trial has been made."""
        self.trials += 1
        if not good:
            self.failures += 1
            self.faults.append(text)
        if LOG:
            with Path(LOG).open("a") as log:
                log.write(f"{self.name}: trial {self.trials}, {self.failures} failed{'' if good else f': {text}'}\n")

    def control(self, trials: int, failures: int, what: str = "") -> None:
        """The way that must fail has been tried."""
        self.control_trials += trials
        self.control_failures += failures
        self.control_what = what or self.control_what

    def note(self, text: str) -> None:
        """A fact for the row."""
        self.notes.append(text)

    def verdict(self) -> None:
        """Leaves the row for the table; then fails if a trial did, or if the control did not."""
        self.told = True
        self._properties.append((ROW, self.row()))
        shown = "\n".join(self.faults[:SHOWN])
        assert self.trials, f"{self.name}: nothing was tried"
        assert not self.failures, f"{self.name}: {self.failures} of {self.trials} failed:\n{shown}"
        assert self.control_failures, f"{self.name}: the control ({self.control_what}) did not fail: it sees nothing"

    def row(self) -> dict[str, Any]:
        """The row as plain data, which may travel between processes."""
        return {
            "name": self.name,
            "what": self.what,
            "trials": self.trials,
            "failures": self.failures,
            "bound": bound(self.trials, self.failures),
            "control": f"{self.control_failures} of {self.control_trials}",
            "control_what": self.control_what,
            "notes": "; ".join(self.notes),
            "seconds": time.monotonic() - self._start,
        }


def bound(trials: int, failures: int) -> str:
    """What may be said of the rate with 95 % confidence: by the rule of three where nothing failed."""
    if failures or not trials:
        return "-"
    percent = 300 / trials
    return "none" if percent >= 100 else f"<= {percent:.2g} %"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as lines of text, columns in line, and their sum."""
    heads = ("harness", "trials", "failures", "95 % bound", "control failed", "time")
    lines = [heads, *(_cells(row) for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(heads))]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    shown = [_line(heads, widths), rule]
    for row, cells in zip(rows, lines[1:], strict=True):
        shown.append(_line(cells, widths))
        told = (("tried", row["what"]), ("control", row["control_what"]), ("found", row["notes"]))
        shown += [f"  {name + ':':<9}{text}" for name, text in told if text]
    return "\n".join([*shown, rule, _sum(rows)])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    minutes, seconds = divmod(round(row["seconds"]), 60)
    counts = (f"{row['trials']:,}", f"{row['failures']:,}")
    return (row["name"], *counts, row["bound"], row["control"], f"{minutes}:{seconds:02d}")


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]).rstrip()


def _sum(rows: Sequence[dict[str, Any]]) -> str:
    trials, failures = (sum(row[key] for row in rows) for key in ("trials", "failures"))
    blind = [row["name"] for row in rows if row["control"].startswith("0 ")]
    seen = f"the control of {', '.join(blind)} did not fail" if blind else "every control failed, as it must"
    many = f"{len(rows)} harness{'es' if len(rows) > 1 else ''}"
    return f"{many}, {trials:,} trials, {failures:,} failures; {seen}"
