# SPDX-License-Identifier: Apache-2.0
"""One connection: how many there may be, and how long each may take; what is no HTTP is refused here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from unified.serve.problem import Problem

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s"
)


@dataclass(frozen=True)
class Rules:
    """What a server holds its connections to, and who hears of it."""

    most: int = 256
    patience: float = 10.0  # seconds for a request's head
    longest: float = 70.0  # seconds for a request, its answer, and a client that takes long to read it
    count: Callable[[int], None] = lambda open_: None  # hears how many are open
    refuse: Callable[[str], None] = lambda reason: None  # hears why one was refused or cut


class Connection(H11Protocol):  # type: ignore[misc, unused-ignore]  # Any where uvicorn is not installed
    """uvicorn's connection, with limits it does not have: one that is silent or slow is cut."""

    rules: ClassVar[Rules] = Rules()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._watch: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.rules.count(len(self.connections))
        if len(self.connections) > self.rules.most:
            self.rules.refuse("connections")
            self._say(_FULL, "too many connections are open; try again later", 503, "connections")
            return
        self._arm(self.rules.patience)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)
        self.rules.count(len(self.connections))

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        before = self.idle
        super().data_received(data)
        if self.idle:
            self._arm(self.rules.patience, again=False)  # a head that has begun; more of its bytes win it no time
        elif before:
            self._arm(self.rules.longest)

    def on_response_complete(self) -> None:
        self._disarm()
        super().on_response_complete()
        if not self.idle:  # the next request was here already
            self._arm(self.rules.longest)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP: a line of JSON like every other refusal."""
        self.rules.refuse("no-http")
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()  # in the middle of an answer nothing else can be said
            return
        self._say(_BAD, "this is no HTTP request", 400, "no-http")

    def _say(self, form: bytes, line: str, status: int, reason: str) -> None:
        body = bytes(Problem(status, line, reason).response().body)
        self.transport.write(form % (len(body), body))
        self.transport.close()

    def _arm(self, seconds: float, again: bool = True) -> None:
        if self._watch is not None and not again:
            return
        self._disarm()
        self._watch = self.loop.call_later(seconds, self._cut)

    def _disarm(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _cut(self) -> None:
        self.rules.refuse("slow-connection")
        self.transport.abort()


_BAD = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s"
)


def connection(rules: Rules) -> type[Connection]:
    """A kind of connection that keeps these rules."""
    return type("RuledConnection", (Connection,), {"rules": rules})
