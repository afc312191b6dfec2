# SPDX-License-Identifier: Apache-2.0
"""Why a request was refused, as RFC 9457 (Nottingham and others, 2023) has it told: ``application/problem+json``."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse

from unified.data.picture import said

_LONGEST = 400  # characters of a line


class Problem(Exception):  # noqa: N818  (what is wrong is the request)
    """A request that is not answered, in one line.

    Args:
        status: of HTTP.
        detail: what is wrong and what to do; never a piece of the body.
        reason: a word for the counters.
        headers: more of the answer's headers.
    """

    def __init__(self, status: int, detail: str, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.reason = status, detail, reason
        self.headers = dict(headers or {})

    @property
    def document(self) -> dict[str, Any]:
        """Title, status and detail."""
        line = " ".join(self.detail.split())
        line = line if len(line) <= _LONGEST else line[:_LONGEST] + "..."
        return {"title": HTTPStatus(self.status).phrase, "status": self.status, "detail": line, "reason": self.reason}

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.document, self.status, self.headers, media_type="application/problem+json")


def busy(seconds: float, what: str) -> Problem:
    """The queue is full: 429, with when to try again."""
    return Problem(429, f"{what}; try again later", "busy", {"Retry-After": str(max(1, round(seconds)))})


def unavailable(detail: str, reason: str, seconds: int = 1) -> Problem:
    """The server cannot answer at present: 503, with when to try again."""
    return Problem(503, detail, reason, {"Retry-After": str(seconds)})


def bad_word(place: str, message: str) -> Problem:
    """A setting of a request is not right: 400."""
    return Problem(400, f"{said(place)}: {message}" if place else message, "bad-setting")
