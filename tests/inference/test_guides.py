# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from spare import noise, spare_model

GUIDES = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the guides take for granted: a model, a photograph, some more, and a list of them."""
    monkeypatch.chdir(tmp_path)
    spare_model().save_pretrained("RUN")
    Image.fromarray(noise()).save("photo.jpg")
    for k in range(5):
        Path("photos").mkdir(exist_ok=True)
        Image.fromarray(noise(seed=k)).save(f"photos/{k}.png")
    Path("list.txt").write_text("photos/0.png\nphotos/1.png\nphoto.jpg\n")
    return tmp_path


def blocks(guide: str) -> list[tuple[str, str]]:
    """The language and the text of every block of code, in order."""
    text = (GUIDES / guide).read_text(encoding="utf-8")
    return re.findall(r"^```(python|bash)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("guide", ["python-api.md", "embedding.md"])
def test_what_the_guides_show_runs(guide: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    assert len(blocks(guide)) >= 4
    if guide == "embedding.md":
        pytest.importorskip("pyarrow", reason="the guide writes Parquet; pip install 'unified-networks[parquet]'")
    for language, text in blocks(guide):
        if language == "python":
            exec(compile(text, guide, "exec"), names)
        else:
            for line in text.splitlines():
                command, *words = shlex.split(line)
                main = importlib.import_module(command.replace("unified-", "unified.cli.")).main
                with pytest.raises(SystemExit) as ended:
                    main(words)
                assert not ended.value.code, (line, capsys.readouterr().err)
    made = {
        "python-api.md": ["seen.jpg", "seen/coco.json", "handed-on/README.md"],
        "embedding.md": ["vectors", "boxes"],
    }
    assert [name for name in made[guide] if not (here / name).exists()] == []
