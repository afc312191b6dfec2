# SPDX-License-Identifier: Apache-2.0
"""Who may ask, how much and for how long."""

from __future__ import annotations

import hmac
import http.client
import io
import logging
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from live import PNG, Live, ask, live, picture, raw, rest, wait_for

from unified.contracts.errors import ConfigError
from unified.inference.model import UnifiedModel
from unified.serve.settings import Settings, is_loopback

TOKEN = "a-token-of-enough-length"
ROUTES = ("/predict", "/embed", "/healthz", "/readyz", "/metrics", "/model", "/openapi.json", "/", "/nowhere")


@pytest.fixture(scope="module")
def served(model: UnifiedModel) -> Iterator[Live]:
    with live(model) as running:
        yield running


class Slow:
    """A model whose passes wait until they may go."""

    def __init__(self, model: UnifiedModel) -> None:
        self.model, self.gate, self.passes = model, threading.Event(), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def predictor(self, *given: Any) -> Any:
        self.passes += 1
        self.gate.wait(20)
        return self.model.predictor(*given)


def later(served: Live, count: int = 1) -> tuple[ThreadPoolExecutor, list[Any]]:
    pool = ThreadPoolExecutor(count)
    return pool, [pool.submit(served.ask, "/predict", picture(k), PNG) for k in range(count)]


@pytest.mark.parametrize("path", ROUTES)
def test_no_route_answers_without_the_token(model: UnifiedModel, path: str) -> None:
    with live(model, token=TOKEN) as served:
        bad: list[dict[str, str]] = [{}, {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"}]
        bad += [{"Authorization": f"Bearer {word}"} for word in ("", TOKEN[:-1], TOKEN + "x", TOKEN.upper())]
        for headers in bad:
            for method in ("GET", "POST"):
                reply = served.ask(path, b"", headers, method=method)
                assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
        good = served.ask(path, None, {"Authorization": f"Bearer {TOKEN}"})
        assert good.status in (200, 404, 405)


def test_tokens_are_compared_in_constant_time(model: UnifiedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def spy(a: bytes, b: bytes) -> bool:
        seen.append((len(a), len(b)))
        return original(a, b)

    original = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", spy)
    with live(model, token=TOKEN) as served:
        for word in ("", "x", TOKEN, "y" * 3000):
            served.ask("/healthz", None, {"Authorization": f"Bearer {word}"})
    assert seen == [(32, 32)] * 4  # digests, so that not even the length of the token can be measured


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "8.8.8.8"])
def test_others_are_let_in_only_with_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match="there is no token; put one into the environment as UNIFIED_SERVE_TOKEN"):
        Settings(host=host)
    assert Settings(host=host, token=TOKEN).host == host
    assert TOKEN not in repr(Settings(token=TOKEN))


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "::ffff:8.8.8.8")))
    for word in ("", "example.org", "127.1", "localhost.example.org"):
        with pytest.raises(ConfigError, match="is no IP address"):
            is_loopback(word)


@pytest.mark.parametrize(
    "token", ["short", "a token with blanks in it", "ein-schlüssel-mit-umlaut", "tab\tin-the-token-xx"]
)
def test_a_bad_token_is_refused_at_the_start(token: str) -> None:
    with pytest.raises(ConfigError, match="token"):
        Settings(token=token)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "169.254.169.254", "a@b", "[::1"]
)
def test_a_page_that_rebinds_its_name_gets_nothing(served: Live, host: str) -> None:
    """DNS rebinding: the browser believes that this server is the page's own."""
    reply = served.ask("/model", None, {"Host": host})
    assert (reply.status, reply.json["reason"]) == (421, "host")
    cross = served.ask("/predict", picture(), {**PNG, "Origin": f"http://{host}"})
    assert (cross.status, cross.json["reason"]) == (403, "origin")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:9", "LOCALHOST:1"])
def test_its_own_names_are_answered(served: Live, host: str) -> None:
    assert served.ask("/healthz", None, {"Host": host, "Origin": f"http://{host}"}).status == 200
    assert raw(served.port, b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_other_names_can_be_allowed_and_a_token_makes_them_needless(model: UnifiedModel) -> None:
    with live(model, hosts=("vision.local",)) as served:
        assert served.ask("/healthz", None, {"Host": "vision.local:8000"}).status == 200
        assert served.ask("/healthz", None, {"Host": "other.local"}).status == 421
    with live(model, token=TOKEN) as served:
        headers = {"Host": "any.example", "Authorization": f"Bearer {TOKEN}"}
        assert served.ask("/healthz", None, headers).status == 200


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def test_a_body_that_is_announced_too_large_is_not_read(served: Live) -> None:
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as line:
        line.sendall(head("/predict", "Content-Type: image/png", f"Content-Length: {10 << 30}"))
        said = rest(line)
    assert said.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in said
    assert time.monotonic() - start < 5


def test_a_body_without_a_length_is_cut_at_the_limit(model: UnifiedModel, caplog: pytest.LogCaptureFixture) -> None:
    with live(model, body=1 << 20) as served, caplog.at_level(logging.INFO, "unified.serve"):
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as line:
            line.sendall(head("/predict", "Content-Type: image/png", "Transfer-Encoding: chunked"))
            piece, sent = b"10000\r\n" + bytes(0x10000) + b"\r\n", 0
            try:
                while sent < 512 << 20:
                    line.sendall(piece)
                    sent += len(piece)
            except OSError:
                pass
        assert sent < 64 << 20  # what the system's own buffers swallow
        wait_for(lambda: fields_of(caplog))
        assert fields_of(caplog)[-1]["status"] == 413
        assert (1 << 20) < fields_of(caplog)[-1]["bytes"] <= (1 << 20) + (512 << 10)  # and what was read in one go


def fields_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.getMessage() == "request"]  # type: ignore[attr-defined]


def test_a_client_that_sends_a_little_too_much_hears_why_and_may_go_on(model: UnifiedModel) -> None:
    with live(model, body=1 << 20) as served:
        line = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
        line.request("POST", "/predict", bytes((1 << 20) + 1), PNG)
        reply = line.getresponse()
        assert (reply.status, b"over the limit of 1048576 bytes" in reply.read()) == (413, True)
        line.request("POST", "/predict", picture(), PNG)
        assert line.getresponse().status == 200
        line.close()


def test_who_waits_to_be_let_in_is_told_before_sending(served: Live) -> None:
    expect = ("Content-Type: image/png", "Expect: 100-continue")
    said = raw(served.port, head("/predict", *expect, f"Content-Length: {99 << 20}"))
    assert said.startswith(b"HTTP/1.1 413")
    data = picture()
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as line:
        line.sendall(head("/predict", *expect, f"Content-Length: {len(data)}", "Connection: close"))
        assert line.recv(4096).startswith(b"HTTP/1.1 100")
        line.sendall(data)
        assert rest(line).startswith(b"HTTP/1.1 200")


def test_the_bodies_of_all_together_have_a_limit(model: UnifiedModel) -> None:
    with live(model, held=100_000, body=90_000) as served:
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as line:
            line.sendall(head("/predict", "Content-Type: image/png", "Content-Length: 89000") + bytes(88_000))
            gate = served.server.config.loaded_app
            wait_for(lambda: gate.held >= 60_000)
            reply = served.ask("/predict", bytes(80_000), PNG)
            assert (reply.status, reply.headers["retry-after"]) == (429, "1")
        wait_for(lambda: gate.held == 0)
        assert served.ask("/predict", picture(), PNG).status == 200


def test_compressed_bodies_are_not_taken(served: Live) -> None:
    assert served.ask("/predict", picture(), {**PNG, "Content-Encoding": "gzip"}).status == 415


def bomb(width: int, height: int) -> bytes:
    """A PNG's beginning that promises many pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = b"IDAT" + zlib.compress(bytes(1 << 20))
    return header + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


@pytest.mark.parametrize("size", [(12_000, 12_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)], ids=str)
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(served: Live, size: tuple[int, int]) -> None:
    start = time.monotonic()
    reply = served.ask("/predict", bomb(*size), PNG)
    assert (reply.status, reply.json["reason"]) == (413, "too-large")
    assert time.monotonic() - start < 2


def test_pixels_can_be_limited_further(model: UnifiedModel) -> None:
    with live(model, pixels=48 * 80) as served:
        assert served.ask("/predict", picture(0, 48, 80), PNG).status == 200
        reply = served.ask("/predict", picture(0, 48, 81), PNG)
        assert (
            reply.json["detail"]
            == "the picture has 81 x 48 pixels, over the limit of 0.00384 megapixels; scale it down"
        )


def test_a_slow_body_is_told_and_a_slow_head_is_cut(model: UnifiedModel) -> None:
    with live(model, read_timeout=0.4) as served:
        start = time.monotonic()
        body = raw(served.port, head("/predict", "Content-Type: image/png", "Content-Length: 1000") + bytes(10))
        assert body.startswith(b"HTTP/1.1 408")
        assert raw(served.port, b"GET /healthz HTTP/1.1\r\nHost: loc") == b""
        assert raw(served.port, b"") == b""
        assert time.monotonic() - start < 5


def test_a_head_that_trickles_wins_no_time(model: UnifiedModel) -> None:
    with live(model, read_timeout=0.5) as served:
        for first in (b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"):  # also behind a good request
            with socket.create_connection(("127.0.0.1", served.port), timeout=5) as line:
                line.sendall(first)
                if first:
                    assert line.recv(4096).startswith(b"HTTP/1.1 200")
                start = time.monotonic()
                with pytest.raises(OSError):
                    for letter in b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 100:
                        line.sendall(bytes([letter]))
                        time.sleep(0.05)
                assert time.monotonic() - start < 3


def test_a_hundred_slow_clients_do_not_stop_the_others(model: UnifiedModel) -> None:
    with live(model, read_timeout=1.5) as served:
        lines = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(100)]
        for line in lines:
            line.sendall(head("/predict", "Content-Type: image/png", "Content-Length: 1000") + bytes(10))
        assert served.ask("/predict", picture(), PNG).status == 200
        wait_for(lambda: not served.server.server_state.connections, 10)
        for line in lines:
            line.close()


def test_a_full_queue_says_when_to_come_back(model: UnifiedModel) -> None:
    slow: Any = Slow(model)
    with live(slow, queue=2, max_batch=1) as served:
        pool, first = later(served, 2)
        wait_for(lambda: served.desk.service.held == 2)
        reply = served.ask("/predict", picture(), PNG)
        assert (reply.status, reply.json["reason"]) == (429, "busy")
        assert int(reply.headers["retry-after"]) >= 1
        assert served.ask("/healthz").status == 200  # the loop is free
        slow.gate.set()
        assert [each.result().status for each in first] == [200, 200]
        assert served.ask("/predict", picture(), PNG).status == 200
        pool.shutdown()


def test_too_many_connections_are_told(model: UnifiedModel) -> None:
    with live(model, connections=3) as served:
        lines = [socket.create_connection(("127.0.0.1", served.port), timeout=5) for _ in range(3)]
        wait_for(lambda: len(served.server.server_state.connections) == 3)
        reply = ask(served.port, "/healthz")
        assert (reply.status, reply.headers["retry-after"], reply.json["reason"]) == (503, "1", "connections")
        for line in lines:
            line.close()
        wait_for(lambda: not served.server.server_state.connections)
        assert served.ask("/healthz").status == 200


def test_an_answer_that_takes_too_long_is_given_up(model: UnifiedModel) -> None:
    slow: Any = Slow(model)
    with live(slow, timeout=0.3, max_batch=1) as served:
        pool, first = later(served, 2)
        assert [each.result().status for each in first] == [503, 503]
        assert first[0].result().headers["retry-after"] == "1"
        slow.gate.set()
        wait_for(lambda: served.desk.service.held == 0)
        assert served.ask("/predict", picture(), PNG).status == 200
        assert slow.passes == 2  # what nobody waited for any more was left out
        pool.shutdown()


def test_who_has_gone_costs_no_pass(model: UnifiedModel) -> None:
    slow: Any = Slow(model)
    with live(slow, max_batch=1) as served:
        pool, first = later(served)
        wait_for(lambda: slow.passes == 1)
        data = picture(5)
        with socket.create_connection(("127.0.0.1", served.port)) as line:
            line.sendall(head("/predict", "Content-Type: image/png", f"Content-Length: {len(data)}") + data)
            wait_for(lambda: served.desk.service.waiting == 1)
        wait_for(lambda: served.desk.service.held == 1)
        slow.gate.set()
        assert first[0].result().status == 200
        assert slow.passes == 1
        pool.shutdown()


def test_the_log_has_no_picture_and_no_secret(model: UnifiedModel, caplog: pytest.LogCaptureFixture) -> None:
    from live import form

    marker = "4815162342"
    with live(model, token=TOKEN) as served, caplog.at_level(logging.DEBUG):
        good = {"Authorization": f"Bearer {TOKEN}", "X-Request-Id": "mine-1"}
        body, kind = form(picture() + marker.encode(), {"tasks": "cls"})
        assert served.ask("/predict", body, {**good, "Content-Type": kind}).headers["x-request-id"] == "mine-1"
        asked = [f"/{marker}", f"/predict?confidence={marker}", f"/predict?{marker}=1", f"/predict?tasks={marker}"]
        for path in asked:
            assert served.ask(path, f"{marker}".encode(), {**good, **PNG}).status in (400, 404)
        assert served.ask("/predict", marker.encode(), {**PNG, "Authorization": marker}).status == 401
        bad_id = served.ask("/healthz", None, {**good, "X-Request-Id": f"a b{marker}"}).headers["x-request-id"]
        assert marker not in bad_id
        wait_for(lambda: len(fields_of(caplog)) == 7)
    text = caplog.text + str([vars(record) for record in caplog.records])
    assert marker not in text
    assert TOKEN not in text
    first = fields_of(caplog)[0]
    assert first.keys() >= {"id", "client", "method", "route", "status", "bytes", "ms", "pixels", "batch", "pass_ms"}
    assert (first["id"], first["route"], first["status"], first["pixels"]) == ("mine-1", "/predict", 200, 48 * 80)


def test_the_lines_of_the_log() -> None:
    import json

    from unified.serve.lines import LOGGER, start_log

    for as_json in (True, False):
        out = io.StringIO()
        log = start_log(as_json, quiet=False, stream=out)
        log.info("request", extra={"fields": {"status": 200, "tasks": ["det", "cls"]}})
        line = out.getvalue()
        if as_json:
            entry = json.loads(line)
            assert {k: entry[k] for k in ("level", "event", "status", "tasks")} == {
                "level": "info",
                "event": "request",
                "status": 200,
                "tasks": ["det", "cls"],
            }
            assert entry["time"].endswith("Z")
        else:
            assert line.endswith("info request status=200 tasks=det,cls\n")
    quiet = start_log(True, quiet=True, stream=(out := io.StringIO()))
    quiet.info("request")
    assert out.getvalue() == ""
    for name in (LOGGER, "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)
