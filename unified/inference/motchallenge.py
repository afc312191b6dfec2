# SPDX-License-Identifier: Apache-2.0
"""Tracks as the MOTChallenge benchmark writes them, and its folders (Leal-Taixe et al. 2015, sec. 4.3).

A line is ``frame, id, left, top, width, height, confidence, x, y, z`` (the last three -1), frames from 1. Its pixels
are counted from 1 too: the top left corner of a picture is (1, 1). Boxes here are xyxy counted from 0, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unified.contracts.errors import DataError
from unified.data.picture import said
from unified.inference.motion import Floats
from unified.inference.tracker import Tracker, TrackerSettings

DETECTIONS = ("det/det.txt", "det.txt")
TRUTHS = ("gt/gt.txt", "gt.txt")
MOST_FRAMES = 10_000_000  # four days of video: a greater number is no frame's, and each frame up to it is looked at
PICTURES = "img1"


@dataclass(frozen=True, eq=False)
class TrackTable:
    """M boxes of a video."""

    frames: NDArray[np.int64]  # (M,) from 1
    ids: NDArray[np.int64]  # (M,) -1 in a file of detections
    boxes_xyxy: Floats  # (M, 4) pixels
    scores: Floats  # (M,)

    def __len__(self) -> int:
        return len(self.frames)

    def at(self, frame: int) -> TrackTable:
        """The boxes of one frame."""
        return self.where(self.frames == frame)

    def where(self, rows: NDArray[np.bool_]) -> TrackTable:
        """Some of the boxes. rows: (M,)."""
        return TrackTable(self.frames[rows], self.ids[rows], self.boxes_xyxy[rows], self.scores[rows])

    @property
    def last(self) -> int:
        """Number of the last frame that has boxes; 0 where there are none."""
        return int(self.frames.max(initial=0))


@dataclass(frozen=True)
class Sequence:
    """One video of a benchmark's folder."""

    name: str
    detections: Path | None
    truth: Path | None
    pictures: Path | None  # folder of its frames


def sequences_in(folder: Path) -> list[Sequence]:
    """The videos of a folder: every folder below it that holds detections, truth or frames, sorted.

    Raises:
        DataError: there are none.
    """
    if not folder.is_dir():
        raise DataError(f"folder '{said(folder)}' is missing")
    found = [_sequence(each) for each in sorted(folder.iterdir()) if each.is_dir()]
    found = [each for each in found if each.detections or each.pictures] or [_sequence(folder)]
    if not found[0].detections and not found[0].pictures:
        raise DataError(
            f"'{said(folder)}' holds no sequence; expected SEQUENCE/det/det.txt or SEQUENCE/det.txt (and gt.txt), "
            f"or frames in SEQUENCE/{PICTURES}"
        )
    return found


def read_tracks(path: Path, truth: bool = False) -> TrackTable:
    """A file of tracks or detections.

    Args:
        path: of the file.
        truth: it is a ground truth: lines whose seventh number is 0 are marked there as not to be counted.

    Raises:
        DataError: missing, or a line that is not of this format.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or "it is no text"
        raise DataError(f"'{said(path)}' cannot be read: {told}") from None
    rows = [_numbers(path, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    corner = table[:, 2:4] - 1
    boxes = np.concatenate([corner, corner + table[:, 4:6]], axis=1)
    found = TrackTable(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), boxes, table[:, 6])
    return found.where(found.scores != 0) if truth else found


def lines(frame: int, ids: Iterable[int], boxes_xyxy: ArrayLike, scores: Iterable[float]) -> Iterator[str]:
    """The lines of one frame, counted from 1, each with its end."""
    rows = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4).tolist()
    for number, (x0, y0, x1, y1), score in zip(ids, rows, scores, strict=True):
        yield f"{frame},{number},{x0 + 1:.2f},{y0 + 1:.2f},{x1 - x0:.2f},{y1 - y0:.2f},{score:.4f},-1,-1,-1\n"


def as_text(tracks: TrackTable) -> str:
    """The file of a whole video, frame after frame."""
    rows = zip(tracks.frames.tolist(), tracks.ids.tolist(), tracks.boxes_xyxy, tracks.scores.tolist(), strict=True)
    return "".join(line for frame, number, box, score in rows for line in lines(frame, [number], box, [score]))


def track_detections(
    found: TrackTable, settings: TrackerSettings | None = None, frames: int | None = None
) -> TrackTable:
    """The tracks of a file of detections, by motion alone.

    Args:
        found: the detections; their numbers are not looked at.
        settings: of the tracker.
        frames: length of the video; by default up to the last detection.
    """
    tracker = Tracker(settings)
    tracks = [np.zeros((0, 7))]
    for frame in range(1, (frames or found.last) + 1):
        here = found.at(frame)
        ids = tracker.update(here.boxes_xyxy, here.scores)
        rows = np.column_stack([here.frames, ids, here.boxes_xyxy, here.scores])
        tracks.append(rows[ids > 0])
    table = np.concatenate(tracks)
    return TrackTable(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2:6], table[:, 6])


def _sequence(folder: Path) -> Sequence:
    detections = next((folder / name for name in DETECTIONS if (folder / name).is_file()), None)
    truth = next((folder / name for name in TRUTHS if (folder / name).is_file()), None)
    pictures = folder / PICTURES if (folder / PICTURES).is_dir() else None
    return Sequence(folder.resolve().name, detections, truth, pictures)


def _numbers(path: Path, number: int, line: str) -> list[float]:
    """The first seven numbers of a line."""
    words = line.replace(",", " ").split()
    try:
        numbers = [float(word) for word in words[:7]]
    except ValueError:
        numbers = []
    if len(numbers) < 7 or not np.isfinite(numbers).all() or not _is_frame(numbers[0]) or min(numbers[4:6]) < 0:
        raise DataError(
            f"'{said(path)}' line {number}: expected frame,id,left,top,width,height,score with frames from 1, "
            f"got '{said(line.strip())}'"
        )
    return numbers


def _is_frame(number: float) -> bool:
    return 1 <= number <= MOST_FRAMES and number.is_integer()
