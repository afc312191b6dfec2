# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import unified
from unified.cli import embed, eval, predict, train
from unified.contracts.structures import Prediction
from unified.inference.results import result_of
from unified.inference.source import Source, open_source

ROOT = Path(unified.__file__).resolve().parents[1]


class FakeModel:
    """Finds one dog wherever it looks, and remembers how it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def predict(self, source: Source, stream: bool = False, **options: Any) -> Any:
        if stream:
            return (result_of(self._said(still.read().shape[1:]), still) for still in open_source(source).stills)
        several = isinstance(source, list)
        pictures: Any = source if several else [source]
        self.asked.append(len(pictures))
        found = [self._said((picture.height, picture.width)) for picture in pictures]
        return found if several else found[0]

    def _said(self, size: Any) -> Prediction:
        return Prediction(
            size=(int(size[0]), int(size[1])),
            boxes_xyxy=torch.tensor([[1.0, 2, 20, 22]]),
            scores=torch.tensor([0.75]),
            labels=torch.tensor([1]),
            box_names=("cat", "dog"),
            extras={"pose": {"points": torch.ones(1, 2)}},
        )


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    monkeypatch.chdir(tmp_path)
    model = FakeModel()
    monkeypatch.setitem(vars(unified), "load", lambda folder, **words: model)
    Path("photos").mkdir()
    for k in range(5):
        Image.fromarray(np.full((30, 40, 3), 40 * k, np.uint8)).save(f"photos/{k}.png")
    return model


def code_of(command: Any, *words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        command.main(list(words))
    return int(caught.value.code or 0)


def film(path: str, frames: int = 4) -> None:
    pytest.importorskip("av", reason="needs PyAV (extra 'video')")
    from unified.inference.video import VideoWriter

    with VideoWriter(Path(path)) as writer:
        for k in range(frames):
            writer.add(Image.fromarray(np.full((48, 64, 3), 50 * k, np.uint8)))


def test_coco_tools_open_what_is_written(model: FakeModel) -> None:
    from pycocotools.coco import COCO

    assert code_of(predict, "run", "photos", "--out", "seen", "--coco") == 0
    truth = COCO("seen/coco.json")
    assert [c["name"] for c in truth.loadCats(truth.getCatIds())] == ["cat", "dog"]
    assert len(truth.getImgIds()) == 5
    found = truth.loadAnns(truth.getAnnIds(catIds=[2]))
    assert len(found) == 5
    assert found[0]["bbox"] == [1, 2, 19, 20]
    assert found[0]["score"] == 0.75
    assert truth.loadImgs([1])[0] == {"id": 1, "file_name": "photos/0.png", "width": 40, "height": 30}


def test_a_batch_is_one_call(model: FakeModel) -> None:
    assert code_of(predict, "run", "photos", "--out", "one", "--no-draw") == 0
    assert code_of(predict, "run", "photos", "--out", "two", "--batch", "2", "--no-draw") == 0
    assert model.asked == [1] * 5 + [2, 2, 1]
    assert Path("one/predictions.json").read_text() == Path("two/predictions.json").read_text()
    assert [p.name for p in Path("one").iterdir()] == ["predictions.json"]


def test_what_a_strangers_task_says_is_written(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(predict, "run", "photos/0.png", "--out", "seen") == 0
    assert json.loads(Path("seen/predictions.json").read_text())[0]["extras"] == {"pose": {"points": [[1, 1]]}}
    assert "pose: in extras" in capsys.readouterr().out


def test_a_video_is_drawn_and_told_frame_by_frame(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    film("clip.mp4")
    assert code_of(predict, "run", "clip.mp4", "photos/1.png", "--out", "seen", "--json") == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry.get("frames") for entry in entries] == [None, 4]
    lines = [json.loads(line) for line in Path("seen/clip.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 1, 2, 3]
    assert lines[0]["boxes"][0]["name"] == "dog"
    from unified.inference.video import frame_count

    assert frame_count(Path("seen/clip.mp4")) == 4
    assert code_of(predict, "run", "clip.mp4", "--out", "two", "--frames", "2", "--no-draw") == 0
    assert len(Path("two/clip.jsonl").read_text().splitlines()) == 2
    assert not Path("two/clip.mp4").exists()


def test_a_damaged_video_costs_one_line_and_code_1(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av", reason="needs PyAV (extra 'video')")
    Path("broken.mp4").write_bytes(b"\0" * 3000)
    assert code_of(predict, "run", "broken.mp4", "photos", "--out", "seen") == 1
    told = capsys.readouterr()
    assert told.err.startswith("error: video broken.mp4 is damaged")
    assert len(told.err.splitlines()) == 1
    assert len(json.loads(Path("seen/predictions.json").read_text())) == 5


def test_a_video_never_overwrites_itself(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    film("clip.mp4")
    before = Path("clip.mp4").read_bytes()
    assert code_of(predict, "run", "clip.mp4", "--out", ".") == 2
    assert "would overwrite clip.mp4" in capsys.readouterr().err
    assert Path("clip.mp4").read_bytes() == before


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("https://host/a.jpg", "'https://host/a.jpg' is a URL, and nothing is fetched"),
        ("gone.png", "picture 'gone.png' is missing"),
        ("gone.mp4", "video 'gone.mp4' is missing"),
    ],
)
def test_a_wrong_source_is_one_line(model: FakeModel, capsys: pytest.CaptureFixture[str], word: str, said: str) -> None:
    assert code_of(predict, "run", word, "--out", "seen") == 2
    told = capsys.readouterr()
    assert said in told.err
    assert len(told.err.splitlines()) == 1
    assert not Path("seen").exists()


@pytest.mark.parametrize("command", [predict, embed, eval, train], ids=lambda c: c.__name__)
def test_every_command_completes_its_words_in_a_shell(command: Any) -> None:
    name = command.__name__.rpartition(".")[2]
    variable = f"_UNIFIED_{name.upper()}_COMPLETE"
    asked = {variable: "complete_bash", "COMP_WORDS": f"unified-{name} --js", "COMP_CWORD": "1"}
    code = f"import sys; sys.argv = ['unified-{name}']; from unified.cli.{name} import main; main()"
    environment = {**os.environ, **asked, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["--json"], done.stderr
