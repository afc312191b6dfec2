# SPDX-License-Identifier: Apache-2.0
"""What the network says of validation images, beside the truth: a gallery for any tasks that say boxes or tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unified.contracts.answer import captions
from unified.contracts.protocols import Task
from unified.contracts.section import Box, Gallery, Mark, View
from unified.contracts.structures import Prediction
from unified.training.evaluator import Shown
from unified.training.exhibit import confident, truth

SHOWN = 12  # pictures
LEAST = 0.1  # score of the unsurest box that can be seen
MOST = 40  # boxes in one picture
TAG = 0.5  # score above which a tag is said to hold


def predictions(shown: Sequence[Shown], tasks: Mapping[str, Task], dataset: str = "") -> Gallery:
    """Some of the shown images, spread evenly over all."""
    count = min(SHOWN, len(shown))
    chosen = [shown[i * len(shown) // count] for i in range(count)]
    views = tuple(view(one, tasks, dataset) for one in chosen)
    return Gallery(title="", rows=(views,) if views else ())


def view(shown: Shown, tasks: Mapping[str, Task], dataset: str = "") -> View:
    """One image with its true boxes beneath those that were said; tags in words."""
    true, said = truth(shown, tasks), confident(shown.prediction, LEAST)
    marks: list[Mark] = []
    for prediction, kind in ((true, "truth"), (said, "said")):
        if prediction.boxes_xyxy is None or prediction.labels is None or prediction.scores is None:
            continue
        boxes = shown.frame.to_original(prediction.boxes_xyxy.cpu().float())
        rows = zip(boxes.tolist(), prediction.labels.tolist(), prediction.scores.tolist(), strict=True)
        for box, label, score in list(rows)[:MOST]:
            name = prediction.box_names[label] if 0 <= label < len(prediction.box_names) else ""
            text = name if kind == "truth" else f"{name} {score:.2f}"
            marks.append(Mark(box=_box(box), text=text, kind=kind, score=None if kind == "truth" else score))  # type: ignore[arg-type]
    caption = " · ".join(words for words in (_tags(said.tags, true.tags), _extras(said, true)) if words)
    return View(image_id=shown.frame.image_id, dataset=dataset, marks=tuple(marks), caption=caption)


def _extras(said: Prediction, true: Prediction) -> str:
    """What other tasks say in their own words, and the truth where it is known."""
    known = captions(true)
    told = {task: words for task, words in captions(said).items() if words}
    return " · ".join(
        f"{task}: {words}" + (f" (true: {known[task]})" if known.get(task) else "") for task, words in told.items()
    )


def _tags(said: Mapping[str, float], true: Mapping[str, float]) -> str:
    """Tags in words: what is said, with a sign where the truth is known."""
    words = []
    for name, score in said.items():
        if score >= TAG:
            sign = "" if not true else " ✓" if true.get(name, 0) >= TAG else " ✗"
            words.append(f"{name} {score:.2f}{sign}")
    words += [f"missed: {name}" for name, score in true.items() if score >= TAG and said.get(name, 0) < TAG]
    return " · ".join(words)


def _box(values: Sequence[float]) -> Box:
    x0, y0, x1, y1 = values
    return x0, y0, x1, y1
