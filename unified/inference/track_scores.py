# SPDX-License-Identifier: Apache-2.0
"""How good tracks are: IDF1, MOTA and what they are made of, counted by motmetrics (extra ``track``).

Sources: MOTA of Bernardin and Stiefelhagen (2008), Evaluating Multiple Object Tracking Performance, sec. 2.2.4; IDF1 of
Ristani et al. (2016), Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking, sec. 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unified.contracts.errors import DataError, needs
from unified.inference.association import overlaps
from unified.inference.motchallenge import TrackTable

OVERALL = "OVERALL"
_COLUMNS = {
    "idf1": "idf1",
    "mota": "mota",
    "precision": "precision",
    "recall": "recall",
    "switches": "num_switches",
    "misses": "num_misses",
    "false_positives": "num_false_positives",
    "fragments": "num_fragmentations",
    "objects": "num_unique_objects",
    "mostly_tracked": "mostly_tracked",
    "mostly_lost": "mostly_lost",
}


@dataclass(frozen=True)
class TrackScores:
    """Scores of one video, or of all together; the first four are shares, the others counts."""

    name: str
    idf1: float  # share of boxes with the right number under the best one-to-one naming; 1 is best
    mota: float  # 1 less misses, false positives and switches per true box; 1 is best, may be negative
    precision: float
    recall: float
    switches: int  # times an object got another number
    misses: int
    false_positives: int
    fragments: int  # times a track was interrupted
    objects: int
    mostly_tracked: int  # objects found in at least 80 % of their frames
    mostly_lost: int  # objects found in less than 20 %


def score_tracks(videos: Mapping[str, tuple[TrackTable, TrackTable]], overlap: float = 0.5) -> list[TrackScores]:
    """Scores of every video and, at the end, of all together.

    Args:
        videos: by name the truth and what was found.
        overlap: least IoU at which a box is found.

    Raises:
        DataError: no video, or a truth without boxes.
        ConfigError: motmetrics is not installed.
    """
    try:
        import motmetrics
    except ImportError:
        raise needs("scoring tracks", "motmetrics", "track") from None
    if not videos:
        raise DataError("no video to score")
    for name, (truth, _) in videos.items():
        if not len(truth):
            raise DataError(f"the truth of '{name}' holds no box")
    counted = [_counted(motmetrics, *pair, overlap) for pair in videos.values()]
    table = motmetrics.metrics.create().compute_many(
        counted, names=list(videos), metrics=list(_COLUMNS.values()), generate_overall=True
    )
    return [
        TrackScores(str(name), **{ours: _plain(row[theirs]) for ours, theirs in _COLUMNS.items()})
        for name, row in table.to_dict(orient="index").items()
    ]


def _counted(motmetrics: Any, truth: TrackTable, found: TrackTable, overlap: float) -> Any:
    """The events of one video. The distances are ours: those of motmetrics 1.4 do not run with NumPy 2."""
    events = motmetrics.MOTAccumulator()
    for frame in sorted({*truth.frames.tolist(), *found.frames.tolist()}):
        true, seen = truth.at(frame), found.at(frame)
        apart = 1.0 - overlaps(true.boxes_xyxy, seen.boxes_xyxy)
        events.update(true.ids, seen.ids, np.where(apart <= 1 - overlap, apart, np.nan), frameid=frame)
    return events


def _plain(value: Any) -> Any:
    number = float(value)
    return int(number) if number.is_integer() and isinstance(value, int | np.integer) else number
