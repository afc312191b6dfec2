# SPDX-License-Identifier: Apache-2.0
"""``log.jsonl`` of a run, read back whatever a crash or a newer version left in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Points = tuple[list[float], list[float]]  # steps, values


@dataclass(frozen=True)
class RunLog:
    """Lines of the log by what they tell: logged steps, evaluations, and all else that happened."""

    steps: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]

    def series(self, kind: str, name: str | None = None) -> dict[str, Points]:
        """(steps, values) by name of ``losses`` or ``metrics``, or with ``name`` of one plain number of every step."""
        entries = self.evaluations if kind == "metrics" else self.steps
        found: dict[str, Points] = {}
        for entry in entries:
            values = {name: entry.get(name)} if name else entry.get(kind)
            step = entry.get("step")
            if not isinstance(step, int | float) or not isinstance(values, Mapping):
                continue
            for key, value in values.items():
                if isinstance(value, int | float) and math.isfinite(value):
                    x, y = found.setdefault(str(key), ([], []))
                    x.append(float(step))
                    y.append(float(value))
        return found

    @property
    def seconds(self) -> float:
        """Of training, by the last line that tells."""
        told = [e["seconds"] for e in (*self.steps, *self.evaluations) if isinstance(e.get("seconds"), int | float)]
        return float(max(told, default=0.0))

    @property
    def last_step(self) -> int:
        told = [e["step"] for e in (*self.steps, *self.evaluations) if isinstance(e.get("step"), int)]
        return max(told, default=0)


def read_log(run: Path) -> RunLog:
    """The log in a run's folder; lines that are no JSON object, such as one cut off by a crash, are left out."""
    steps, evaluations, events = list[Any](), list[Any](), list[Any]()
    path = run / "log.jsonl"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            (evaluations if "metrics" in entry else steps if "losses" in entry else events).append(entry)
    return RunLog(steps, evaluations, events)
