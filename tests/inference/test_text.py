# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from spare import noise, spare_model
from torch import Tensor

import unified
from unified.cli import search
from unified.contracts.errors import ConfigError, DataError
from unified.inference.model import UnifiedModel

WIDTH = 384


class Names:
    """An encoder to whom the text 'like 3' means the fourth picture."""

    name, dim, digest = "names", WIDTH, "0123456789abcdef"

    def __init__(self, pictures: Tensor) -> None:
        self.pictures = pictures

    def __call__(self, texts: Any) -> Tensor:
        return torch.stack([self.pictures[int(text.split()[-1])] for text in texts])


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path / "cache"))
    Path("photos").mkdir()
    for k in range(6):
        Image.fromarray(noise(64, 64, seed=k)).save(f"photos/{k}.png")
    return Path("photos")


@pytest.fixture
def model(photos: Path, monkeypatch: pytest.MonkeyPatch) -> UnifiedModel:
    from unified.tasks.caption import task

    model = spare_model({"cap": "cap", "cls": "cls"})
    pictures = model.encode([str(path) for path in sorted(photos.iterdir())])
    monkeypatch.setattr(task, "encoder_of", lambda name: Names(torch.as_tensor(pictures)))
    model.save_pretrained("RUN")
    return model


def code_of(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        search.main(list(words))
    return int(caught.value.code or 0)


def test_texts_and_pictures_share_a_space(model: UnifiedModel, photos: Path) -> None:
    vectors = model.encode_text(["like 2", "like 4"])
    pictures = torch.as_tensor(model.encode([str(path) for path in sorted(photos.iterdir())]))
    assert vectors.shape == (2, WIDTH) and model.encode_text("like 2").shape == (WIDTH,)
    assert (vectors @ pictures.T).argmax(dim=1).tolist() == [2, 4]
    short = model.encode_text("like 2", truncate_dim=32)
    assert short.shape == (32,) and float(short.norm()) == pytest.approx(1, abs=1e-3)


def test_a_folder_is_searched_by_text(model: UnifiedModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("index", "RUN", "photos", "--out", "found", "--json") == 0
    capsys.readouterr()
    assert code_of("text", "found", "like 3", "like 0", "-k", "2", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [answer["query"] for answer in told] == ["like 3", "like 0"]
    assert [Path(answer["hits"][0]["path"]).name for answer in told] == ["3.png", "0.png"]
    assert [len(answer["hits"]) for answer in told] == [2, 2]
    assert code_of("text", "found", "like 1", "--sheet", "sheet.png") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == '"like 1"' and lines[1].endswith("photos/1.png")
    assert Image.open("sheet.png").width > 100


def test_the_short_form_is_the_same_command(model: UnifiedModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("index", "RUN", "photos", "--out", "found", "--json") == 0
    capsys.readouterr()
    told = []
    for words in (
        ("text", "found", "like 3", "like 0", "-k", "2"),
        ("--text", "like 3", "found", "-k", "2", "--text", "like 0"),
    ):
        assert code_of(*words, "--json") == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] and len(json.loads(told[0])) == 2
    assert code_of("--text", "like 3") == 2  # and no index
    assert capsys.readouterr().err.count("\n") == 1


def test_what_cannot_be_searched_is_one_line(model: UnifiedModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("index", "RUN", "photos", "--out", "found") == 0
    capsys.readouterr()
    assert code_of("text", "found", " ") == 2
    assert "an empty text" in capsys.readouterr().err
    with pytest.raises(DataError, match="empty text"):
        model.encode_text("")
    spare_model({"cap": "cap"}, seed=1).save_pretrained("OTHER")
    assert code_of("text", "found", "like 1", "--model", "OTHER") == 2
    assert "are of another model" in capsys.readouterr().err
    boxes = unified.index.create("boxes", dim=WIDTH, space=model.space, level="box", model=str(Path("RUN").absolute()))
    assert len(boxes) == 0 and code_of("text", "boxes", "like 1") == 2
    assert "this is an index of boxes" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="has not learned from captions; its tasks are det, cls, emb"):
        spare_model().encode_text("a bus")
    both = spare_model({"cap": "cap", "det": "det", "emb": "emb"})
    with pytest.raises(
        ConfigError, match=r"embedded by task 'emb', which knows no texts; load it with tasks=\['cap'\]"
    ):
        both.encode_text("a bus")


def test_what_the_guide_shows_runs(
    model: UnifiedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its searches; its training takes minutes, and its words are checked without a step."""
    from unified.tasks.caption import task

    monkeypatch.setattr(task, "encoder_of", lambda name: Random())
    text = (Path(__file__).resolve().parents[2] / "docs" / "text-search.md").read_text(encoding="utf-8")
    searched = trained = 0
    for language, block in re.findall(r"^```(python|bash)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(compile(block, "text-search.md", "exec"), {})
            continue
        for command, *words in (shlex.split(line) for line in block.replace("\\\n", " ").splitlines()):
            if command == "unified-search":
                assert code_of(*words) == 0, capsys.readouterr().err
                searched += 1
            elif command == "unified-train":
                names = words[words.index("--tasks") + 1].split(",")
                assert "cap" in names and "emb" not in names[names.index("cap") :]
                trained += 1
    assert searched == 4 and trained >= 2 and Path("found.png").is_file()


class Random:
    """An encoder that has no idea."""

    name, dim, digest = "random", WIDTH, "fedcba9876543210"

    def __call__(self, texts: Any) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(len(texts), WIDTH), dim=1)
