# SPDX-License-Identifier: Apache-2.0
"""The routes: what each takes and gives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from starlette.applications import Starlette
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from unified import __version__
from unified.serve.asked import A, EmbedAsk, EmbedJson, PredictAsk, PredictJson, from_json, from_words
from unified.serve.gate import GONE, Gate
from unified.serve.metrics import Metrics
from unified.serve.problem import Problem, unavailable
from unified.serve.schema import document
from unified.serve.service import Answer, Service

T = TypeVar("T")
FORM_FIELDS: Final = 16
FIELD_BYTES: Final = 4096
FILE: Final = "image"  # the form's field with the picture


class Desk:
    """The endpoints of one service.

    Args:
        service: does the work.
        metrics: counts it.
        name: of the model.
    """

    def __init__(self, service: Service, metrics: Metrics, name: str) -> None:
        self.service, self.metrics, self.name = service, metrics, name
        self.leaving = False  # whether the server has been told to stop
        self.dropped = 0  # pictures that were accepted and could not be finished in time

    async def predict(self, request: Request) -> Response:
        """Boxes, tags and vectors of a picture."""
        ask, picture = await _question(request, PredictAsk, PredictJson)
        return await self._answered(request, self.service.predict(picture, ask))

    async def embed(self, request: Request) -> Response:
        """Vectors of a picture or of its boxes."""
        ask, picture = await _question(request, EmbedAsk, EmbedJson)
        return await self._answered(request, self.service.embed(picture, ask))

    async def healthz(self, request: Request) -> Response:
        """Whether the process does its work; one that does not should be started again."""
        if not self.service.alive and not self.leaving:
            raise unavailable("the thread that runs the network has ended", "dead")
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """Whether pictures should be sent here now."""
        if self.leaving or not self.service.alive:
            raise unavailable("the server is stopping", "stopping", 30)
        if not self.service.warm:
            raise unavailable("the model is warming up", "warming", 5)
        return JSONResponse({"status": "ready"})

    async def metrics_text(self, request: Request) -> Response:
        """The counters for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def model(self, request: Request) -> Response:
        """What the model can be asked, and the limits."""
        service, settings = self.service, self.service.settings
        trained = service.model.trained
        words = [trained.vocabulary, *(task.words for task in trained.config.tasks.values() if task.words)]
        limits = {"body_bytes": settings.body, "pixels": settings.pixels}
        limits |= {"max_batch": settings.max_batch, "queue": settings.queue}
        said = {"name": self.name, "version": __version__, "tasks": list(service.model.tasks)}
        said |= {
            kind: list(dict.fromkeys(name for each in words for name in getattr(each, field)))
            for kind, field in (("classes", "boxes"), ("tags", "tags"))
        }
        return JSONResponse({**said, "size": service.side, "space": service.space, "limits": limits})

    async def openapi(self, request: Request) -> Response:
        """This description of the routes."""
        return JSONResponse(document(self.service.settings))

    async def _answered(self, request: Request, work: Coroutine[Any, Any, Answer]) -> Response:
        visit = request.state.visit
        try:
            answer = await _unless_gone(request, work, self.service.settings.timeout)
        except asyncio.CancelledError:  # the server's time to finish is over
            self.dropped += 1
            raise
        visit.answer = answer
        parts = {"queue": answer.waited, "pass": answer.took, "all": visit.seconds}
        timing = ", ".join(f"{part};dur={1000 * seconds:.1f}" for part, seconds in parts.items())
        return Response(answer.body, media_type="application/json", headers={"Server-Timing": timing})

    @property
    def routes(self) -> list[Route]:
        """All of them; there is none that takes a model, and none that fetches anything."""
        table: dict[str, tuple[str, Callable[[Request], Awaitable[Response]]]] = {
            "/predict": ("POST", self.predict),
            "/embed": ("POST", self.embed),
            "/healthz": ("GET", self.healthz),
            "/readyz": ("GET", self.readyz),
            "/metrics": ("GET", self.metrics_text),
            "/model": ("GET", self.model),
            "/openapi.json": ("GET", self.openapi),
        }
        return [Route(path, endpoint, methods=[method]) for path, (method, endpoint) in table.items()]


def application(desk: Desk) -> ASGIApp:
    """The whole server as an ASGI application."""
    handlers = {HTTPException: _plain, Problem: _refused, ClientDisconnect: _left, Exception: _broken}
    app = Starlette(routes=desk.routes, exception_handlers=handlers)
    app.router.redirect_slashes = False  # a redirect would repeat whatever Host the request had
    return Gate(app, desk.service.settings, desk.metrics, frozenset(route.path for route in desk.routes))


async def _plain(request: Request, error: Exception) -> Response:
    """What the router refuses: 404 and 405."""
    assert isinstance(error, HTTPException)
    words = {404: "no such route; see /openapi.json", 405: "this route does not know that method; see /openapi.json"}
    reason = {404: "no-route", 405: "bad-method"}.get(error.status_code, "refused")
    return await _refused(
        request, Problem(error.status_code, words.get(error.status_code, error.detail), reason, error.headers)
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    request.state.visit.reason = error.reason
    return error.response()


async def _left(request: Request, error: Exception) -> Response:
    request.state.visit.reason = "gone"
    return Response(status_code=GONE)  # for the log; nobody reads it


async def _broken(request: Request, error: Exception) -> Response:
    return Problem(500, f"an internal error; its log line has the id {request.state.visit.id}", "internal").response()


async def _question(request: Request, plain: type[A], with_picture: type[A]) -> tuple[A, bytes]:
    """The settings of a request and its picture's bytes, in any of the three forms they may come in."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    words = {name: request.query_params.getlist(name) for name in request.query_params}
    if kind in ("", "application/octet-stream") or kind.startswith("image/"):
        ask = from_words(plain, words)
        return ask, _some(await request.body())
    if kind == "multipart/form-data":
        fields, picture = await _form(request.headers, await request.body())
        return from_words(plain, {**words, **fields}), picture
    if kind == "application/json":
        if words:
            raise Problem(400, "with a JSON body all settings stand in the body", "bad-setting")
        ask, picture = from_json(with_picture, await request.body())
        return ask, _some(picture)
    line = (
        "send the picture's bytes (image/jpeg, image/png ..., application/octet-stream), multipart/form-data, or JSON"
    )
    raise Problem(415, line, "bad-type")


def _some(picture: bytes) -> bytes:
    if not picture:
        raise Problem(400, "there is no picture: the body is empty", "bad-picture")
    return picture


class _InMemory(MultiPartParser):  # type: ignore[misc, unused-ignore]  # Any where starlette is not installed
    spool_max_size = 1 << 62  # never on the disk


async def _form(headers: Headers, body: bytes) -> tuple[dict[str, list[str]], bytes]:
    """Fields of a form, and the bytes of its one file."""

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    parser = _InMemory(headers, whole(), max_files=1, max_fields=FORM_FIELDS, max_part_size=FIELD_BYTES)
    try:
        items = await parser.parse()
    except MultiPartException as error:
        raise Problem(400, f"the form cannot be read: {error.message}", "bad-form") from None
    except (ValueError, LookupError) as error:  # headers of a part that are no text
        raise Problem(400, f"the form cannot be read: {type(error).__name__}", "bad-form") from None
    fields: dict[str, list[str]] = {}
    picture = b""
    for name, value in items.multi_items():
        if isinstance(value, UploadFile):
            if name != FILE:
                raise Problem(400, f"the picture is the form's field '{FILE}'", "bad-form")
            picture = await value.read()
            await value.close()
        else:
            fields.setdefault(name, []).append(value)
    if not picture:
        raise Problem(400, f"the form has no file in its field '{FILE}'", "bad-form")
    return fields, picture


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T], seconds: float) -> T:
    """The result of some work, which is given up when the client has gone or it takes too long.

    Raises:
        ClientDisconnect: the client has gone.
        Problem: 503: not within ``seconds``.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        done, _ = await asyncio.wait({working, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not working.done():
            working.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await working
    if working in done:
        return working.result()
    if gone in done:
        raise ClientDisconnect
    raise unavailable(f"no answer within {seconds:g} seconds", "slow-answer")


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
