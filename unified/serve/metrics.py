# SPDX-License-Identifier: Apache-2.0
"""What Prometheus reads: requests, refusals, the sizes of passes, and where the time goes."""

from __future__ import annotations

from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from unified import __version__
from unified.serve.service import Answer, Service

_SECONDS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second number a counter that nobody reads
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "unified_requests", "Requests, by route and status.", ["route", "status"], registry=registry
        )
        self.refused = Counter(
            "unified_refused", "Requests that were not answered, by reason.", ["reason"], registry=registry
        )
        self.seconds = Histogram(
            "unified_request_seconds",
            "From a request's head to its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.waits = Histogram("unified_wait_seconds", "Pictures in the queue.", buckets=_SECONDS, registry=registry)
        self.passes = Histogram("unified_pass_seconds", "Of the network.", buckets=_SECONDS, registry=registry)
        self.batches = Histogram("unified_batch_pictures", "Pictures of a pass.", buckets=_SIZES, registry=registry)
        self.pixels = Counter("unified_pixels", "Of the pictures that were looked at.", registry=registry)
        self.connections = Gauge("unified_connections", "That are open.", registry=registry)
        self._info = Info("unified", "The model and its server.", registry=registry)

    def watch(self, service: Service, name: str) -> None:
        """Reads a service's state whenever somebody asks."""
        held = Gauge("unified_held_pictures", "Taken and not yet answered.", registry=self.registry)
        held.set_function(lambda: service.held)
        waiting = Gauge("unified_waiting_pictures", "Ready for a pass.", registry=self.registry)
        waiting.set_function(lambda: service.waiting)
        said = {
            "version": __version__,
            "model": name,
            "tasks": ",".join(service.model.tasks),
            "size": str(service.side),
        }
        self._info.info({**said, "space": service.space or ""})

    def passed(self, size: int, seconds: float) -> None:
        """A pass has been made."""
        self.batches.observe(size)
        self.passes.observe(seconds)

    def answered(self, answer: Answer) -> None:
        """A picture has been answered."""
        self.waits.observe(answer.waited)
        self.pixels.inc(answer.pixels)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        page: bytes = generate_latest(self.registry)
        return page
