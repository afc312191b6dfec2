# SPDX-License-Identifier: Apache-2.0
"""Where a run stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass
class Progress:
    """Saved with every checkpoint."""

    step: int = 0
    passes: int = 0  # forward passes, of which steps are made
    images: int = 0
    seconds: float = 0.0  # of training, over all sessions of the run
    best: float = float("-inf")
    evaluated: float = 0.0  # share of the run at the last evaluation
    skipped: int = 0  # steps that were left out because numbers were not finite
    in_a_row: int = 0  # of them, the last ones
    portions: int = 1  # in which a batch goes through, where memory is short

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "best": self.best if math.isfinite(self.best) else None}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Progress:
        """From :meth:`state`, of an older version perhaps."""
        known = {field.name: state[field.name] for field in fields(cls) if field.name in state}
        return cls(**{**known, "best": float("-inf") if known.get("best") is None else known["best"]})
