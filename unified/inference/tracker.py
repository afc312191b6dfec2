# SPDX-License-Identifier: Apache-2.0
"""One number for one object through a video: boxes of frame after frame in, their tracks out.

Legend: N boxes of a frame, T tracks, D embedding width.

The parts and their sources: boxes are matched in two rounds by score (Zhang et al. 2022, ByteTrack: Multi-Object
Tracking by Associating Every Detection Box), to boxes that a Kalman filter predicts (:mod:`unified.inference.motion`);
one network pass gives both boxes and appearances (Wang et al. 2020, Towards Real-Time Multi-Object Tracking: JDE), a
track's appearance is a moving average of its boxes' (there, sec. 3.5), and appearance only counts where the motion
allows it (Wojke et al. 2017, DeepSORT, sec. 2.2).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unified.contracts.errors import ConfigError, DataError
from unified.inference.association import Pairs, cheapest, cosine_distances, overlaps, unit
from unified.inference.motion import GATE, Floats, Motion

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class TrackerSettings:
    """How boxes become tracks. Scores, overlaps and distances are shares; times are frames.

    Raises:
        ConfigError: a number that does not fit.
    """

    confidence: float = 0.5  # boxes from here on are matched first, and may begin a track
    low: float = 0.1  # boxes from here on may still continue a track: they are often hidden objects
    overlap: float = 0.2  # least IoU with the predicted box, for the first round
    low_overlap: float = 0.5  # the same for boxes of low score and for tracks not yet confirmed
    appearance: float = 0.25  # greatest cosine distance at which two boxes may be one object
    momentum: float = 0.9  # of a track's appearance: the share of the past in the moving average
    confirm: int = 3  # boxes that make a track; in the first frame one is enough
    memory: int = 60  # frames for which a lost track may be found again
    across_classes: bool = False  # whether a track's boxes may be of different classes

    def __post_init__(self) -> None:
        for name in ("confidence", "low", "overlap", "low_overlap", "momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"tracker: {name} must be in 0..1, got {getattr(self, name)}")
        if not 0 <= self.appearance <= 2:
            raise ConfigError(f"tracker: appearance is a cosine distance in 0..2, got {self.appearance}")
        if self.low > self.confidence:
            raise ConfigError(f"tracker: low ({self.low}) must not be above confidence ({self.confidence})")
        if self.confirm < 1 or self.memory < 0:
            told = f"confirm {self.confirm}, memory {self.memory}"
            raise ConfigError(f"tracker: confirm must be 1 or more and memory 0 or more; got {told}")


@dataclass(frozen=True, eq=False)
class _Tracks:
    """T tracks, a column each."""

    motion: Motion
    ids: Rows  # (T,) from 1; 0 until a track is confirmed
    labels: Rows  # (T,)
    hits: Rows  # (T,) boxes so far
    missed: Rows  # (T,) frames since the last box
    looks: Floats  # (T, D) unit length; D is 0 without appearances

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: NDArray[np.bool_]) -> _Tracks:
        return _Tracks(*(getattr(self, each.name)[rows] for each in fields(self)))

    def joined(self, other: _Tracks) -> _Tracks:
        columns = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self) if f.name != "motion"}
        rest = {name: np.concatenate(pair) for name, pair in columns.items()}
        return _Tracks(self.motion.joined(other.motion), **rest)


@dataclass(frozen=True, eq=False)
class _Boxes:
    """What was found in one frame."""

    xyxy: Floats  # (N, 4)
    scores: Floats  # (N,)
    labels: Rows  # (N,)
    looks: Floats  # (N, D) unit length; D is 0 without appearances

    def begun(self, rows: Rows) -> _Tracks:
        zeros = np.zeros(len(rows), dtype=np.int64)
        return _Tracks(
            Motion.begin(self.xyxy[rows]), zeros, self.labels[rows], zeros + 1, zeros.copy(), self.looks[rows]
        )


class Tracker:
    """Follows the objects of one video; frames must come in order, one call each.

    Args:
        settings: how; one set of defaults serves all videos.
    """

    def __init__(self, settings: TrackerSettings | None = None) -> None:
        self.settings = settings or TrackerSettings()
        self.frame = 0  # frames so far
        self.count = 0  # tracks so far
        self._tracks: _Tracks | None = None

    def update(
        self,
        boxes_xyxy: ArrayLike,
        scores: ArrayLike,
        labels: ArrayLike | None = None,
        embeddings: ArrayLike | None = None,
    ) -> Rows:
        """The next frame.

        Args:
            boxes_xyxy: (N, 4) pixels: left, top, right, bottom.
            scores: (N,) in 0..1; boxes below ``settings.low`` are not looked at.
            labels: (N,) classes; all the same if not given.
            embeddings: (N, D) appearances; without, motion alone decides. All frames or none.

        Returns:
            (N,) int64: for each box the number of its track, from 1; 0 where it belongs to none (yet).

        Raises:
            DataError: lengths that differ, numbers that are not finite, or appearances of another width than before.
        """
        found = _checked(boxes_xyxy, scores, labels, embeddings)
        tracks = self._tracks if self._tracks is not None else found.begun(np.zeros(0, dtype=np.int64))
        if not len(found.scores):
            found = replace(found, looks=np.zeros((0, tracks.looks.shape[1])))
        elif not len(tracks):
            tracks = replace(tracks, looks=np.zeros((0, found.looks.shape[1])))
        if found.looks.shape[1] != tracks.looks.shape[1]:
            raise DataError(f"embeddings are {found.looks.shape[1]} wide, earlier ones were {tracks.looks.shape[1]}")
        motion = tracks.motion.predicted(resting=tracks.missed > 0)
        tracks = replace(tracks, motion=motion, missed=tracks.missed + 1)
        self.frame += 1
        matching = _Matching(self.settings, tracks, found)
        tracks = self._continued(tracks, found, *matching.play())
        return self._settled(tracks, found, matching)

    def _settled(self, tracks: _Tracks, found: _Boxes, matching: _Matching) -> Rows:
        """Keeps the tracks of a frame and begins new ones; gives the numbers of the frame's boxes."""
        ids = np.zeros(len(found.scores), dtype=np.int64)
        ids[matching.pairs[:, 1]] = tracks.ids[matching.pairs[:, 0]]
        new = np.flatnonzero(matching.high & matching.free_boxes)
        begun = found.begun(new)
        if self.frame == 1 or self.settings.confirm == 1:
            begun = replace(begun, ids=self._numbers(len(new)))
            ids[new] = begun.ids
        kept = tracks.missed <= np.where(tracks.ids > 0, self.settings.memory, 0)
        self._tracks = tracks[kept].joined(begun)
        return ids

    def _continued(self, tracks: _Tracks, found: _Boxes, firm: Pairs, weak: Pairs) -> _Tracks:
        """The tracks with the boxes of high (``firm``) and of low score that were matched to them."""
        at, box = np.concatenate([firm, weak]).T
        hits = tracks.hits.copy()
        hits[at] += 1
        missed, ids, labels = tracks.missed.copy(), tracks.ids.copy(), tracks.labels.copy()
        missed[at], labels[at] = 0, found.labels[box]
        ripe = at[(ids[at] == 0) & (hits[at] >= self.settings.confirm)]
        ids[ripe] = self._numbers(len(ripe))
        looks, share = tracks.looks.copy(), self.settings.momentum
        at_firm, box_firm = firm.T  # not of low scores: an object half hidden looks like what hides it
        looks[at_firm] = unit(share * looks[at_firm] + (1 - share) * found.looks[box_firm])
        motion = tracks.motion.with_rows(at, tracks.motion[at].corrected(found.xyxy[box]))
        return _Tracks(motion, ids, labels, hits, missed, looks)

    def _numbers(self, many: int) -> Rows:
        self.count += many
        return np.arange(self.count - many + 1, self.count + 1, dtype=np.int64)


class _Matching:
    """The rounds of matching of one frame."""

    def __init__(self, settings: TrackerSettings, tracks: _Tracks, found: _Boxes) -> None:
        self.settings, self.tracks, self.found = settings, tracks, found
        self.free_tracks, self.free_boxes = np.ones(len(tracks), bool), np.ones(len(found.scores), bool)
        self.high = found.scores >= settings.confidence
        self.apart = 1.0 - overlaps(tracks.motion.boxes_xyxy, found.xyxy)
        if not settings.across_classes:
            self.apart[tracks.labels[:, None] != found.labels[None]] = np.inf
        self.pairs: Pairs = np.zeros((0, 2), dtype=np.int64)

    def play(self) -> tuple[Pairs, Pairs]:
        """The pairs of track and box, those of high score and those of low score apart."""
        known, just_seen = self.tracks.ids > 0, self.tracks.missed == 1
        low = (self.found.scores >= self.settings.low) & ~self.high
        first, second = 1.0 - self.settings.overlap, 1.0 - self.settings.low_overlap
        alike = self._likeness()
        firm = self._round(known, self.high, alike, first)
        weak = self._round(known & just_seen, low, self.apart, second)
        fresh = self._round(~known, self.high, alike, second)
        self.pairs = np.concatenate([firm, weak, fresh])
        return np.concatenate([firm, fresh]), weak

    def _round(self, tracks: NDArray[np.bool_], boxes: NDArray[np.bool_], cost: Floats, most: float) -> Pairs:
        """The cheapest pairs among some tracks and some boxes, as far as they are free."""
        rows, columns = np.flatnonzero(tracks & self.free_tracks), np.flatnonzero(boxes & self.free_boxes)
        at, box = cheapest(cost[np.ix_(rows, columns)], most).T
        self.free_tracks[rows[at]] = self.free_boxes[columns[box]] = False
        return np.stack([rows[at], columns[box]], axis=1)

    def _likeness(self) -> Floats:
        """(T, N): the smaller of how far boxes are apart and how different they look, where motion allows that."""
        if not self.found.looks.shape[1]:
            return self.apart
        different = cosine_distances(self.tracks.looks, self.found.looks)
        alike = different <= self.settings.appearance
        possible = alike & (self.tracks.motion.distances(self.found.xyxy) <= GATE) & np.isfinite(self.apart)
        lost = (self.tracks.missed > 1)[:, None]  # where they are is a guess by now: who looks different is another
        apart = np.where(lost & ~alike, np.inf, self.apart)
        return np.minimum(apart, np.where(possible, different, np.inf))


def _checked(
    boxes_xyxy: ArrayLike, scores: ArrayLike, labels: ArrayLike | None, embeddings: ArrayLike | None
) -> _Boxes:
    boxes, score = np.asarray(boxes_xyxy, np.float64), np.asarray(scores, np.float64)
    if boxes.shape != (len(boxes), 4) and boxes.size:
        raise DataError(f"boxes must be (N, 4), got {boxes.shape}")
    boxes = boxes.reshape(-1, 4)
    count = len(boxes)
    label = np.zeros(count, np.int64) if labels is None else np.asarray(labels, np.int64)
    looks = np.zeros((count, 0)) if embeddings is None else np.asarray(embeddings, np.float64)
    for name, column in (("scores", score), ("labels", label), ("embeddings", looks)):
        if len(column) != count:
            raise DataError(f"{count} boxes with {len(column)} {name}")
    if not all(np.isfinite(column).all() for column in (boxes, score, looks)):
        raise DataError("boxes, scores and embeddings must be finite numbers")
    return _Boxes(boxes, score, label, unit(looks))
