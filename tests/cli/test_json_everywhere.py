# SPDX-License-Identifier: Apache-2.0
"""What all commands have in common: ``--json``, completion in a shell, and clear lines."""

from __future__ import annotations

import importlib
import io
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from unified.cli import data, eval, progress
from unified.contracts.errors import ConfigError, DataError
from unified.contracts.structures import Vocabulary
from unified.data.picture import decoded
from unified.training import evaluator

PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())
SCRIPTS: dict[str, str] = PROJECT["project"]["scripts"]
WITHOUT = {"unified-app"}  # a page for people


def commands(app: typer.Typer) -> Iterator[tuple[str, Any]]:
    """The command, or each of its own commands."""
    top: Any = typer.main.get_command(app)
    yield from getattr(top, "commands", {"": top}).items()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_speaks_json_and_completes_its_words(script: str) -> None:
    app = importlib.import_module(SCRIPTS[script].partition(":")[0]).app
    top: Any = typer.main.get_command(app)
    words = {word for parameter in top.params for word in parameter.opts}
    assert {"--install-completion", "--show-completion"} <= words
    if script in WITHOUT:
        return
    without = [
        name
        for name, command in commands(app)
        if "--json" not in {word for parameter in command.params for word in parameter.opts}
    ]
    assert without == [], f"{script}: no --json in {without}"


def code_of(command: Any, *words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        command.main(list(words))
    return int(caught.value.code or 0)


def test_data_sets_are_told_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "made"
    words = ("shapes", "--out", str(made), "--train", "3", "--val", "2", "--size", "48", "--level", "easy")
    assert code_of(data, *words, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"folder": str(made), "file": str(made / "data.yaml"), "images": {"train": 3, "val": 2}}
    assert code_of(data, "convert", told["file"], "--out", str(tmp_path / "coco"), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == {"file", "images", "boxes", "remarks"}
    assert told["images"] == {"train": 3, "val": 2}
    assert Path(told["file"]).is_file()


def test_eval_counts_its_batches(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The bar hears how many there are, and each of them."""
    counted: list[int] = []

    class Counting(progress.Bar):
        def of(self, total: int) -> None:
            counted.append(total)

        def add(self, done: int = 1) -> None:
            counted.append(-done)

    def scored(run: Path, begin: Any, say: Any, **words: Any) -> dict[str, float]:
        begin(3)
        assert list(evaluator._heard([1, 2, 3], say)) == [1, 2, 3]  # type: ignore[list-item]
        return {"det/AP": 0.5}

    monkeypatch.setattr(progress, "Bar", Counting)
    monkeypatch.setattr(evaluator, "evaluate_run", scored)
    assert code_of(eval, "run", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"det/AP": 0.5}
    assert counted == [3, -1, -1, -1]


def test_a_model_that_was_handed_on_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from unified.contracts.config import DataConfig

    config = SimpleNamespace(data=DataConfig(datasets={}))
    given = SimpleNamespace(tasks={"det": None}, config=config, vocabulary=Vocabulary())
    monkeypatch.setattr(evaluator, "load_trained", lambda run: given)
    with pytest.raises(ConfigError, match=r"'pack' was imported or handed on .* name some with --data"):
        evaluator.evaluate_run(Path("pack"))


def saved(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (saved("GIF"), "is GIF, which is not read; known: JPEG, PNG, WEBP, BMP, TIFF; save it as one of these"),
        (saved("PPM"), "is PPM, which is not read"),
        (b"\0\0\0\x18ftypheic" + bytes(99), "is HEIC, which is not read"),
        (b"\0\0\0\x18ftypavif" + bytes(99), "is AVIF, which is not read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is SVG, which is not read"),
        (b"%PDF-1.7\n", "is PDF, which is not read"),
        (b"text", "is damaged or not one of JPEG, PNG, WEBP, BMP, TIFF"),
        (b"", "is damaged or not one of JPEG, PNG, WEBP, BMP, TIFF"),
    ],
)
def test_a_file_of_another_kind_is_named(content: bytes, said: str) -> None:
    with pytest.raises(DataError) as caught:
        decoded(io.BytesIO(content), "a")
    assert said in str(caught.value)
    assert torch.equal(decoded(io.BytesIO(saved("PNG")), "a")[0], torch.zeros(3, 9, 9, dtype=torch.uint8))
