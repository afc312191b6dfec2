# SPDX-License-Identifier: Apache-2.0
"""What a run learned from and was scored on: datasets, images, classes, label states."""

from __future__ import annotations

from collections.abc import Mapping

from unified.contracts.config import RunConfig
from unified.contracts.errors import UnifiedError
from unified.contracts.protocols import Task
from unified.data.lint.counts import count_states
from unified.data.mixing import Mixture
from unified.data.source import Split
from unified.training.page.record import SplitNote, WordNote

COUNTED = 1000  # images of a split whose labels are looked at: well under a second
COUNTED_BY_PIXELS = 100  # of formats that cannot tell labels without decoding pictures


def census(config: RunConfig, tasks: Mapping[str, Task], mixture: Mixture, split: Split) -> tuple[SplitNote, ...]:
    """A note for every dataset of one split; one that cannot be counted is there without its words."""
    tables = {name: task.labels for name, task in tasks.items()}
    notes = []
    for name, source in mixture.sources.items():
        most = COUNTED if hasattr(source, "annotations") else COUNTED_BY_PIXELS
        serves = tuple(mixture.serves.get(name, ()))
        asked = {task: table for task, table in tables.items() if task in serves}
        try:
            counts = count_states(source, config.data.datasets[name], split, asked, lambda *_: None, most)
        except (UnifiedError, KeyError):
            notes.append(SplitNote(dataset=name, split=split, images=len(source), looked=0, tasks=serves, words=()))
            continue
        words = tuple(WordNote(task=r.task, word=r.word, boxes=r.boxes, images=r.images) for r in counts.rows)
        notes.append(
            SplitNote(dataset=name, split=split, images=len(source), looked=counts.images, tasks=serves, words=words)
        )
    return tuple(notes)
