# SPDX-License-Identifier: Apache-2.0
"""A server that is sent everything but good requests, and asked to fetch what it must not."""

from __future__ import annotations

import logging
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

for _name in ("starlette", "uvicorn", "prometheus_client", "python_multipart"):
    pytest.importorskip(_name, reason=f"needs {_name} (extra 'serve')")

sys.path += [str(Path(__file__).parents[1] / room) for room in ("serve", "inference")]

from fetch_forms import addresses, forms  # noqa: E402
from http_mutator import PLACES, good, requests_of, whole_pictures  # noqa: E402
from live import PNG, ask, lively_model, picture, process  # noqa: E402
from tally import Tally  # noqa: E402

CLIENTS = 12
SILENT = 4.0  # seconds until a client gives up; the server's own patience is shorter
GROWTH = 50.0  # MB
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")

HOOK = """
import sys
def hook(event, given):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        with open(PLACE, "a") as file:
            file.write(f"{event} {given[1:]!r}\\\\n")
sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def model() -> Any:
    return lively_model()


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    return Path(model.save_pretrained(tmp_path / "spare"))


def memory_of(process_id: int) -> float:
    """Resident memory in MB."""
    text = Path(f"/proc/{process_id}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024


def statuses(port: int, request: bytes) -> list[int]:
    """Sends bytes and gives the statuses of whatever comes back."""
    found = b""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=SILENT) as line:
        with suppress(OSError):
            line.sendall(request)
        while piece := line.recv(65536):
            found += piece
            line.settimeout(0.3)
    return [int(status) for status in STATUS.findall(found)]


class Patron(threading.Thread):
    """A client with good manners, who must be served well throughout."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port, self.leaving = port, threading.Event()
        self.asked = self.well = 0
        self.told: list[str] = []
        self.truth = [ask(port, "/predict?tasks=cls", picture(k), PNG).json for k in range(4)]

    def run(self) -> None:
        while not self.leaving.is_set():
            k = self.asked % 4
            self.asked += 1
            try:
                reply = ask(self.port, "/predict?tasks=cls", picture(k), PNG)
                self.well += close(reply.json, self.truth[k])
                if reply.status != 200:
                    self.told.append(f"{reply.status} {reply.body[:200]!r}")
            except OSError as error:
                self.told.append(repr(error))
            time.sleep(0.05)


def close(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(abs(a["tags"][name] - score) < 2e-4 for name, score in b["tags"].items())


def blind(model: Any) -> Any:
    """A server as many write it: it believes what it is sent."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    async def predict(request: Request) -> Response:
        kind = request.headers.get("content-type", "")
        if kind.startswith("multipart"):
            form = await request.form()
            data = await form["image"].read()  # type: ignore[union-attr]
        else:
            data = await request.body()
        found = model.predict(data, confidence=float(request.query_params.get("confidence", "0.25")))
        return JSONResponse(found.to_dict())

    return Starlette(routes=[Route(path, predict, methods=["POST"]) for path in ("/predict", "/embed")])


@contextmanager
def running(app: Any) -> Iterator[int]:
    import uvicorn

    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # its complaints are what is counted
    place = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, args=([place],), daemon=True)
    thread.start()
    try:
        yield place.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)


def test_mutated_requests(tally: Tally, folder: Path, model: Any) -> None:
    tally.begin("HTTP requests, mutated", "pictures, JSON, forms, heads and raw bytes, by a dozen clients at once")
    pictures, count = whole_pictures(), tally.count(10_000, share=120)
    with process(folder, "--read-timeout", "2") as server, ThreadPoolExecutor(CLIENTS) as pool:
        import numpy as np

        for k in range(60):  # so that the threads and their memory are there
            statuses(server.port, good(np.random.default_rng(k), pictures[k % len(pictures)]))
        before, most, seen = memory_of(server.pid), 0.0, dict.fromkeys(PLACES, 0)
        patron = Patron(server.port)
        patron.start()
        made = (requests_of(k, pictures) for k in range(count))
        for k, (place, said) in enumerate(pool.map(lambda one: (one[0], statuses(server.port, one[1])), made)):
            seen[place] += 200 in said
            alive = server.poll() is None
            tally.add(alive and not any(status >= 500 for status in said), f"request {k} ({place}): {said}, {alive=}")
            if k % 100 == 0 and alive:
                most = max(most, memory_of(server.pid) - before)
        patron.leaving.set()
        patron.join(60)
        after = memory_of(server.pid) - before
        tally.add(patron.asked > 5 and patron.well == patron.asked, f"good requests: {patron.told[:3]}")
        tally.add(max(most, after) <= GROWTH, f"memory grew by {most:.0f} MB, {after:.0f} MB at the end")
        held = next(
            line
            for line in ask(server.port, "/metrics").body.decode().splitlines()
            if "unified_held" in line and "#" not in line
        )
        tally.add(held.endswith(" 0.0"), f"pictures still held: {held}")
        broken = [line for line in server.lines if "traceback" in line]
        tally.add(not broken, f"{len(broken)} tracebacks in the log, such as {broken[:1]}")
    tally.note(
        f"{patron.well} of {patron.asked} good requests answered meanwhile; memory {after:+.0f} MB, most {most:+.0f} MB"
    )
    tally.note("damaged and yet answered: " + ", ".join(f"{n} {place}" for place, n in seen.items()))
    with running(blind(model)) as port, ThreadPoolExecutor(4) as pool:
        trials = 60
        said = pool.map(lambda k: statuses(port, requests_of(k, pictures)[1]), range(trials))
        tally.control(trials, sum(any(status >= 500 for status in each) for each in said), "a server that believes all")
    tally.verdict()


@contextmanager
def trap() -> Iterator[tuple[int, list[str]]]:
    """A listening place that counts who connects."""
    place = socket.create_server(("127.0.0.1", 0))
    place.settimeout(0.1)
    caught: list[str] = []
    leaving = threading.Event()

    def watch() -> None:
        while not leaving.is_set():
            with suppress(OSError):
                line, who = place.accept()
                caught.append(str(who))
                line.close()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield place.getsockname()[1], caught
    finally:
        leaving.set()
        thread.join(5)
        place.close()


def fetched(url: str) -> None:
    with suppress(Exception):
        urllib.request.urlopen(url, timeout=2)


def test_requests_to_fetch(tally: Tally, folder: Path, tmp_path: Path) -> None:
    tally.begin("SSRF forms", "addresses in JSON, forms, queries, heads and files, with a trap and an audit hook")
    notes = tmp_path / "notes"
    notes.touch()
    hook = HOOK.replace("PLACE", repr(str(notes))).replace("\\\\n", "\\n")
    with trap() as (port, caught), process(folder, code=hook) as server:
        start = len(notes.read_text().splitlines())
        for name, request in forms(port):
            said = statuses(server.port, request)
            asked = notes.read_text().splitlines()[start:]
            tally.add(not caught and not asked and said != [] and max(said) < 500, f"{name}: {said}, {caught}, {asked}")
            caught.clear()
        tally.add(server.poll() is None, "the server has ended")
        time.sleep(0.3)
        tally.add(not caught, f"late: {caught}")
        urls = addresses(port)[:6]
        for url in urls:
            fetched(url)
        time.sleep(0.3)
        tally.control(len(urls), len(caught), "a fetch of the same addresses")
        code = f"{hook}\nimport urllib.request\nurllib.request.urlopen({urls[0]!r}, timeout=2)"
        subprocess.run([sys.executable, "-c", code], capture_output=True)
        assert "socket.connect" in notes.read_text()[start:], "the audit hook sees nothing"
    tally.verdict()
