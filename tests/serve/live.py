# SPDX-License-Identifier: Apache-2.0
"""A server that runs beside a test, and a client that says no more than it is told."""

from __future__ import annotations

import http.client
import io
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from spare import noise, spare_model

PNG = {"Content-Type": "image/png"}


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Live:
    """A server in this process."""

    port: int
    desk: Any
    server: Any

    def ask(self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, **how: Any) -> Reply:
        return ask(self.port, path, body, headers, **how)


def ask(
    port: int,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    method: str | None = None,
    timeout: float = 60,
) -> Reply:
    """One request on a connection of its own."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        line.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
        found = line.getresponse()
        return Reply(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
    finally:
        line.close()


def lively_model(tasks: dict[str, str] | None = None) -> Any:
    """The small model with norms that have settled on what it sees, so that no two pictures look alike to it."""
    model = spare_model(tasks)
    norms: list[Any] = [part for part in model.network.modules() if hasattr(part, "reset_running_stats")]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average of all that follows
    model.network.train()
    with torch.no_grad():
        for k in range(6):
            pictures = [torch.from_numpy(noise(64, 64, seed=8 * k + j)).permute(2, 0, 1) for j in range(8)]
            model.network(torch.stack(pictures))
    model.network.eval()
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return model


def picture(seed: int = 0, height: int = 48, width: int = 80) -> bytes:
    """A PNG file of coloured noise."""
    return encoded(noise(height, width, seed=seed))


def encoded(pixels: Any, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(file, form)
    return file.getvalue()


def form(picture: bytes | None, fields: Mapping[str, str] | None = None, name: str = "image") -> tuple[bytes, str]:
    """A multipart form and its content type."""
    parts = [
        f'--frontier\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in (fields or {}).items()
    ]
    if picture is not None:
        head = f'--frontier\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\n\r\n'
        parts.append(head.encode() + picture + b"\r\n")
    return b"".join(parts) + b"--frontier--\r\n", "multipart/form-data; boundary=frontier"


@contextmanager
def live(model: Any, ready: bool = True, **limits: Any) -> Iterator[Live]:
    """A server on a free port of loopback; it is stopped as SIGTERM would stop it."""
    from unified.serve.metrics import Metrics
    from unified.serve.routes import Desk
    from unified.serve.server import bind, make_server
    from unified.serve.service import Service
    from unified.serve.settings import Settings

    settings = Settings(**{"port": 0, "max_wait": 0.002, "grace": 10.0, **limits})
    place, metrics = bind(settings), Metrics()
    service = Service(model, settings, metrics.passed)
    metrics.watch(service, "spare")
    service.warm = ready
    desk = Desk(service, metrics, "spare")
    server = make_server(desk, settings)
    thread = threading.Thread(target=server.run, args=([place],), daemon=True)
    port = place.getsockname()[1]
    thread.start()
    wait_for(lambda: server.started)
    try:
        yield Live(port, desk, server)
    finally:
        server.should_exit = True
        thread.join(20)
        service.close()
        assert not thread.is_alive()


def wait_for(what: Any, seconds: float = 30) -> None:
    """Until something holds."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


@contextmanager
def process(folder: Path, *words: str, code: str = "", env: Mapping[str, str] | None = None) -> Iterator[Any]:
    """``unified-serve`` as a process of its own with a JSON log; gives it with its port as ``.port``."""
    text = f"{code}\nfrom unified.cli.serve import main\nmain()"
    command = [sys.executable, "-c", text, str(folder), "--port", "0", "--json", *words]
    running: Any = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    lines: list[str] = []
    running.lines = lines
    reader = threading.Thread(target=lambda: lines.extend(iter(running.stdout.readline, "")), daemon=True)
    complaints: list[str] = []
    running.complaints = complaints
    second = threading.Thread(target=lambda: complaints.extend(iter(running.stderr.readline, "")), daemon=True)
    reader.start()
    second.start()
    try:
        wait_for(lambda: any('"ready"' in line for line in lines) or running.poll() is not None, 180)
        assert running.poll() is None, "".join(complaints)
        running.port = int(re.findall(r":(\d+)\"", next(line for line in lines if "listening" in line))[0])
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.wait()
        reader.join(5)
        second.join(5)


def raw(port: int, data: bytes, seconds: float = 10, shut: bool = False) -> bytes:
    """Bytes to a server and what comes back until it closes, or says nothing more for a while."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as line:
        with suppress(OSError):
            line.sendall(data)
            if shut:
                line.shutdown(socket.SHUT_WR)
        return rest(line)


def rest(line: socket.socket) -> bytes:
    """What still comes."""
    found = b""
    with suppress(OSError):
        while piece := line.recv(65536):
            found += piece
    return found
