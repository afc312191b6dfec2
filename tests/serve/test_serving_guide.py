# SPDX-License-Identifier: Apache-2.0
"""What the guide on serving shows, as it shows it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from live import encoded, live
from spare import noise

from unified.cli import serve
from unified.inference.model import UnifiedModel

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


def test_every_example_is_answered(model: UnifiedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(encoded(noise(), "JPEG"))
    with live(model) as served:
        here = f"http://127.0.0.1:{served.port}"
        for text in blocks("python"):
            names: dict[str, Any] = {}
            exec(compile(text.replace("http://127.0.0.1:8000", here), "serving.md", "exec"), names)
            assert names["found"]["space"] == model.space
        if shutil.which("curl") is None:
            pytest.skip("no curl here")
        lines = [line for text in blocks("bash") for line in text.splitlines()]
        assert len(lines) == 3
        for line in lines:
            words = shlex.split(line.replace("http://127.0.0.1:8000", here))
            done = subprocess.run([*words, "--fail-with-body", "--silent"], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout


def test_routes_options_and_defaults_are_those_of_the_guide(model: UnifiedModel) -> None:
    import typer

    with live(model) as served:
        assert set(re.findall(r"`(?:GET|POST) (/[a-z.]*)`", GUIDE)) == {route.path for route in served.desk.routes}
    command: Any = typer.main.get_command(serve.app)
    options = {word: parameter.default for parameter in command.params for word in parameter.opts}
    told = set(re.findall(r"`(--[a-z-]+)", GUIDE))
    assert told <= set(options)
    rows = dict(re.findall(r"^\| `(--[a-z-]+)` \| ([\d.]+)", GUIDE, re.MULTILINE))
    assert len(rows) == 7
    assert {name: float(value) for name, value in rows.items()} == {name: float(options[name]) for name in rows}
