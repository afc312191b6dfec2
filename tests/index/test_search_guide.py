# SPDX-License-Identifier: Apache-2.0
"""What the guide to search shows is run as it stands, in a folder with a model, a photograph and five more."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from distinct import distinct_model, noise
from PIL import Image

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "search.md"


def test_what_the_guide_shows_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    distinct_model().save_pretrained("RUN")
    Image.fromarray(noise()).save("photo.jpg")
    Path("photos").mkdir()
    for k in range(5):
        Image.fromarray(noise(seed=k)).save(f"photos/{k}.png")
    blocks = re.findall(r"^```(python|bash)\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    assert len(blocks) >= 5
    for language, text in blocks:
        if "lancedb" in text:
            pytest.importorskip("lancedb", reason="the last part of the guide needs LanceDB (extra 'index')")
        if language == "python":
            exec(compile(text, GUIDE.name, "exec"), names)
            continue
        for line in text.splitlines():
            command, *words = shlex.split(line)
            main = importlib.import_module(command.replace("unified-", "unified.cli.")).main
            with pytest.raises(SystemExit) as ended:
                main(words)
            assert not ended.value.code, (line, capsys.readouterr().err)
    for name in ("near.png", "near.html", "duplicates.html", "clusters.png", "INDEX/index.json"):
        assert Path(name).is_file()
