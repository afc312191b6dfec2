# SPDX-License-Identifier: Apache-2.0
"""What appearances add to tracking: rendered videos of things that cross and hide each other, with the truth.

    python docs/figures/tracking_films.py RUN

prints IDF1, MOTA and switches by motion alone and with appearances, of three videos. RUN: a run on ``shapes``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

import unified
from unified.data.shapes.background import SCENES, crop
from unified.data.shapes.identity import IDENTITIES
from unified.data.shapes.level import level_named
from unified.data.shapes.light import expose, sample_light
from unified.data.shapes.sprite import Sprite, draw
from unified.inference.motchallenge import TrackTable
from unified.inference.results import Boxes
from unified.inference.track_scores import TrackScores, score_tracks
from unified.inference.tracker import Tracker

FILMS, FRAMES, OBJECTS, SIDE = 3, 200, 8, 320
HIDDEN = (120, 200)  # pixels from the left: in the second row nothing is seen there
Floats = NDArray[np.float64]
Film = tuple[Floats, list[Boxes]]
"""Truth (M, 6): frame from 1, object, xyxy; and what the model found in each frame."""


def film(seed: int) -> tuple[NDArray[np.uint8], Floats]:
    """Frames (T, H, W, 3) of things of two classes that move about, and the truth (M, 6) of what can be seen."""
    rng, level = np.random.default_rng(seed), level_named("easy")
    light = sample_light(rng, level)
    back = crop(rng, SCENES[int(rng.integers(len(SCENES)))].index, SIDE)
    labels = rng.integers(0, 6, 2)
    pool = [identity for identity in IDENTITIES if identity.label in labels]
    chosen = [pool[k] for k in rng.choice(len(pool), OBJECTS, replace=False)]
    radii, place = rng.uniform(0.07, 0.11, OBJECTS) * SIDE, rng.uniform(0.15, 0.85, (OBJECTS, 2)) * SIDE
    angle, speed = rng.uniform(0, 2 * np.pi, OBJECTS), rng.uniform(0.006, 0.014, OBJECTS) * SIDE
    step = np.stack([np.cos(angle), np.sin(angle)], axis=1) * speed[:, None]
    tilts = rng.uniform(-0.3, 0.3, OBJECTS)
    frames, truth = [], []
    for number in range(1, FRAMES + 1):
        picture, owner = back.copy(), np.full((SIDE, SIDE), -1)
        for k, identity in enumerate(chosen):
            sprite = draw(identity, float(radii[k]), float(tilts[k]), (0.0, 0.0), light, 0.0)
            x, y = (int(c) for c in place[k])
            sprite.paint(picture, x, y, light)
            _own(owner, sprite, x, y, k)
        frames.append(expose(rng, picture, light))
        truth += [(number, k + 1, *box) for k in range(OBJECTS) if (box := _box(owner == k, radii[k])) is not None]
        place = place + step + rng.normal(0, 0.3, place.shape)
        step = np.where((place < radii[:, None]) | (place > SIDE - radii[:, None]), -step, step)
        place = np.clip(place, radii[:, None], SIDE - radii[:, None])
    return np.stack(frames), np.array(truth, dtype=np.float64)


def _own(owner: NDArray[np.int64], sprite: Sprite, x: int, y: int, number: int) -> None:
    rows, columns = np.nonzero(sprite.solid)
    rows, columns = rows + y - sprite.half, columns + x - sprite.half
    inside = (rows >= 0) & (rows < SIDE) & (columns >= 0) & (columns < SIDE)
    owner[rows[inside], columns[inside]] = number


def _box(seen: NDArray[np.bool_], radius: float) -> tuple[int, int, int, int] | None:
    """The box of what is seen of a thing; None where less than some 15 % of its circle is."""
    rows, columns = np.nonzero(seen)
    if len(rows) <= 0.15 * np.pi * radius**2:
        return None
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def score(films: Sequence[Film], looks: bool, every: int = 1, hide: bool = False) -> TrackScores:
    """Scores of all films together, of every ``every``-th frame, perhaps with a band where nothing is seen."""
    videos = {}
    for seed, (truth, found) in enumerate(films):
        rows, tracker, tracks = truth[(truth[:, 0] - 1) % every == 0], Tracker(), [np.zeros((0, 6))]
        rows = rows[~_hidden(rows[:, 2:])] if hide else rows
        for number in range(0, len(found), every):
            boxes = found[number]
            boxes = boxes[torch.from_numpy(~_hidden(boxes.xyxy.numpy()))] if hide else boxes
            given = (boxes.xyxy.numpy(), boxes.scores.numpy(), boxes.labels.numpy())
            ids = tracker.update(*given, boxes.embeddings.numpy() if looks and boxes.embeddings is not None else None)
            frame = np.column_stack([np.full(len(ids), number + 1), ids, boxes.xyxy.numpy()])
            tracks.append(frame[ids > 0])
        videos[str(seed)] = (_table(rows), _table(np.concatenate(tracks)))
    return score_tracks(videos)[-1]


def _hidden(boxes_xyxy: Floats) -> NDArray[np.bool_]:
    middle = (boxes_xyxy[:, 0] + boxes_xyxy[:, 2]) / 2
    return np.asarray((middle >= HIDDEN[0]) & (middle <= HIDDEN[1]))


def _table(rows: Floats) -> TrackTable:
    return TrackTable(rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64), rows[:, 2:], np.ones(len(rows)))


def main() -> None:
    """Prints the table."""
    model = unified.load(sys.argv[1])
    films: list[Film] = []
    for seed in range(FILMS):
        frames, truth = film(seed)
        results = model.predict(list(frames), ("det", "emb"), confidence=0.1, size=SIDE, batch_size=8)
        films.append((truth, [result.boxes for result in results if result.boxes is not None]))
    for name, words in (("crossing", {}), ("hidden in between", {"hide": True}), ("every eighth frame", {"every": 8})):
        for looks in (False, True):
            told = score(films, looks, **words)  # type: ignore[arg-type]
            how = "with appearances" if looks else "by motion"
            print(f"{name:20s} {how:18s} IDF1 {told.idf1:.3f}  MOTA {told.mota:.3f}  switches {told.switches}")


if __name__ == "__main__":
    main()
