# SPDX-License-Identifier: Apache-2.0
"""What a person sees of a detection evaluation: classes, curves, confusions, and the worst mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from unified.contracts.section import Box, Chart, Column, Gallery, Line, Mark, Matrix, Section, Table, View

from .evidence import GRID, Boxes, Evidence, Floats, iou

PICKED = 100  # classes with a line of their own
CROSSED = 30  # classes in the table of confusions
SHOWN = 12  # pictures of one kind of mistake
ROOM = 0.6  # of a box's longer side: what is shown around it
LEAST_VIEW = 96.0  # pixels: side of the smallest look at a picture

Place = tuple[str, str]  # dataset, image id


def sections(
    evidence: Evidence,
    names: Sequence[str],
    places: Sequence[Place],
    average: Mapping[int, float],
    precision50: Mapping[int, Floats],
) -> list[Section]:
    """Everything there is something to say of.

    Args:
        evidence: the comparison.
        names: of the classes.
        places: of the images, in order.
        average: COCO's AP by class.
        precision50: (101,) by class, at IoU 0.5 and recalls 0, .01 .. 1.
    """
    if not evidence.counts:
        return []
    at = f"{evidence.threshold:.2f}"
    return [
        Section(
            title="Classes",
            text="AP is COCO's mean over ten overlaps; the other columns are at an overlap (IoU) of 0.5, the last "
            "three at the score where the class has its best F1.",
            parts=(_classes(evidence, names, average, precision50),),
        ),
        Section(
            title="Thresholds",
            text=f"Mean F1 over classes is highest where boxes below a score of {at} are not shown.",
            parts=(_precision(precision50, names, evidence), _f1(evidence, names)),
        ),
        Section(
            title="Confusions",
            text=f"Boxes at a score of {at} and above, each with the true box it overlaps best (IoU 0.5 or more).",
            parts=(_confusion(evidence, names),),
        ),
        Section(
            title="Worst mistakes",
            text="The surest detections of nothing, then the largest objects that were missed; one a picture.",
            parts=(_false(evidence, names, places), _missed(evidence, names, places)),
        ),
    ]


def _classes(
    evidence: Evidence, names: Sequence[str], average: Mapping[int, float], precision50: Mapping[int, Floats]
) -> Table:
    rows: list[tuple[str | float | None, ...]] = []
    for k, count in sorted(evidence.counts.items(), key=lambda pair: -pair[1]):
        trade = evidence.trades[k]
        best = trade.best
        curve = precision50.get(k)
        ap50 = None if curve is None else float(np.mean(curve))
        at = (float(array[best]) for array in (trade.f1, trade.precision, trade.recall))
        rows.append((names[k], count, average.get(k), ap50, *at, float(GRID[best])))
    columns = (
        Column(name="class"),
        Column(name="boxes", kind="count", meaning="true boxes in the validation data"),
        Column(name="AP", kind="share", bar=True, meaning="average precision, mean over overlaps 0.5 to 0.95"),
        Column(name="AP50", kind="share", meaning="average precision at an overlap of 0.5"),
        Column(name="best F1", kind="share", meaning="harmonic mean of precision and recall, at its best"),
        Column(name="precision", kind="share", meaning="share of shown boxes that are right, at the best F1"),
        Column(name="recall", kind="share", meaning="share of true boxes that are found, at the best F1"),
        Column(name="at score", kind="number", meaning="the score at which F1 is best"),
    )
    return Table(columns=columns, rows=tuple(rows))


def _often(evidence: Evidence) -> list[int]:
    return sorted(evidence.counts, key=lambda k: -evidence.counts[k])[:PICKED]


def _precision(precision50: Mapping[int, Floats], names: Sequence[str], evidence: Evidence) -> Chart:
    recalls = tuple(np.linspace(0, 1, 101).tolist())
    rows = {"all classes": np.mean(list(precision50.values()), axis=0)} if precision50 else {}
    lines = [Line(label=name, x=recalls, y=tuple(row.tolist()), chief=True) for name, row in rows.items()]
    lines += [
        Line(label=names[k], x=recalls, y=tuple(precision50[k].tolist())) for k in _often(evidence) if k in precision50
    ]
    return Chart(title="Precision over recall", x_name="recall", y_name="precision", lines=tuple(lines), pick=True)


def _f1(evidence: Evidence, names: Sequence[str]) -> Chart:
    grid = tuple(GRID.tolist())
    chosen = [("all classes", evidence.overall), *((names[k], evidence.trades[k]) for k in _often(evidence))]
    lines = []
    for number, (name, trade) in enumerate(chosen):
        best = trade.best
        x, y = float(GRID[best]), float(trade.f1[best])
        mark = (x, y, f"F1 {y:.2f} at {x:.2f}")
        lines.append(Line(label=name, x=grid, y=tuple(trade.f1.tolist()), mark=mark, chief=number == 0))
    return Chart(title="F1 over score", x_name="least score", y_name="F1", lines=tuple(lines), pick=True)


def _confusion(evidence: Evidence, names: Sequence[str]) -> Matrix:
    table = evidence.confusion(len(names))
    mixed = table.sum(axis=0) + table.sum(axis=1) - table.diagonal()
    seen = [k for k in range(len(names)) if mixed[k] > 0]
    chosen = sorted(sorted(seen, key=lambda k: -int(mixed[k]))[:CROSSED])
    index = np.array([*chosen, len(names)])
    words = tuple(names[k] for k in chosen)
    note = f"the {CROSSED} classes with the most boxes of {len(seen)}" if len(seen) > CROSSED else ""
    return Matrix(
        title="Confusion matrix",
        note=note,
        row_name="true",
        column_name="said",
        rows=(*words, "background"),
        columns=(*words, "missed"),
        counts=tuple(tuple(row) for row in table[np.ix_(index, index)].tolist()),
    )


def _false(evidence: Evidence, names: Sequence[str], places: Sequence[Place]) -> Gallery:
    found, matching = evidence.found, evidence.by_class
    rows = np.flatnonzero(matching.false)
    views = []
    for row in _one_an_image(rows[np.argsort(-found.score[rows], kind="stable")], found):
        box, said = _box(found, row), names[found.label[row]]
        near, there = _near(evidence.truth, int(found.image[row]), found.xyxy[row])
        truths = tuple(
            Mark(box=_box(evidence.truth, k), text=names[evidence.truth.label[k]], kind="truth") for k in near
        )
        wrong = Mark(box=box, text=f"{said} {found.score[row]:.2f}", kind="wrong", score=float(found.score[row]))
        caption = f"said {said}, {_reason(evidence, names, row, there)}"
        views.append(_view(places, int(found.image[row]), box, (*truths, wrong), caption))
    return Gallery(title="Sure, and wrong", rows=(tuple(views),) if views else ())


def _reason(evidence: Evidence, names: Sequence[str], row: int, there: tuple[int, float] | None) -> str:
    if there is None or there[1] < 0.1:
        return "where nothing is labelled"
    truth, overlap = there
    name = names[evidence.truth.label[truth]]
    if evidence.truth.label[truth] != evidence.found.label[row]:
        return f"truly {name} (overlap {overlap:.2f})"
    return f"overlap only {overlap:.2f}" if overlap < 0.5 else "a second box of the same object"


def _missed(evidence: Evidence, names: Sequence[str], places: Sequence[Place]) -> Gallery:
    truth, found, matching = evidence.truth, evidence.found, evidence.shown
    rows = np.flatnonzero(matching.missed)
    sides = truth.xyxy[:, 2:] - truth.xyxy[:, :2]
    order = np.argsort(-sides[rows].prod(axis=1), kind="stable")
    views = []
    for row in _one_an_image(rows[order], truth):
        box, name = _box(truth, row), names[truth.label[row]]
        shown = np.flatnonzero((found.image == truth.image[row]) & matching.active)
        near = shown[iou(found.xyxy[shown], truth.xyxy[row][None])[:, 0] > 0.1] if len(shown) else shown
        said = tuple(_said(found, names, k) for k in near.tolist())
        views.append(_view(places, int(truth.image[row]), box, (*said, Mark(box=box, text=name, kind="missed")), name))
    return Gallery(title="There, and missed", rows=(tuple(views),) if views else ())


def _said(found: Boxes, names: Sequence[str], row: int) -> Mark:
    score = float(found.score[row])
    return Mark(box=_box(found, row), text=f"{names[found.label[row]]} {score:.2f}", score=score)


def _one_an_image(rows: np.ndarray, boxes: Boxes) -> list[int]:
    chosen: dict[int, int] = {}
    for row in rows.tolist():
        if len(chosen) == SHOWN:
            break
        chosen.setdefault(int(boxes.image[row]), row)
    return list(chosen.values())


def _near(truth: Boxes, image: int, box: Floats) -> tuple[list[int], tuple[int, float] | None]:
    """True boxes of an image that touch a box, and the one it overlaps most, with the overlap."""
    rows = np.flatnonzero(truth.image == image)
    if not len(rows):
        return [], None
    overlap = iou(box[None], truth.xyxy[rows])[0]
    best = int(overlap.argmax())
    return rows[overlap > 0].tolist(), (int(rows[best]), float(overlap[best]))


def _box(boxes: Boxes, row: int) -> Box:
    x0, y0, x1, y1 = boxes.xyxy[row].tolist()
    return x0, y0, x1, y1


def _view(places: Sequence[Place], image: int, box: Box, marks: tuple[Mark, ...], caption: str) -> View:
    """A square look at a box and what is around it."""
    side = max(box[2] - box[0], box[3] - box[1])
    half = max(side / 2 + ROOM * side, LEAST_VIEW / 2)
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    dataset, image_id = places[image - 1]
    crop = (x - half, y - half, x + half, y + half)
    return View(image_id=image_id, dataset=dataset, crop=crop, marks=marks, caption=caption)
