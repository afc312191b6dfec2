# SPDX-License-Identifier: Apache-2.0
"""When to stop early: a run whose score does not get better any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Patience:
    """Counts evaluations since the score was last better.

    Args:
        evaluations: in a row without a better score that are borne; None: any number.
        gain: a score is better if it exceeds the best before it by more than this.
    """

    def __init__(self, evaluations: int | None, gain: float = 0.0) -> None:
        self.evaluations, self.gain = evaluations, gain
        self.best: float | None = None
        self.waited = 0

    def tell(self, score: float) -> None:
        """One evaluation has been made."""
        if self.best is None or score > self.best + self.gain:
            self.best, self.waited = score, 0
        else:
            self.waited += 1

    @property
    def over(self) -> bool:
        """Whether the run should end."""
        return self.evaluations is not None and self.waited >= self.evaluations

    def reason(self) -> str:
        """One line for whoever asks why the run has ended."""
        more = f" by more than {self.gain:g}" if self.gain else ""
        return f"stopped early: no score better than {self.best or 0.0:.4f}{more} in {self.waited} evaluations"

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on counting where a checkpoint was written; one of an older version begins anew."""
        self.best, self.waited = state.get("best"), int(state.get("waited", 0))
