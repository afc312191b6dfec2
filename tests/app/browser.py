# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, driven by its own protocol (DevTools)."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

PROGRAM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)

QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--remote-debugging-port=0"),
)


class Browser:
    """One page; a context manager."""

    def __init__(self, folder: Path, size: tuple[int, int] = (1360, 1100)) -> None:
        words = [f"--window-size={size[0]},{size[1]}", f"--user-data-dir={folder / 'profile'}"]
        self._process: Any = subprocess.Popen(
            [str(PROGRAM), *QUIET, *words, "about:blank"], stderr=subprocess.PIPE, text=True
        )
        where = next(line.split()[-1] for line in self._process.stderr if "DevTools listening on" in line)
        port = where.split(":")[2].split("/")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            page = next(each for each in json.load(answer) if each["type"] == "page")
        from websockets.sync.client import connect

        self._line: Any = connect(page["webSocketDebuggerUrl"], max_size=None).__enter__()
        self._count = 0
        self.events: list[Any] = []
        for room in ("Page", "Runtime", "Network", "DOM", "Log"):
            self(f"{room}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *told: object) -> None:
        with suppress(Exception):
            self._line.close()
        self._process.kill()
        self._process.wait()

    def __call__(self, method: str, **words: Any) -> Any:
        """One command and its result."""
        self._count += 1
        self._line.send(json.dumps({"id": self._count, "method": method, "params": words}))
        while True:
            said = json.loads(self._line.recv(timeout=120))
            if said.get("id") == self._count:
                return said.get("result", said)
            self.events.append(said)

    def script(self, code: str) -> Any:
        """The value of an expression in the page."""
        return self("Runtime.evaluate", expression=code, returnByValue=True)["result"].get("value")

    @property
    def text(self) -> str:
        """What a reader sees."""
        return self.script("document.body ? document.body.innerText : ''") or ""

    def open(self, url: str) -> None:
        self("Page.navigate", url=url)

    def wait(self, words: str, seconds: float = 60) -> None:
        """Until the page shows some words and is no longer at work."""
        end, idle = time.monotonic() + seconds, "!document.querySelector('[data-testid=stStatusWidget]')"
        while not (words in " ".join(self.text.split()) and self.script(idle)):
            assert time.monotonic() < end, f"no '{words}' in:\n{self.text}"
            time.sleep(0.2)

    def upload(self, file: Path, seconds: float = 60) -> None:
        """Gives a file to the page's upload field, until the page shows its name.

        The page may be replacing the field at that moment, and would then lose the file; so it is given again.
        """
        end, field = time.monotonic() + seconds, "document.querySelector('input[type=file]')"
        while file.name not in self.text:
            assert time.monotonic() < end, f"'{file.name}' is not taken by:\n{self.text}"
            node = self("Runtime.evaluate", expression=field)["result"].get("objectId")
            if node is not None:
                self("DOM.setFileInputFiles", objectId=node, files=[str(file)])
            self._pause(3, lambda: file.name in self.text)

    def _pause(self, seconds: float, over: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not over():
            time.sleep(0.2)

    def click(self, words: str, shows: str, seconds: float = 60) -> None:
        """On the button that says so, until the page shows what it leads to: a page at work may not have heard it."""
        button = f"[...document.querySelectorAll('button')].find(b=>b.innerText.trim()=={json.dumps(words)})"
        end = time.monotonic() + seconds
        while shows not in " ".join(self.text.split()):
            assert time.monotonic() < end, f"no '{shows}' after '{words}' in:\n{self.text}"
            self.script(f"{button}?.click()")
            self._pause(3, lambda: shows in " ".join(self.text.split()))
        self.wait(shows, seconds)

    def picture(self) -> Image.Image:
        """What it looks like."""
        return Image.open(io.BytesIO(base64.b64decode(self("Page.captureScreenshot", format="png")["data"])))

    @property
    def asked(self) -> set[str]:
        """Places that were asked for something."""
        sent = (event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent")
        places = {each["request"]["url"] for each in sent}
        sockets = (event["params"]["url"] for event in self.events if event.get("method") == "Network.webSocketCreated")
        return {url for url in {*places, *sockets} if not url.startswith(("data:", "blob:"))}

    @property
    def complaints(self) -> list[str]:
        """Errors of the page."""
        thrown = [str(e["params"]) for e in self.events if e.get("method") == "Runtime.exceptionThrown"]
        logged = (e["params"]["entry"] for e in self.events if e.get("method") == "Log.entryAdded")
        return thrown + [each["text"] for each in logged if each["level"] == "error"]
