# SPDX-License-Identifier: Apache-2.0
"""The files of one tracked video: MOTChallenge lines, JSON lines and the drawn video. Whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO

from unified.contracts.errors import UnifiedError
from unified.disk import NEW, make_folder, sync
from unified.inference.motchallenge import lines
from unified.inference.results import Result
from unified.inference.tracking import Trails
from unified.inference.video import VideoWriter


class TrackFiles:
    """Writes results frame by frame; a context manager.

    The files get their names when the block ends, also by Ctrl-C or at a damaged frame: they then hold the frames so
    far. Whatever else ends it leaves none.

    Args:
        folder: made with the first frame.
        name: of the video; ``NAME.txt``, ``NAME.jsonl`` and ``NAME.mp4`` are written.
        rate: frames a second of the drawn video; None: nothing is drawn.

    Raises:
        ConfigError: PyAV is not installed, without which nothing is drawn.
    """

    def __init__(self, folder: Path, name: str, rate: Fraction | None) -> None:
        self.folder = folder
        self.mot, self.json = folder / f"{name}.txt", folder / f"{name}.jsonl"
        self.drawn = folder / f"{name}.mp4" if rate is not None else None
        self.frames = 0
        self.tracks: set[int] = set()
        self._trails = Trails()
        self._video = VideoWriter(_beside(self.drawn), rate) if self.drawn is not None and rate is not None else None
        self._texts: list[IO[str]] = []
        self._open = contextlib.ExitStack()

    def __enter__(self) -> TrackFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        whole = kind is None or issubclass(kind, UnifiedError | KeyboardInterrupt)
        if not self.frames:
            return
        for text in self._texts:
            text.flush()
            os.fsync(text.fileno())
        self._open.close()
        for path in self.paths:
            if whole:
                _beside(path).replace(path)
            else:
                _beside(path).unlink(missing_ok=True)
        sync(self.folder)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        return (self.mot, self.json) if self.drawn is None else (self.mot, self.json, self.drawn)

    def add(self, result: Result) -> None:
        """The next frame.

        Raises:
            OSError: a file cannot be written.
        """
        if not self.frames:
            self._begin()
        self.frames += 1  # before it is written: what is begun is removed or named when the block ends
        boxes, ids = result.boxes, [] if result.track_ids is None else result.track_ids.tolist()
        if boxes is not None:
            self._texts[0].writelines(lines(self.frames, ids, boxes.xyxy, boxes.scores.tolist()))
        self._texts[1].write(json.dumps({"frame": self.frames - 1, **result.to_dict(embeddings=False)}) + "\n")
        self.tracks.update(ids)
        if self._video is not None:
            self._video.add(self._trails.drawn(result))

    def told(self) -> dict[str, str]:
        """Where the files are, by what they hold."""
        return dict(zip(("mot", "json", "drawn"), map(str, self.paths), strict=False))

    def _begin(self) -> None:
        make_folder(self.folder)
        self._texts = [
            self._open.enter_context(_beside(path).open("w", encoding="utf-8")) for path in (self.mot, self.json)
        ]
        if self._video is not None:
            self._open.enter_context(self._video)


def _beside(path: Path) -> Path:
    return path.parent / f"{NEW}{path.name}"
