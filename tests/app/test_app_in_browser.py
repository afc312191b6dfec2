# SPDX-License-Identifier: Apache-2.0
"""The command's page in a real browser."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

for _name in ("streamlit", "websockets"):
    pytest.importorskip(_name, reason=f"needs {_name} (extra 'app')")
from browser import PROGRAM, Browser  # noqa: E402
from live import lively_model  # noqa: E402
from spare import noise  # noqa: E402

from unified import index as indexes  # noqa: E402
from unified.index import Row  # noqa: E402

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no chromium, chromium-browser or google-chrome here")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"picture-{k}.png" for k in range(5)]
    for k, path in enumerate(paths):
        Image.fromarray(noise(200 + 20 * k, 300, seed=k)).save(path)
    return paths


@pytest.fixture(scope="module")
def shown(pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The command as a process of its own; gives it with its ``.url``."""
    folder, model = tmp_path_factory.mktemp("app"), lively_model()
    run = model.save_pretrained(folder / "spare")
    made = indexes.create(folder / "index", 16, model.space)
    rows = [Row(str(path), str(path)) for path in pictures]
    made.add(model.encode([str(path) for path in pictures]), rows, space=model.space)
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    words = [str(run), str(pictures[0].parent), "--index", str(folder / "index"), "--port", str(port)]
    code = f"import sys; sys.argv = ['unified-app', *{words!r}]; from unified.cli.app import main; main()"
    running: Any = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=quiet())
    running.url, end = f"http://127.0.0.1:{port}/", time.monotonic() + 180
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            assert running.poll() is None, running.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.2)
    yield running
    running.send_signal(signal.SIGTERM)
    try:
        running.wait(30)
    finally:
        running.kill()


def quiet() -> dict[str, str]:
    """The environment, without settings of Streamlit's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STREAMLIT_")}


def test_the_page_shows_moves_and_takes_a_picture(shown: Any, pictures: list[Path], tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        browser.open(shown.url)
        browser.wait("Nearest to this picture")
        for words in ("spare · det, cls, emb", "Confidence of a box", "300 x 200", "Tags", "Boxes", "Index of 5 rows"):
            browser.wait(words)
        look = np.asarray(browser.picture().convert("RGB"))
        assert len(np.unique(look.reshape(-1, 3), axis=0)) > 500  # pictures are there, not only text
        browser.click("Upload", "What does the network see?")
        browser.upload(pictures[3])
        browser.wait("300 x 260")
        browser.wait("1.000 picture-3.png")
        browser.click("Camera", "Take Photo")
        assert browser.complaints == []
        host = shown.url.removeprefix("http://").strip("/")
        assert {url.split("/")[2] for url in browser.asked} == {host}  # nothing else is asked for anything


def test_the_harness_sees_who_is_asked(shown: Any, tmp_path: Path) -> None:
    """The control: a page that asks another place."""
    with Browser(tmp_path) as browser:
        page = tmp_path / "bad.html"
        page.write_text('<p>bad</p><img src="http://pictures.invalid/a.png"><script>nothing()</script>')
        browser.open(page.as_uri())
        browser.wait("bad")
        browser.script("1")
        time.sleep(0.5)
        browser.script("1")
        assert "http://pictures.invalid/a.png" in browser.asked
        assert browser.complaints


def test_a_page_of_another_site_is_not_talked_to(shown: Any) -> None:
    """Its websocket is what would give a stranger's page all that is shown here."""
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    place = shown.url.replace("http", "ws") + "_stcore/stream"
    with connect(place, origin=shown.url.rstrip("/")):  # type: ignore[arg-type]
        pass
    with pytest.raises(InvalidStatus), connect(place, origin="http://evil.example"):  # type: ignore[arg-type]
        pass


def test_it_listens_on_loopback_only(shown: Any) -> None:
    if not Path("/proc/net/tcp").exists():
        pytest.skip("no /proc/net/tcp here")
    port = int(shown.url.split(":")[2].strip("/"))
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    places = [words[1] for words in lines if words[3] == "0A" and words[1].endswith(f":{port:04X}")]
    assert places == [f"0100007F:{port:04X}"], json.dumps(places)
