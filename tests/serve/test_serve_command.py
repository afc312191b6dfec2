# SPDX-License-Identifier: Apache-2.0
"""``unified-serve`` as a process: its start, its words, its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from live import PNG, ask, picture, process, wait_for

from unified.cli import serve
from unified.contracts.errors import ConfigError

TOKEN = "a-token-of-the-environment"

SLEEPY = """
import time
from unified.serve.service import Service
whole = Service._pass
def _pass(self, key, pictures):
    time.sleep({seconds})
    return whole(self, key, pictures)
Service._pass = _pass
"""  # so that requests are held when the signal comes


def code_of(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    with pytest.raises(SystemExit) as caught:
        serve.main(list(words))
    return int(caught.value.code or 0), capsys.readouterr().err.splitlines()


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return True
    return False


def stopped(running: Any, number: signal.Signals, headers: dict[str, str]) -> list[int]:
    """Sends six pictures and a signal; gives the statuses of the answers."""
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask, running.port, "/predict", picture(k), {**PNG, **headers}) for k in range(6)]
        wait_for(lambda: b"unified_held_pictures 6" in ask(running.port, "/metrics", headers=headers).body)
        running.send_signal(number)
        wait_for(lambda: any('"stopping"' in line for line in running.lines))
        wait_for(lambda: refuses(running.port))  # while those that were accepted are still worked on
        return [each.result().status for each in asked]


def test_sigterm_finishes_what_was_accepted_and_the_log_tells_it(folder: Path) -> None:
    with process(folder, "--max-batch", "2", code=SLEEPY.format(seconds=1)) as running:
        assert stopped(running, signal.SIGTERM, {}) == [200] * 6
        assert running.wait(30) == 0
    events = [json.loads(line) for line in running.lines]
    assert [e["event"] for e in events if e["event"] not in ("request", "ready")] == [
        "listening",
        "stopping",
        "stopped",
    ]
    assert next(e["held"] for e in events if e["event"] == "stopping") == 6
    assert events[-1]["unanswered"] == 0
    listening = events[0]
    assert listening["url"] == f"http://127.0.0.1:{running.port}"
    assert (listening["model"], listening["tasks"], listening["token"]) == ("spare", ["det", "cls", "emb"], False)
    assert sum(e.get("route") == "/predict" and e["status"] == 200 for e in events) == 6
    assert running.complaints == []


def test_ctrl_c_does_too_and_the_token_of_the_environment_is_needed(folder: Path) -> None:
    environment = {**os.environ, "UNIFIED_SERVE_TOKEN": TOKEN}
    with process(folder, "--max-batch", "2", code=SLEEPY.format(seconds=1), env=environment) as running:
        assert ask(running.port, "/healthz").status == 401
        assert stopped(running, signal.SIGINT, {"Authorization": f"Bearer {TOKEN}"}) == [200] * 6
        assert running.wait(30) == 0
    assert TOKEN not in "".join(running.lines)


def test_what_cannot_be_finished_in_time_is_not_hidden(folder: Path) -> None:
    """The control of the tests above, and the honest exit code."""
    with (
        process(folder, "--grace", "1", "--max-batch", "1", code=SLEEPY.format(seconds=3)) as running,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(ask, running.port, "/predict", picture(), PNG)
        wait_for(lambda: b"unified_held_pictures 1" in ask(running.port, "/metrics").body)
        running.terminate()
        assert running.wait(30) == 1
        with pytest.raises((AssertionError, OSError, HTTPException)):
            assert asked.result().status == 200
    assert "error: not all that was accepted could be answered within 1 seconds" in "".join(running.complaints)


def test_a_token_file_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unified.serve.settings import token_from

    file = tmp_path / "token"
    file.write_text("a-token-of-a-file-xyz\n")
    monkeypatch.setenv("UNIFIED_SERVE_TOKEN", TOKEN)
    assert token_from(file) == "a-token-of-a-file-xyz"
    assert token_from(None) == TOKEN
    file.write_text(" \n")
    with pytest.raises(ConfigError, match="holds no token"):
        token_from(file)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "host 0.0.0.0 can be reached by others, and there is no token"),
        (["--host", "example.org"], "host 'example.org' is no IP address"),
        (["--host", "203.0.113.7"], "host 203.0.113.7 can be reached by others"),
        (["--token-file", "gone"], "--token-file gone: cannot be read"),
        (["--port", "65536"], "less than or equal to 65535"),
        (["--tasks", "dett", "--port", "0"], "dett"),
        (["--size", "70", "--port", "0"], "size 70 is no multiple"),
        (["--device", "tpu", "--port", "0"], "tpu"),
    ],
)
def test_a_wrong_word_is_one_line_and_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNIFIED_SERVE_TOKEN", raising=False)
    code, lines = code_of(capsys, str(folder), *words)
    assert (code, len(lines)) == (2, 1), lines
    assert said in lines[0]


def test_a_taken_port_and_a_missing_model_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, lines = code_of(capsys, str(folder), "--port", port)
    line = (
        f"error: cannot listen on 127.0.0.1 port {port}: Address already in use; choose another with --port or --host"
    )
    assert (code, lines) == (2, [line])
    code, lines = code_of(capsys, "no/such/model", "--port", "0")
    assert (code, len(lines)) == (2, 1)


def test_without_the_extra_one_line_names_it() -> None:
    code = "import sys; sys.modules['starlette'] = None; from unified.cli.serve import main; main(['x'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: unified-serve needs starlette, which is not installed: pip install 'unified-networks[serve]'"
    ]


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = "import sys; from unified.cli import serve; print({'torch', 'starlette', 'uvicorn'} & set(sys.modules))"
    done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
