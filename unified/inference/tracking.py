# SPDX-License-Identifier: Apache-2.0
"""A model's boxes and appearances of a video, one pass a frame, put together into tracks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from unified.contracts.errors import ConfigError
from unified.data.transforms import to_image
from unified.inference.drawing import Marks, draw
from unified.inference.results import Result
from unified.inference.source import Source
from unified.inference.tracker import Tracker, TrackerSettings

if TYPE_CHECKING:
    from unified.inference.model import UnifiedModel

TRAIL = 30  # frames for which a drawn track shows where it came from


def track(
    self: UnifiedModel,
    source: Source,
    tasks: str | Sequence[str] | None = None,
    confidence: float | None = None,
    size: int | None = None,
    batch_size: int = 1,
    *,
    conf: float | None = None,
    settings: TrackerSettings | None = None,
    workers: int | None = None,
    **options: Any,
) -> Iterator[Result]:
    """The objects of a video, each with one number from its first frame to its last.

    Args:
        source: a video file, a camera's number, a folder or list of pictures that follow each other, or a list of
            videos: numbers begin anew with each of those.
        tasks: ``all``, a name, or names; by default those that find boxes and say how they look.
        confidence, conf: least score of a box that begins a track, 0..1; 0.5 if not given. Boxes that score less, down
            to ``settings.low``, still continue tracks.
        size: side of the network's input in pixels; by default the training's.
        batch_size: frames a pass; more than one pays on a GPU and costs a camera nothing, which gives one at a time.
        settings: of the tracker.
        workers, options: as of :meth:`predict`.

    Returns:
        An iterator with one :class:`Result` a frame: its ``boxes`` are those that belong to tracks, and ``track_ids``
        (``boxes.tracks``) are their numbers, from 1.

    Raises:
        ConfigError: a model that finds no boxes, or a number that does not fit.
        DataError: as of :meth:`predict`; of a damaged video after the frames before the damage.
    """
    settings = settings or TrackerSettings()
    least = confidence if conf is None else conf
    if least is not None:
        settings = replace(settings, confidence=least, low=min(settings.low, least))
    asked = needed(self) if tasks is None else tasks
    found = self.predict(
        source,
        asked,
        confidence=settings.low,
        size=size,
        batch_size=batch_size,
        stream=True,
        workers=workers,
        **options,
    )
    return followed(found, settings)


def needed(model: UnifiedModel) -> tuple[str, ...]:
    """The tasks of a model that tracking asks: those that find boxes, and those that embed them where there are any.

    Raises:
        ConfigError: none finds boxes.
    """
    provided = {name: model.trained.tasks[name].provides for name in model.tasks}
    wanted = {"boxes_xyxy", "box_embeddings"}
    if not any("boxes_xyxy" in fields for fields in provided.values()):
        raise ConfigError(f"this model finds no boxes to track; its tasks are {', '.join(model.tasks)}")
    return tuple(name for name, fields in provided.items() if wanted & set(fields))


def followed(frames: Iterator[Result], settings: TrackerSettings) -> Iterator[Result]:
    """Frames with the boxes that belong to tracks, and their numbers; each video has its own tracks.

    Raises:
        ConfigError: a frame without boxes: no task that finds them was asked.
    """
    tracker, video = Tracker(settings), None
    for frame in frames:
        here = frame.origin.path if frame.origin.frame is not None else None
        if here != video:
            tracker, video = Tracker(settings), here
        yield _numbered(frame, tracker)


def _numbered(frame: Result, tracker: Tracker) -> Result:
    boxes = frame.boxes
    if boxes is None:
        raise ConfigError("no task that finds boxes was asked, and nothing else can be tracked")
    looks = None if boxes.embeddings is None else boxes.embeddings.numpy()
    ids = torch.from_numpy(tracker.update(boxes.xyxy.numpy(), boxes.scores.numpy(), boxes.labels.numpy(), looks))
    kept = boxes[ids > 0]
    return replace(
        frame,
        boxes_xyxy=kept.xyxy,
        scores=kept.scores,
        labels=kept.labels,
        box_embeddings=kept.embeddings,
        track_ids=ids[ids > 0],
    )


class Trails:
    """Draws frame after frame of one video, each track with the way it came.

    Args:
        length: frames of a trail.
    """

    def __init__(self, length: int = TRAIL) -> None:
        self.length = length
        self._frame = 0
        self._points: dict[int, deque[tuple[int, float, float]]] = {}

    def drawn(self, result: Result) -> Image.Image:
        """The next frame with its boxes, numbers and trails; RGB.

        Raises:
            DataError: its pixels were not kept, or cannot be read again.
        """
        self._frame += 1
        for box in result.boxes or ():
            x0, _, x1, y1 = box.xyxy
            points = self._points.setdefault(box.track or 0, deque(maxlen=self.length))
            points.append((self._frame, (x0 + x1) / 2, y1))  # the feet: where it stands
        recent = {number: list(points) for number, points in self._points.items() if self._is_recent(points)}
        self._points = {number: self._points[number] for number in recent}
        trails = tuple((number, tuple((x, y) for _, x, y in points)) for number, points in recent.items())
        numbers = () if result.track_ids is None else tuple(result.track_ids.tolist())
        if result.still is None:
            return result.plot()  # which says why there are no pixels
        return draw(to_image(result.still.read()), result, marks=Marks(numbers, trails))

    def _is_recent(self, points: deque[tuple[int, float, float]]) -> bool:
        return self._frame - points[-1][0] < self.length
