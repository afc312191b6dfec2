# SPDX-License-Identifier: Apache-2.0
"""What every request passes: who may ask, how much may be sent and for how long; its log line and its counters."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unified.serve.metrics import Metrics
from unified.serve.problem import Problem, busy
from unified.serve.service import Answer
from unified.serve.settings import Settings, is_loopback

_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_PLAIN: Final = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}")
GONE: Final = 499  # nginx's word for a client that did not wait

log = logging.getLogger("unified.serve")


@dataclass
class Visit:
    """One request on its way, kept in ``scope["state"]["visit"]``."""

    id: str
    started: float = field(default_factory=time.monotonic)
    length: int | None = None  # bytes, as announced
    received: int = 0  # bytes
    whole: bool = False  # whether the body has come to its end
    status: int = 0
    reason: str = ""
    answer: Answer | None = None
    begun: bool = False  # whether a response has been started

    @property
    def seconds(self) -> float:
        """Since the head came."""
        return time.monotonic() - self.started


class Gate:
    """An ASGI application around another.

    Args:
        app: what answers.
        settings: its limits.
        metrics: its counters.
        routes: paths by which requests are counted; all others are one.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, routes: frozenset[str]) -> None:
        self.app, self.settings, self.metrics, self.routes = app, settings, metrics, routes
        self.held = 0  # bytes of the bodies of all requests
        self._token = None if settings.token is None else _digest(settings.token.encode())
        self._open = self._token is None and is_loopback(settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])  # of a header that came twice the last counts, as in the checks of h11
        given = headers.get(b"x-request-id", b"")
        visit = Visit(given.decode() if _ID.fullmatch(given) else secrets.token_hex(8))
        visit.whole = b"content-length" not in headers and b"transfer-encoding" not in headers
        scope.setdefault("state", {})["visit"] = visit
        taken, sent = self._receiving(visit, receive), self._sending(visit, headers, receive, send)
        try:
            self._admit(scope, headers, visit)
            await self.app(scope, taken, sent)
        except Problem as problem:
            visit.reason = problem.reason
            if not visit.begun:
                await problem.response()(scope, receive, sent)
        except ClientDisconnect:
            visit.status, visit.reason = GONE, "gone"
        except Exception:
            visit.reason = "internal"
            log.exception("request %s failed", visit.id)
            if not visit.begun:
                await Problem(500, "an internal error", "internal").response()(scope, receive, sent)
        finally:
            self.held -= visit.received
            self._count(scope, visit)

    def _admit(self, scope: Scope, headers: dict[bytes, bytes], visit: Visit) -> None:
        """Refuses by a request's head alone."""
        if self._token is not None:
            self._check_token(headers.get(b"authorization", b""))
        elif self._open:
            self._check_origin(headers)
        if headers.get(b"content-encoding", b"identity") not in (b"identity", b""):
            raise Problem(415, "bodies are taken as they are; leave Content-Encoding out", "bad-encoding")
        visit.length = int(headers[b"content-length"]) if b"content-length" in headers else None
        if visit.length is not None and visit.length > self.settings.body:
            raise self._too_large()

    def _check_token(self, given: bytes) -> None:
        scheme, _, word = given.partition(b" ")
        # equal lengths in, and a comparison that takes as long wherever they differ
        if not hmac.compare_digest(_digest(word.strip()), self._token or b"") or scheme.lower() != b"bearer":
            raise Problem(401, "give the token: Authorization: Bearer TOKEN", "token", {"WWW-Authenticate": "Bearer"})

    def _check_origin(self, headers: dict[bytes, bytes]) -> None:
        """A page on the web must not reach this server through its reader's browser, by a name that leads here."""
        host, origin = headers.get(b"host"), headers.get(b"origin")
        if host and not self._is_ours(host.decode("latin-1")):
            raise Problem(421, "this server is called by localhost, or a name given with --allow-host", "host")
        if origin and not self._is_ours(origin.decode("latin-1").partition("://")[2]):
            raise Problem(403, "this server answers no page of another site", "origin")

    def _is_ours(self, place: str) -> bool:
        with suppress(ValueError):
            name = (urlsplit(f"//{place}").hostname or "") if _PLAIN.fullmatch(place) else ""
            if name in self.settings.hosts or name == "localhost":
                return True
            with suppress(Exception):
                return is_loopback(name)
        return False

    def _too_large(self) -> Problem:
        return Problem(413, f"the body is over the limit of {self.settings.body} bytes", "too-large")

    def _receiving(self, visit: Visit, receive: Receive) -> Receive:
        """Receives no more, and for no longer, than may be."""

        async def received() -> Message:
            if visit.whole:
                return await receive()  # comes back when the client has gone
            try:
                async with asyncio.timeout(visit.started + self.settings.read_timeout - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                line = f"the request did not arrive within {self.settings.read_timeout:g} seconds"
                raise Problem(408, line, "slow") from None
            size = len(message.get("body", b""))
            visit.received += size
            self.held += size
            visit.whole = message["type"] == "http.request" and not message.get("more_body", False)
            if visit.received > self.settings.body:
                raise self._too_large()
            if self.held > self.settings.held:
                raise busy(1, "the bodies of other requests fill the memory there is for them")
            return message

        return received

    def _sending(self, visit: Visit, headers: dict[bytes, bytes], receive: Receive, send: Send) -> Send:
        """Sends with the headers every answer has; closes the connection where a body is left in it."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status, visit.begun = message["status"], True
                extra = [(b"x-request-id", visit.id.encode()), (b"cache-control", b"no-store")]
                extra.append((b"x-content-type-options", b"nosniff"))
                if not visit.whole and not await self._drained(visit, headers, receive):
                    extra.append((b"connection", b"close"))
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        return sent

    async def _drained(self, visit: Visit, headers: dict[bytes, bytes], receive: Receive) -> bool:
        """Reads the rest of a refused body and forgets it, where it is short: many clients send all, then listen."""
        if visit.length is None or visit.length > 2 * self.settings.body or b"expect" in headers:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(visit.started + self.settings.read_timeout - time.monotonic()):
                while (message := await receive()).get("more_body", False):
                    pass
                return bool(message["type"] == "http.request")
        return False

    def _count(self, scope: Scope, visit: Visit) -> None:
        route = scope["path"] if scope["path"] in self.routes else "other"
        self.metrics.requests.labels(route, str(visit.status)).inc()
        self.metrics.seconds.labels(route).observe(visit.seconds)
        if visit.reason:
            self.metrics.refused.labels(visit.reason).inc()
        if visit.answer is not None:
            self.metrics.answered(visit.answer)
        log.info("request", extra={"fields": told(scope, visit, route)})


def told(scope: Scope, visit: Visit, route: str) -> dict[str, object]:
    """A request's log line: numbers and known words, nothing that it brought along."""
    client = scope.get("client")
    line: dict[str, object] = {"id": visit.id, "client": client[0] if client else None}
    line |= {"method": scope["method"][:16], "route": route, "status": visit.status, "bytes": visit.received}
    line["ms"] = round(1000 * visit.seconds, 1)
    if visit.answer is not None:
        answer = visit.answer
        line |= {"pixels": answer.pixels, "batch": answer.batch}
        line |= {"wait_ms": round(1000 * answer.waited, 1), "pass_ms": round(1000 * answer.took, 1)}
    return line | ({"reason": visit.reason} if visit.reason else {})


def _digest(word: bytes) -> bytes:
    return hashlib.sha256(word).digest()
