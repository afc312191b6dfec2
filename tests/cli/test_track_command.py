# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import unified
from unified.cli import track
from unified.contracts.errors import DataError
from unified.contracts.structures import Prediction
from unified.inference.results import Result, result_of
from unified.inference.source import open_source
from unified.inference.tracking import followed


class FakeModel:
    """Sees one dog walk to the right, and something happen at a frame if it is told so."""

    def __init__(self) -> None:
        self.ends: dict[int, BaseException] = {}

    def track(self, source: Any, settings: Any = None, **_: Any) -> Iterator[Result]:
        return followed(self._seen(source), settings)

    def _seen(self, source: Any) -> Iterator[Result]:
        for k, still in enumerate(open_source(source).stills):
            if k in self.ends:
                raise self.ends[k]
            height, width = still.read().shape[1:]
            box = torch.tensor([[1.0 + k, 2, 20 + k, 22]])
            said = Prediction((height, width), box, torch.tensor([0.75]), torch.tensor([1]), ("cat", "dog"))
            yield result_of(said, still)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    monkeypatch.chdir(tmp_path)
    model = FakeModel()
    monkeypatch.setitem(vars(unified), "load", lambda folder: model)
    Path("walk").mkdir()
    for k in range(6):
        Image.fromarray(np.full((30, 60, 3), 30 * k, np.uint8)).save(f"walk/{k}.png")
    return model


def code_of(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        track.main(list(words))
    return int(caught.value.code or 0)


def film(path: str, frames: int = 4) -> None:
    pytest.importorskip("av", reason="needs PyAV (extra 'video')")
    from unified.inference.video import VideoWriter

    with VideoWriter(Path(path)) as writer:
        for k in range(frames):
            writer.add(Image.fromarray(np.full((48, 64, 3), 50 * k, np.uint8)))


def left() -> list[str]:
    return sorted(path.name for path in Path("tracks").iterdir()) if Path("tracks").is_dir() else []


def test_a_folder_of_frames_becomes_lines_and_json(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("run", "walk", "--no-draw", "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)["videos"]
    assert (told["name"], told["frames"], told["tracks"]) == ("walk", 6, 1)
    rows = Path(told["mot"]).read_text().splitlines()
    assert rows[0] == "1,1,2.00,3.00,19.00,20.00,0.7500,-1,-1,-1" and len(rows) == 6
    frames = [json.loads(line) for line in Path(told["json"]).read_text().splitlines()]
    assert [frame["frame"] for frame in frames] == list(range(6))
    assert frames[3]["boxes"][0]["track"] == 1 and frames[3]["boxes"][0]["name"] == "dog"
    assert left() == ["walk.jsonl", "walk.txt"]


def test_a_video_is_drawn_frame_by_frame(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    film("a.mp4")
    film("b.mp4", 3)
    from unified.inference.video import video_frames

    assert code_of("run", "a.mp4", "b.mp4", "--frames", "3") == 0
    assert "a: 1 tracks in 3 frames" in capsys.readouterr().out
    pictures = [pixels for pixels, _ in video_frames(Path("tracks/a.mp4"))]
    assert len(pictures) == 3 and pictures[0].shape[2] == 480  # small frames are enlarged, so that labels can be read
    assert left() == [f"{name}.{kind}" for name in "ab" for kind in ("jsonl", "mp4", "txt")]


def test_what_was_seen_before_the_damage_is_kept(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    model.ends[4] = DataError("video walk is damaged after 4 frames: Invalid data")
    assert code_of("run", "walk", "--no-draw") == 1
    told = capsys.readouterr()
    assert told.err.strip() == (
        "error: video walk is damaged after 4 frames: Invalid data; the tracks of 4 frames are kept"
    )
    assert len(Path("tracks/walk.txt").read_text().splitlines()) == 4


def test_ctrl_c_ends_a_camera_and_keeps_its_tracks(model: FakeModel) -> None:
    model.ends[3] = KeyboardInterrupt()
    assert code_of("run", "walk", "--no-draw") == 130
    assert left() == ["walk.jsonl", "walk.txt"]
    assert len(Path("tracks/walk.jsonl").read_text().splitlines()) == 3


def test_a_fault_leaves_no_half_files(model: FakeModel) -> None:
    model.ends[3] = RuntimeError("the machine is on fire")
    assert code_of("run", "walk", "--no-draw") == 1
    assert left() == []


def test_one_bad_video_among_others_costs_a_line(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    film("good.mp4")
    Path("bad.mp4").write_bytes(Path("good.mp4").read_bytes()[:700])
    assert code_of("run", "bad.mp4", "good.mp4", "--no-draw") == 1
    told = capsys.readouterr()
    assert told.err.startswith("error: video bad.mp4 is damaged") and told.err.count("\n") == 1
    assert left() == ["good.jsonl", "good.txt"]
    assert code_of("run", "bad.mp4", "--no-draw") == 2


def test_a_file_without_a_frame_is_one_line(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    av = pytest.importorskip("av", reason="needs PyAV (extra 'video')")
    with av.open("silent.mkv", "w") as container:  # a stream of pictures, and not one in it
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
    with av.open("sound.mkv", "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode()])
    Path("text.mp4").write_text("no video")
    Path("empty.mp4").write_bytes(b"")
    for name, told in (
        ("silent.mkv", "is damaged or of an unknown format: End of file"),
        ("sound.mkv", "holds no pictures"),
        ("text.mp4", "is damaged or of an unknown format"),
        ("empty.mp4", "is damaged or of an unknown format"),
    ):
        assert code_of("run", name) == 2
        said = capsys.readouterr().err
        assert told in said and name in said and said.count("\n") == 1, said
    assert left() == []


@pytest.mark.parametrize("text", ["frame,id,left", "{}", "1,-1,5,5,-3,2,1", "9e15,-1,5,5,3,2,1", "\x00\x01\x02"])
def test_a_wrong_file_of_detections_is_one_line(
    text: str, model: FakeModel, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bench/one/det").mkdir(parents=True)
    Path("bench/one/det/det.txt").write_text(f"1,-1,5,5,3,2,1,-1,-1,-1\n{text}\n")
    assert code_of("--mot", "bench") == 2
    said = capsys.readouterr().err
    assert "det.txt' line 2: expected frame,id" in said and said.count("\n") == 1
    assert left() == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "none.mp4"], "video 'none.mp4' is missing"),
        (["run"], "give RUN and VIDEO"),
        ([], "give RUN and VIDEO"),
        (["run", "walk", "--mot", "walk"], "give RUN and VIDEO"),
        (["--mot", "walk"], "holds no sequence"),
        (["--mot", "none"], "'none' is missing"),
        (["run", "walk", "walk"], "2 videos are called 'walk'"),
        (["run", "http://host/a.mp4"], "is a URL"),
        (["run", "walk", "--appearance", "7"], "--appearance"),
    ],
)
def test_a_wrong_word_is_one_line(
    words: list[str], told: str, model: FakeModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of(*words) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1
    assert left() == []


def test_a_drawing_never_takes_the_place_of_its_video(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    film("a.mp4")
    assert code_of("run", "a.mp4", "--out", ".") == 2
    assert "would overwrite a.mp4" in capsys.readouterr().err


def test_a_benchmarks_folder_is_tracked_and_scored(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("motmetrics", reason="pip install 'unified-networks[track]'")
    for name in ("one", "two"):
        Path(f"bench/{name}/det").mkdir(parents=True)
        Path(f"bench/{name}/gt").mkdir()
        rows = [f"{k},{{}},{10 + k},20,30,40,1,-1,-1,-1" for k in range(1, 11)]
        Path(f"bench/{name}/det/det.txt").write_text("\n".join(row.format(-1) for row in rows))
        Path(f"bench/{name}/gt/gt.txt").write_text("\n".join(row.format(7) for row in rows))
    assert code_of("--mot", "bench", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [(score["name"], score["idf1"], score["mota"]) for score in told["scores"]] == [
        ("one", 1.0, 1.0),
        ("two", 1.0, 1.0),
        ("OVERALL", 1.0, 1.0),
    ]
    assert left() == ["one.txt", "two.txt"]
    assert code_of("run", "--mot", "bench") == 2
    assert "has no frames in img1" in capsys.readouterr().err
