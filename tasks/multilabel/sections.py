# SPDX-License-Identifier: Apache-2.0
"""What a person sees of a tag evaluation: every tag's scores and thresholds, and the surest mistakes.

Legend: B images, A tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unified.contracts.section import Chart, Column, Gallery, Line, Section, Table, View

from .ranking import average_precision, precision_recall, scored_tags

PICKED = 100  # tags with a line of their own
SHOWN = 12  # pictures of one kind of mistake
POINTS = 150  # of a line
ASSUMED = 0.5  # the score above which a tag is said to hold

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Place = tuple[str, str]  # dataset, image id


@dataclass(frozen=True)
class Tags:
    """What was said and what is known, each (B, A), and where the images are (B)."""

    names: Sequence[str]
    scores: Array
    truth: Mask
    labelled: Mask
    places: Sequence[Place]

    def of(self, tag: int) -> tuple[Array, Mask]:
        """Scores and truth (N,) of the images where the tag is known."""
        rows = self.labelled[:, tag]
        return self.scores[rows, tag], self.truth[rows, tag]


def sections(tags: Tags, average: Mapping[str, float]) -> list[Section]:
    """Everything there is something to say of. ``average``: AP by tag."""
    chosen = sorted(scored_tags(tags.truth, tags.labelled), key=lambda a: -int(tags.of(a)[1].sum()))
    if not chosen:
        return []
    return [
        Section(
            title="Tags",
            text="Images where a tag is not labelled count neither for nor against it.",
            parts=(_table(tags, chosen, average),),
        ),
        Section(
            title="Thresholds",
            text="Where a tag's own best threshold is far from 0.5, give it that one.",
            parts=(_precision(tags, chosen), _f1(tags, chosen)),
        ),
        Section(
            title="Worst mistakes",
            text="Tags said most surely that do not hold, and tags that hold and were denied; one a picture.",
            parts=(_mistakes(tags, wrong=True), _mistakes(tags, wrong=False)),
        ),
    ]


def f1_line(scores: Array, truth: Mask) -> tuple[Array, Array]:
    """F1 at every distinct score as the least one, from the lowest up. scores, truth: (N,)."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(truth[order])
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))
    f1 = 2 * hits[last] / (last + 1 + hits[-1])
    return ranked[last][::-1], f1[::-1]


def _table(tags: Tags, chosen: Sequence[int], average: Mapping[str, float]) -> Table:
    rows: list[tuple[str | float | None, ...]] = []
    for a in chosen:
        scores, truth = tags.of(a)
        said = scores > ASSUMED
        right = int((said & truth).sum())
        at, f1 = f1_line(scores, truth)
        best = int(f1.argmax())
        precision = right / int(said.sum()) if said.any() else None
        assumed = 2 * right / int(said.sum() + truth.sum())
        counts = (int(truth.sum()), int((~truth).sum()))
        ap = average.get(tags.names[a], average_precision(scores, truth))
        rows.append(
            (tags.names[a], *counts, ap, assumed, precision, right / int(truth.sum()), float(f1[best]), float(at[best]))
        )
    columns = (
        Column(name="tag"),
        Column(name="holds", kind="count", meaning="images where it is known to hold"),
        Column(name="holds not", kind="count", meaning="images where it is known not to hold"),
        Column(name="AP", kind="share", bar=True, meaning="average precision over the images where it is known"),
        Column(name="F1", kind="share", meaning="of precision and recall above a score of 0.5"),
        Column(name="precision", kind="share", meaning="share of images above 0.5 where it holds"),
        Column(name="recall", kind="share", meaning="share of images where it holds that are above 0.5"),
        Column(name="best F1", kind="share", meaning="at the tag's own best threshold"),
        Column(name="at score", kind="number", meaning="that threshold"),
    )
    return Table(columns=columns, rows=tuple(rows))


def _precision(tags: Tags, chosen: Sequence[int]) -> Chart:
    lines = []
    for name, (scores, truth) in _evidence(tags, chosen):
        precision, recall = precision_recall(scores, truth)
        thin = _thin(len(recall))
        lines.append(_line(name, recall[thin], precision[thin]))
    return Chart(title="Precision over recall", x_name="recall", y_name="precision", lines=tuple(lines), pick=True)


def _f1(tags: Tags, chosen: Sequence[int]) -> Chart:
    lines = []
    for name, (scores, truth) in _evidence(tags, chosen):
        at, f1 = f1_line(scores, truth)
        best = int(f1.argmax())
        thin = np.unique([*_thin(len(at)).tolist(), best])
        x, y = float(at[best]), float(f1[best])
        lines.append(_line(name, at[thin], f1[thin], (x, y, f"F1 {y:.2f} at {x:.2f}")))
    return Chart(title="F1 over score", x_name="least score", y_name="F1", lines=tuple(lines), pick=True)


def _evidence(tags: Tags, chosen: Sequence[int]) -> list[tuple[str, tuple[Array, Mask]]]:
    pooled = (tags.scores[tags.labelled], tags.truth[tags.labelled])
    return [("all tags", pooled), *((tags.names[a], tags.of(a)) for a in chosen[:PICKED])]


def _line(name: str, x: Array, y: Array, mark: tuple[float, float, str] | None = None) -> Line:
    return Line(label=name, x=tuple(x.tolist()), y=tuple(y.tolist()), mark=mark, chief=name == "all tags")


def _thin(count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, POINTS).astype(np.int64))


def _mistakes(tags: Tags, wrong: bool) -> Gallery:
    """``wrong``: said and not so; else so and not said."""
    kind = (tags.labelled & ~tags.truth) if wrong else (tags.labelled & tags.truth)
    how_wrong = np.where(kind, tags.scores if wrong else 1 - tags.scores, -1.0)
    worst = how_wrong.argmax(axis=1) if len(tags.names) else np.zeros(0, np.int64)
    views = []
    for row in np.argsort(-how_wrong.max(axis=1), kind="stable")[:SHOWN].tolist():
        tag = int(worst[row])
        if how_wrong[row, tag] <= ASSUMED:
            break
        dataset, image_id = tags.places[row]
        told = f"said {tags.names[tag]}" if wrong else f"not said: {tags.names[tag]}"
        score = f"{tags.scores[row, tag]:.2f}"
        views.append(View(image_id=image_id, dataset=dataset, caption=f"{told}, {score}", verdict="wrong"))
    title = "Sure, and wrong" if wrong else "There, and denied"
    return Gallery(title=title, rows=(tuple(views),) if views else ())
