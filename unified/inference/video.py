# SPDX-License-Identifier: Apache-2.0
"""Videos and cameras as frames, and frames as a video: uint8 (3, H, W) RGB, upright.

Files go through PyAV (extra ``video``), cameras through OpenCV (extra ``camera``); both are imported when first needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unified.contracts.errors import DataError, needs
from unified.data.picture import MOST_PIXELS, said

VIDEOS: Final = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".flv", ".wmv"})
"""Suffixes that are taken for videos."""

# Playlists and the like name further files or servers: only containers that hold their frames may be opened.
_CLOSED: Final = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,flv,asf",
    "protocol_whitelist": "file",
}
DEFAULT_RATE: Final = Fraction(25)  # frames a second, where a file does not say


def frame_rate(path: Path) -> Fraction:
    """Frames a second of a video file.

    Raises:
        DataError: missing, damaged, or without pictures.
    """
    with _container(path) as container:
        return container.streams.video[0].average_rate or DEFAULT_RATE  # type: ignore[no-any-return]


def frame_count(path: Path) -> int | None:
    """Frames of a video file by its header; None where that does not say.

    Raises:
        DataError: missing, damaged, or without pictures.
    """
    with _container(path) as container:
        stream = container.streams.video[0]
        if stream.frames:
            return int(stream.frames)
        seconds = container.duration / 1_000_000 if container.duration else 0
        return round(seconds * stream.average_rate) or None if stream.average_rate else None


def video_frames(path: Path) -> Iterator[tuple[Tensor, float | None]]:
    """Every frame of a video file with its time in seconds; one frame is held at a time.

    Raises:
        DataError: missing, damaged (after the frames before the damage have been given), or without pictures.
    """
    av = _av()
    given = 0
    with _container(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        try:
            for frame in container.decode(stream):
                yield _upright(frame.to_ndarray(format="rgb24"), frame.rotation), frame.time
                given += 1
        except av.error.FFmpegError as error:
            raise DataError(f"video {said(path)} is damaged after {given} frames: {error.strerror}") from None
    if not given:
        raise DataError(f"video {said(path)} holds no frame that can be read")


def camera_frames(number: int) -> Iterator[tuple[Tensor, float | None]]:
    """Frames of a camera, as they come and without end.

    Raises:
        DataError: there is no such camera, or it stops.
        ConfigError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise needs("a camera", "OpenCV", "camera") from None
    camera = cv2.VideoCapture(number)
    try:
        if not camera.isOpened():
            raise DataError(f"camera {number} cannot be opened; is it plugged in, and free?")
        while True:
            there, frame = camera.read()
            if not there:
                raise DataError(f"camera {number} gives no more frames")
            yield _upright(np.ascontiguousarray(frame[..., ::-1]), 0), None  # OpenCV's order is BGR
    finally:
        camera.release()


class VideoWriter:
    """Writes pictures of one size as an MP4 (H.264 where the encoder is there, else MPEG-4); a context manager."""

    def __init__(self, path: Path, rate: Fraction = DEFAULT_RATE) -> None:
        self.path, self.rate = path, rate
        self._av = _av()
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> VideoWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._container = self._av.open(str(self.path), "w", format="mp4")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()

    def add(self, picture: Image.Image) -> None:
        """The next frame; it is scaled to the first one's size."""
        stream = self._stream or self._begun(picture)
        if picture.size != (stream.width, stream.height):
            picture = picture.resize((stream.width, stream.height), Image.Resampling.BILINEAR)
        frame = self._av.VideoFrame.from_image(picture.convert("RGB"))
        self._container.mux(stream.encode(frame))

    def _begun(self, first: Image.Image) -> Any:
        codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
        self._stream = self._container.add_stream(codec, rate=self.rate)
        width, height = (max(2, side - side % 2) for side in first.size)  # 4:2:0 colour needs even sides
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        if codec == "mpeg4":
            self._stream.bit_rate = max(1_000_000, 4 * width * height)
        return self._stream


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise needs("a video", "PyAV", "video") from None
    return av


def _container(path: Path) -> Any:
    """A video file, opened; no other file and no server is reached by what it holds."""
    av = _av()
    if not path.is_file():
        raise DataError(f"video {said(path)} is missing")
    try:
        container = av.open(f"file:{path}", options=dict(_CLOSED))
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"video {said(path)} is damaged or of an unknown format: {error.strerror}") from None
    fault = _fault(container)
    if fault:
        container.close()
        raise DataError(f"video {said(path)} {fault}")
    return container


def _fault(container: Any) -> str | None:
    if not container.streams.video:
        return "holds no pictures"
    stream = container.streams.video[0]
    if stream.width * stream.height > MOST_PIXELS:
        limit = f"{MOST_PIXELS // 10**6} megapixels"
        return f"has frames of {stream.width} x {stream.height} pixels, over the limit of {limit}"
    return None


def _upright(pixels: Any, rotation: int) -> Tensor:
    """(H, W, 3) turned counter-clockwise by the degrees a phone wrote down, as (3, H, W)."""
    turned = np.rot90(pixels, k=round(rotation / 90) % 4)
    return torch.from_numpy(np.ascontiguousarray(turned.transpose(2, 0, 1)))
