# SPDX-License-Identifier: Apache-2.0
"""Counts what a harness tried, what failed, and whether its control failed as it must."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

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
    return f"<= {100 * min(1.0, 3 / trials):.2g} %"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as lines of text, columns in line."""
    heads = ("harness", "trials", "failures", "95 % bound", "control failed", "seconds")
    lines = [heads] + [
        (r["name"], str(r["trials"]), str(r["failures"]), r["bound"], r["control"], f"{r['seconds']:.0f}") for r in rows
    ]
    widths = [max(len(line[k]) for line in lines) for k in range(len(heads))]
    shown = []
    for k, line in enumerate(lines):
        cells = [cell.ljust(widths[0]) if i == 0 else cell.rjust(widths[i]) for i, cell in enumerate(line)]
        shown.append("  ".join(cells).rstrip())
        if k:
            row = rows[k - 1]
            said = [row["what"], row["control_what"] and f"control: {row['control_what']}", row["notes"]]
            shown += [f"    {text}" for text in said if text]
    return "\n".join(shown)
