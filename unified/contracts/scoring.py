# SPDX-License-Identifier: Apache-2.0
"""A task's own metric and those that a configuration adds to it, as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Curve, Metric, Task
from unified.contracts.section import Explains, Section
from unified.contracts.structures import Batch, Prediction


@runtime_checkable
class Shared(Protocol):
    """A metric whose evidence several ranks may gather, each on images of its own.

    What they gathered is put together in the order of the images and gives the scores of one process. Without this the
    first rank evaluates all images of every task.
    """

    def evidence(self) -> Mapping[str, Any]:
        """All that was gathered: plain data as JSON has it, in which tensors may stand."""

    def extend(self, evidence: Mapping[str, Any]) -> None:
        """Adds what another one gathered, behind what is here; tuples have become lists."""


def shareable(metric: Metric) -> bool:
    """Whether a metric, and every metric of several, is :class:`Shared`."""
    parts = metric.parts if isinstance(metric, Metrics) else (metric,)
    return all(isinstance(part, Shared) for part in parts)


class Metrics:
    """Several metrics of one task; their scores stand side by side.

    Args:
        task: its name, for errors.
        parts: the task's own first.
    """

    def __init__(self, task: str, parts: Sequence[Metric]) -> None:
        self.task = task
        self.parts = tuple(parts)

    def update(self, output: Any, predictions: Sequence[Prediction], batch: Batch) -> None:
        for part in self.parts:
            part.update(output, predictions, batch)

    def compute(self) -> dict[str, float]:
        """Scores by short name.

        Raises:
            ConfigError: two metrics give a score of one name.
        """
        return self._joined([part.compute() for part in self.parts], "score")

    def curves(self) -> dict[str, list[Curve]]:
        return self._joined([part.curves() for part in self.parts], "curve")

    def evidence(self) -> Mapping[str, Any]:
        """That of every metric, by its place; all of them must be :class:`Shared`."""
        return {str(k): part.evidence() for k, part in enumerate(self.parts) if isinstance(part, Shared)}

    def extend(self, evidence: Mapping[str, Any]) -> None:
        for k, part in enumerate(self.parts):
            if isinstance(part, Shared):
                part.extend(evidence[str(k)])

    def sections(self) -> list[Section]:
        return [section for part in self.parts if isinstance(part, Explains) for section in part.sections()]

    def __getattr__(self, name: str) -> Any:
        """What else the task's own metric knows."""
        if name == "parts":
            raise AttributeError(name)
        return getattr(self.parts[0], name)

    def _joined(self, found: Sequence[Mapping[str, Any]], what: str) -> dict[str, Any]:
        joined: dict[str, Any] = {}
        for part, each in zip(self.parts, found, strict=True):
            if twice := sorted(joined.keys() & each.keys()):
                raise ConfigError(f"task '{self.task}': metric {type(part).__name__} gives {what} '{twice[0]}' too")
            joined |= each
        return joined


def metric_of(task: Task) -> Metric:
    """A fresh metric of a task, with those that its configuration adds."""
    own, more = task.metric(), [make() for make in task.more_metrics]
    return Metrics(task.name, (own, *more)) if more else own
