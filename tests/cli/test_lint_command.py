# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

from unified.cli import lint, train

DATA = """
datasets:
  mine:
    path: coco
    train: {images: ., annotations: train.json}
    val: {images: ., annotations: train.json}
    labelled: {det: all}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a good data file, and a bad one with two faults."""
    tiny.write_model(tmp_path)
    tiny.write_recipe(tmp_path)
    (tmp_path / "coco").mkdir()
    Image.fromarray(np.full((96, 96, 3), 90, np.uint8)).save(tmp_path / "coco" / "a.png")
    note = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [9, 9, 30, 30]}
    truth: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png", "width": 96, "height": 96}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [note],
    }
    (tmp_path / "coco" / "train.json").write_text(json.dumps(truth))
    truth["annotations"] = [{**note, "bbox": [90, 9, 30, 30]}, {**note, "id": 2, "bbox": [9, 9, 0, 30]}]
    (tmp_path / "coco" / "bad.json").write_text(json.dumps(truth))
    (tmp_path / "good.yaml").write_text(DATA)
    (tmp_path / "bad.yaml").write_text(DATA.replace("train.json", "bad.json"))
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(command: Any, *words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        command.main(list(words))
    return int(caught.value.code or 0)


def test_good_data_leaves_with_0_and_bad_with_1(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(lint, "good.yaml") == 0
    told = capsys.readouterr().out
    assert "training would take this data" in told and "cat" in told
    assert ran(lint, "bad.yaml") == 1
    lines = capsys.readouterr().out.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 2  # one file on both sides is told once
    assert errors[0].startswith("error: coco/bad.json: annotations[1] (id 2).bbox: ") and "--fix" in errors[0]
    assert lines[-1].startswith("2 errors, ") and lines[-1].endswith("training would refuse this data")


def test_json_is_one_object(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(lint, "bad.yaml", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["errors"] == 2 and told["refused"] is True
    assert {finding["fault"] for finding in told["findings"]} >= {"box-no-area", "box-over-edge"}
    assert set(told["findings"][0]) == {"fault", "severity", "file", "record", "field", "reason", "action"}
    assert ran(lint, "good.yaml", "--json") == 0
    assert json.loads(capsys.readouterr().out)["counts"][0]["positive"] == 1


def test_fix_and_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(lint, "bad.yaml", "--fix", "fixed", "--html", "page.html") == 1
    assert "fixed: coco/bad.json: annotations[0] (id 1): clipped to [90, 9, 6, 30]" in capsys.readouterr().out
    assert (here / "page.html").read_text().startswith("<!doctype html>")
    assert ran(lint, "fixed/data.yaml") == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shappes"], "unknown data 'shappes'"),
        (["nowhere.yaml"], "nowhere.yaml"),
        (["good.yaml", "--fix", "coco/fixed"], "lies inside the data set"),
        (["good.yaml", "--fix", "coco"], "already holds something"),
        (["good.yaml", "--html", "coco"], "cannot be written"),
    ],
)
def test_a_wrong_word_is_one_line(here: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert ran(lint, *words) == 2
    told = capsys.readouterr().err
    assert said in told and len(told.splitlines()) == 1


def test_training_asks_the_linter_first(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--tasks", "det", "--model", "tiny.yaml", "--recipe", "recipe.yaml", "--max-steps", "1", "--out", "new"]
    assert ran(train, *words, "--data", "bad.yaml") == 2
    told = capsys.readouterr().err
    assert told.startswith("error: 2 faults in the data; unified-lint bad.yaml shows all")
    assert "annotations[1] (id 2).bbox" in told and not (here / "new").exists()
    assert ran(train, *words, "--data", "bad.yaml", "--no-lint", "--quiet") == 0
    assert (here / "new" / "metrics.json").is_file()
