# SPDX-License-Identifier: Apache-2.0
"""From numbers to places in a drawing, and to words."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """``low`` lies at ``start``, ``high`` at ``end``, in units of the drawing."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        span = self.high - self.low
        share = (value - self.low) / span if span > 0 else 0.5
        return self.start + share * (self.end - self.start)

    @property
    def told(self) -> str:
        """For whoever reads places back into numbers."""
        return f"{self.low:.8g},{self.high:.8g},{self.start:g},{self.end:g}"


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between two, about so many."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float | None) -> str:
    """A number in few characters: 12,345, 0.615, 3.2e-05; nothing for a gap."""
    if value is None or not math.isfinite(value):
        return ""
    if value == round(value) and abs(value) < 1e15:
        return f"{round(value):,}"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1e}" if size < 1e-3 else f"{value:.4g}" if size >= 1 else f"{value:.3f}".rstrip("0")


def clock(seconds: float) -> str:
    """Seconds as 1:02:03, or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
