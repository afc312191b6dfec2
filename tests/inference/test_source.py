# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from spare import noise, spare_model

from unified.contracts.errors import UnifiedError
from unified.inference import source, video
from unified.inference.model import UnifiedModel
from unified.inference.results import Result

LOW = {"confidence": 0.0}


@pytest.fixture(scope="module")
def model() -> UnifiedModel:
    return spare_model()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for k, name in enumerate(("a.png", "b.png", "deep/c.png")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(seed=k)).save(path)
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "broken.mp4").write_bytes(b"\0" * 4000)
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "playlist.mp4").write_text(playlist)
    return tmp_path


def film(path: Path, frames: int = 7, rotation: int = 0) -> Path:
    """A video whose frames are one grey each, the next one brighter."""
    pytest.importorskip("av", reason="needs PyAV (extra 'video')")
    with video.VideoWriter(path) as writer:
        for k in range(frames):
            writer.add(Image.fromarray(np.full((48, 64, 3), 20 + 30 * k, np.uint8)))
    return path


def same(a: Result, b: Result) -> bool:
    return torch.equal(a.boxes_xyxy, b.boxes_xyxy) and torch.equal(a.embedding, b.embedding)  # type: ignore[arg-type]


def test_every_form_of_a_picture_gives_the_same_answer(model: UnifiedModel, folder: Path) -> None:
    array, path = noise(), folder / "photos" / "a.png"
    chw = torch.from_numpy(array).permute(2, 0, 1)
    forms: list[Any] = [path, str(path), path.read_bytes(), bytearray(path.read_bytes()), Image.open(path), array, chw]
    forms += [chw.float() / 255, (chw.double() / 255), [array][0]]
    first, *others = [model.predict(form, **LOW) for form in forms]
    assert len(first.boxes) > 0
    assert all(same(first, other) for other in others)


def test_what_may_hold_several_gives_a_list(model: UnifiedModel, folder: Path) -> None:
    single = model.predict("photos/a.png", **LOW)
    for word in ("photos", folder / "photos", "photos/**/*.png", "photos/"):
        found = model.predict(word, **LOW)
        assert isinstance(found, list)
        assert [r.origin.path.name for r in found] == ["a.png", "b.png", "c.png"]
        assert torch.allclose(found[0].embedding, single.embedding, atol=1e-5)
    assert len(model.predict("photos/a*.png")) == 1
    mixed = model.predict(["photos", noise(), "photos/b.png"], **LOW)
    assert [r.origin.name for r in mixed][3:] == ["array", "photos/b.png"]
    assert len(model.predict((noise(), noise()))) == 2


def test_a_stream_gives_one_after_another(model: UnifiedModel, folder: Path) -> None:
    stream = model.predict("photos", stream=True, batch_size=2, **LOW)
    assert not isinstance(stream, list)
    first = next(stream)
    assert first.origin.path is not None
    assert len(list(stream)) == 2
    assert len(list(model.predict(noise(), stream=True))) == 1


def test_a_stream_holds_no_more_than_a_few_batches(model: UnifiedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    monkeypatch.setattr(source, "as_pixels", lambda p: (opened.append(1), torch.zeros(3, 64, 64, dtype=torch.uint8))[1])
    stream = model.predict([noise(8, 8)] * 100, stream=True, batch_size=2)
    next(stream)
    assert len(opened) <= 2 + 2 * 2 + 2
    stream.close()
    time.sleep(0.05)
    assert len(opened) < 20


def test_a_video_is_looked_at_frame_by_frame(model: UnifiedModel, folder: Path) -> None:
    film(folder / "clip.mp4")
    found = model.predict("clip.mp4", **LOW)
    assert [r.origin.frame for r in found] == list(range(7))
    assert found[3].origin.seconds == pytest.approx(3 / 25, abs=1e-3)
    assert found[0].size == (48, 64)
    grey = model.predict(np.full((48, 64, 3), 110, np.uint8), tasks="cls")
    assert torch.allclose(found[3].tag_scores, grey.tag_scores, atol=0.02)
    with pytest.raises(UnifiedError, match=r"frame 3 were not kept; predict with stream=True"):
        found[3].plot()
    assert next(model.predict("clip.mp4", stream=True)).plot().size[0] >= 480


def test_frames_are_what_was_written(folder: Path) -> None:
    pixels = [frame.float().mean().item() for frame, _ in video.video_frames(film(folder / "clip.mp4"))]
    assert pixels == pytest.approx([20 + 30 * k for k in range(7)], abs=3)
    assert video.frame_count(folder / "clip.mp4") == 7
    assert video.frame_rate(folder / "clip.mp4") == 25


def test_nothing_that_a_video_names_is_opened(
    model: UnifiedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av", reason="needs PyAV (extra 'video')")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.2)
        text = (folder / "playlist.mp4").read_text().replace(":9/", f":{server.getsockname()[1]}/")
        (folder / "playlist.mp4").write_text(text)
        with pytest.raises(UnifiedError, match="is damaged or of an unknown format"):
            model.predict("playlist.mp4")
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("no/such.jpg", "picture 'no/such.jpg' is missing"),
        ("no/such.mp4", "video 'no/such.mp4' is missing"),
        ("photos/*.webp", "no picture at 'photos/*.webp'"),
        ("empty", "no picture in folder 'empty'"),
        ("", "the path is empty"),
        ("nul\0l.jpg", "picture 'nul"),
        ("text.jpg", "picture text.jpg is damaged or not one of"),
        ("broken.mp4", "video broken.mp4 is damaged or of an unknown format"),
        ("https://host/a.jpg", "'https://host/a.jpg' is a URL, and nothing is fetched"),
        ("FILE:///etc/passwd", "is a URL"),
        ("rtsp://camera", "is a URL"),
        ("s3://bucket/a.jpg", "is a URL"),
        ("data:image/png;base64,xx", "is a URL"),
        (b"no picture", "picture of 10 bytes is damaged"),
        (b"", "picture of 0 bytes is damaged"),
        ([], "the list is empty"),
        ((), "the list is empty"),
        ([noise(), "no/such.jpg"], "picture 'no/such.jpg' is missing"),
        ([[noise()]], "a list within a list"),
        (None, "NoneType is no picture"),
        ({}, "dict is no picture"),
        (True, "bool is no picture"),
        (1.5, "float is no picture"),
        (np.zeros((8, 8, 3)), "float64 of shape (8, 8, 3)"),
        (np.zeros((3, 8, 8), np.uint8), "uint8 of shape (3, 8, 8)"),
        (np.zeros((2, 8, 8, 3), np.uint8), "uint8 of shape (2, 8, 8, 3)"),
        (np.zeros((8, 0, 3), np.uint8), "of shape (8, 0, 3)"),
        (torch.zeros(8, 8, 3), "float32 of shape (8, 8, 3)"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "int64 of shape (3, 8, 8)"),
        (torch.full((3, 8, 8), 200.0), "must lie in 0..1; got 200..200"),
        (torch.full((3, 8, 8), float("nan")), "must lie in 0..1; got nan..nan"),
        (torch.full((3, 8, 8), -0.1), "must lie in 0..1; got -0.1..-0.1"),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(model: UnifiedModel, folder: Path, given: Any, said: str) -> None:
    if str(given).endswith("broken.mp4"):
        pytest.importorskip("av", reason="needs PyAV (extra 'video')")
    for call in (model.predict, model.encode):
        with pytest.raises(UnifiedError) as caught:
            call(given)
        assert said in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_a_camera_needs_a_stream_and_opencv(model: UnifiedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnifiedError, match="a camera never ends; give stream=True"):
        model.predict(0)
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(
        UnifiedError, match=r"needs OpenCV, which is not installed: pip install 'unified-networks\[camera"
    ):
        next(model.predict(0, stream=True))


class FakeCamera:
    """Three frames, red in OpenCV's order; then the plug is pulled."""

    def __init__(self, number: int) -> None:
        self.number, self.left, self.released = number, 3, False

    def isOpened(self) -> bool:  # noqa: N802
        return self.number == 0

    def read(self) -> tuple[bool, Any]:
        self.left -= 1
        return self.left >= 0, np.full((32, 32, 3), (0, 0, 255), np.uint8)

    def release(self) -> None:
        self.released = True


def test_a_cameras_frames_come_in_rgb(model: UnifiedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    module = type("cv2", (), {"VideoCapture": FakeCamera})
    monkeypatch.setitem(__import__("sys").modules, "cv2", module)
    frames = [pixels for _, (pixels, _) in zip(range(3), video.camera_frames(0), strict=False)]
    assert frames[0][:, 0, 0].tolist() == [255, 0, 0]
    stream = model.predict(0, stream=True)
    assert [next(stream).origin.name for _ in range(3)] == ["camera 0 frame 0", "camera 0 frame 1", "camera 0 frame 2"]
    with pytest.raises(UnifiedError, match="camera 0 gives no more frames"):
        next(stream)
    with pytest.raises(UnifiedError, match="camera 5 cannot be opened"):
        next(model.predict(5, stream=True))


def test_a_video_without_its_package_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(UnifiedError, match=r"a video needs PyAV.*unified-networks\[video\]"):
        next(video.video_frames(folder / "broken.mp4"))


def test_reading_ahead_keeps_the_order_and_ends() -> None:
    before = threading.active_count()
    done = list(source.ahead(range(50), lambda k: (time.sleep(0.001 * (k % 3)), k)[1], workers=4, depth=8))
    assert done == list(range(50))
    with pytest.raises(ZeroDivisionError):
        list(source.ahead([1, 0, 2], lambda k: 1 // k, workers=2, depth=2))
    assert threading.active_count() == before


def test_a_picture_file_with_a_pattern_in_its_name_is_itself(model: UnifiedModel, folder: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise()).save(buffer, "PNG")
    (folder / "a[1].png").write_bytes(buffer.getvalue())
    assert model.predict("a[1].png").size == (48, 80)
