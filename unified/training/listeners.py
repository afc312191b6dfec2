# SPDX-License-Identifier: Apache-2.0
"""Whoever else listens to a run, by the names in ``logging``."""

from __future__ import annotations

from collections.abc import Sequence

from unified.contracts import protocols
from unified.contracts.config import RunConfig
from unified.training.monitor import EvaluationRecord, Monitor, Plan, RunSummary, StepRecord


class Together(Monitor):
    """Several listeners as one, in their order."""

    def __init__(self, listeners: Sequence[Monitor]) -> None:
        self.listeners = tuple(listeners)

    def start(self, plan: Plan) -> None:
        for listener in self.listeners:
            listener.start(plan)

    def step(self, record: StepRecord) -> None:
        for listener in self.listeners:
            listener.step(record)

    def evaluation(self, record: EvaluationRecord) -> None:
        for listener in self.listeners:
            listener.evaluation(record)

    def message(self, text: str) -> None:
        for listener in self.listeners:
            listener.message(text)

    def end(self, summary: RunSummary) -> None:
        for listener in self.listeners:
            listener.end(summary)

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()


def listeners(config: RunConfig) -> list[Monitor]:
    """The configured listeners.

    Raises:
        UnifiedError: an unknown name, or a package that is not installed.
    """
    return [protocols.loggers.get(name)() for name in config.train.logging]
