# SPDX-License-Identifier: Apache-2.0
"""What a run was made of: its data, its machine, its commands, and what went wrong on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from unified.data.lint.charts import state_key, states
from unified.training.page.record import Record, SplitNote, WordNote
from unified.training.page.scale import number

LISTED = 25  # events of one kind
WORDS = 400  # classes of one task


def data(notes: Sequence[SplitNote]) -> str:
    """A block for every split: images, tasks, and the label states of every class."""
    if not notes:
        return ""
    blocks = "".join(_split(note) for note in notes)
    key = state_key()
    return f'<p class="soft">What each task is told of each class, image by image: {key}</p>{blocks}'


def _split(note: SplitNote) -> str:
    over = f", labels of {number(note.looked)} looked at" if 0 < note.looked < note.images else ""
    tasks = ", ".join(note.tasks) or "no task"
    head = f'{escape(note.dataset)} <span class="soft">{escape(note.split)}</span>'
    told = f"{number(note.images)} images for {tasks}{over}"
    blocks = []
    for task in dict.fromkeys(word.task for word in note.words):
        rows = [word for word in note.words if word.task == task]
        whole = np.sum([row.images for row in rows], axis=0).tolist()
        boxes = sum(row.boxes for row in rows)
        count = f"{len(rows)} classes, {boxes:,} boxes" if boxes else f"{len(rows)} classes"
        table = f'<table class="states">{"".join(map(_word, rows[:WORDS]))}</table>'
        blocks.append(
            f'<details><summary><b>{escape(task)}</b><span class="soft">{count}</span>{states(whole)}</summary>'
            f'<div class="scroll tall">{table}</div></details>'
        )
    return f'<h3>{head}</h3><p class="soft">{escape(told)}</p>{"".join(blocks)}'


def _word(row: WordNote) -> str:
    told = f"{row.boxes:,} boxes" if row.boxes else ""
    return f'<tr><th>{escape(row.word)}</th><td>{states(row.images)}</td><td class="num">{told}</td></tr>'


def sittings(record: Record) -> str:
    """Every command that trained this run, and the machine of the last one."""
    if not record.sittings:
        return ""
    blocks = []
    for sitting in record.sittings:
        when = "from the beginning" if not sitting.step else f"resumed at step {number(sitting.step)}"
        command = escape(sitting.command) or '<span class="soft">called from Python</span>'
        blocks.append(f'<p class="soft">{escape(sitting.begun)}, {when}</p><pre><code>{command}</code></pre>')
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in record.sittings[-1].environment.items()
    )
    return f'{"".join(blocks)}<dl class="facts">{rows}</dl>'


def faults(record: Record, events: Sequence[Mapping[str, Any]]) -> str:
    """All that the log holds beside steps and scores, kind by kind, and what the run told whoever watched."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        kinds.setdefault(_kind(event), []).append(event)
    blocks = []
    for kind, found in kinds.items():
        rows = "".join(_event(event) for event in found[:LISTED])
        more = f'<p class="soft">and {len(found) - LISTED:,} more in log.jsonl</p>' if len(found) > LISTED else ""
        blocks.append(
            f"<details{' open' if len(found) < 6 else ''}><summary><b>{escape(kind)}</b> × {len(found):,}</summary>"
            f'<table class="lines">{rows}</table>{more}</details>'
        )
    resumes = len(record.sittings) - 1
    if resumes > 0:
        blocks.append(f"<p>Resumed {resumes} {'time' if resumes == 1 else 'times'}.</p>")
    if record.messages:
        rows = "".join(f"<tr><td>step {m.step:,}</td><td>{escape(m.text)}</td></tr>" for m in record.messages)
        blocks.append(
            f"<details open><summary><b>told</b> × {len(record.messages)}</summary>"
            f'<table class="lines">{rows}</table></details>'
        )
    return "".join(blocks) or '<p class="soft">Nothing went wrong, and nobody had to be told anything.</p>'


def _kind(event: Mapping[str, Any]) -> str:
    """What a line of the log is about: its ``event``, or its first word that is neither time nor place."""
    if isinstance(event.get("event"), str):
        return str(event["event"])
    if "fault" in event:
        return "fault"
    return next((str(key) for key in event if key not in ("step", "seconds", "dataset", "split")), "line")


def _event(event: Mapping[str, Any]) -> str:
    step = event.get("step")
    when = f"step {number(step)}" if isinstance(step, int | float) else ""
    if isinstance(event.get("fault"), str):
        return f"<tr><td>{when}</td><td>{escape(event['fault'])}</td></tr>"
    words = [
        f"{key}: {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in event.items()
        if key not in ("step", "event")
    ]
    return f"<tr><td>{when}</td><td>{escape('; '.join(words))}</td></tr>"
