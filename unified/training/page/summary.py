# SPDX-License-Identifier: Apache-2.0
"""The head of the page: what the run was, how it ended, and what it reached."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from unified.training.page.log import RunLog
from unified.training.page.progress import median
from unified.training.page.record import Record, TaskNote
from unified.training.page.scale import Scale, clock, number

SPARK = (120, 34)  # width and height
GOOD = ("finished", "running")


def header(title: str, model: str, record: Record, log: RunLog) -> str:
    """The run's name, how it stands, and its size in numbers."""
    state = record.state or "log only"
    kind = "good" if state in GOOD else "bad" if state.startswith("stopped") else "calm"
    begun = record.sittings[0].begun if record.sittings else ""
    told = " · ".join(escape(word) for word in (model, begun) if word)
    planned = f" of {number(record.steps)}" if record.steps > log.last_step else ""
    rate = median(log.series("", "images_per_second").get("images_per_second", ([], []))[1])
    wait = median(log.series("", "wait").get("wait", ([], []))[1])
    tiles = [(f"steps{planned}", number(log.last_step)), ("training", clock(log.seconds))]
    tiles += [("images a second", number(round(rate, 1 if rate < 10 else 0)))] if rate is not None else []
    tiles += [("waiting for data", f"{wait:.0%}")] if wait is not None else []
    tiles += [("parameters", _short(record.parameters))] if record.parameters else []
    tiles += [("input", f"{record.size} px")] if record.size else []
    tiles += [("images a step", number(record.batch))] if record.batch else []
    shown = "".join(f'<div class="tile"><b>{escape(value)}</b><span>{name}</span></div>' for name, value in tiles)
    return (
        f'<header><div><h1>{escape(title)}</h1><p class="soft">{told}</p></div>'
        f'<span class="verdict {kind}">{escape(state)}</span></header><div class="tiles">{shown}</div>'
    )


def headline(record: Record, log: RunLog) -> str:
    """A card a task: its first score large, what it means, how it grew, and its other scores."""
    series = log.series("metrics")
    scores = {name: points[1][-1] for name, points in series.items()}
    if not scores:
        return '<p class="soft">No evaluation yet.</p>'
    notes = {note.name: note for note in record.tasks}
    tasks = list(dict.fromkeys(name.rpartition("/")[0] for name in scores))
    cards = "".join(_card(task, notes.get(task), scores, series) for task in tasks)
    said = _when(record, log)
    return f'<div class="cards">{cards}</div><p class="soft">{said}</p>'


def _when(record: Record, log: RunLog) -> str:
    last = log.evaluations[-1].get("step") if log.evaluations else None
    words = [f"Scores on the validation data at step {number(last)}."] if isinstance(last, int | float) else []
    if record.look:
        words.append(f"{number(record.look.images)} images, scored in {record.look.seconds:.1f} s.")
    if record.best is not None:
        here = "this is the best evaluation" if record.best == last else f"the best was at step {number(record.best)}"
        words.append(f"By the mean of the first scores {here}; <code>checkpoints/best</code> holds it.")
    return " ".join(words)


def _card(
    task: str, note: TaskNote | None, scores: Mapping[str, float], series: Mapping[str, tuple[list[float], list[float]]]
) -> str:
    own = [name for name in scores if name.rpartition("/")[0] == task]
    first = f"{task}/{note.primary}" if note and f"{task}/{note.primary}" in scores else own[0]
    meanings = note.scores if note else {}
    kind = f' <span class="soft">{escape(note.kind)}</span>' if note and note.kind != task else ""
    rows = "".join(_score(name.rpartition("/")[2], scores[name], meanings) for name in own if name != first)
    chief = first.rpartition("/")[2]
    meaning = f"<p>{escape(meanings[chief])}</p>" if chief in meanings else ""
    return (
        f'<article class="card"><h3>{escape(task)}{kind}</h3><div class="big"><b>{scores[first]:.3f}</b>'
        f"<span>{escape(chief)}</span>{_spark(series[first])}</div>{meaning}<dl>{rows}</dl></article>"
    )


def _score(name: str, value: float, meanings: Mapping[str, str]) -> str:
    told = f' title="{escape(meanings[name])}"' if name in meanings else ""
    return f"<div{told}><dt>{escape(name)}</dt><dd>{value:.3f}</dd></div>"


def _spark(points: tuple[list[float], list[float]]) -> str:
    """The score over the evaluations, without axes."""
    xs, ys = points
    if len(xs) < 2:
        return ""
    width, height = SPARK
    x, y = Scale(xs[0], xs[-1], 3, width - 4), Scale(min(0.0, *ys), max(*ys, 1e-9), height - 4, 4)
    path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in zip(xs, ys, strict=True))
    end = f'<circle cx="{x.at(xs[-1]):.1f}" cy="{y.at(ys[-1]):.1f}" r="3"/>'
    return (
        f'<svg class="spark" viewBox="0 0 {width} {height}" aria-hidden="true"><polyline points="{path}"/>{end}</svg>'
    )


def _short(count: int) -> str:
    """1,300,000 as 1.3 M."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {sign}"
    return str(count)
