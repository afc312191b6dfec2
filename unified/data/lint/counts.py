# SPDX-License-Identifier: Apache-2.0
"""How many images each class, task and label state has: asked of the very reader that will tell the losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from unified.contracts.config import DatasetConfig
from unified.contracts.errors import DataError
from unified.contracts.protocols import Labels
from unified.contracts.structures import Annotations, LabelState, Vocabulary
from unified.data.labels import Claim, LabelReader, claim
from unified.data.source import Source, Split
from unified.data.vocabulary import Translator, merge_vocabularies, renamed

COUNTED: Final = 10_000  # images of a split whose states are counted: some seconds; of more, so many evenly spread
STATES: Final = tuple(LabelState)


@dataclass(frozen=True)
class Count:
    """One word of one task in one split: how many images are in each state, and how many boxes show it."""

    dataset: str
    split: str
    task: str
    word: str
    boxes: int
    images: tuple[int, ...]  # by LabelState

    def as_json(self) -> dict[str, Any]:
        """For the command line's ``--json``."""
        told = {state.name.lower(): count for state, count in zip(STATES, self.images, strict=True)}
        place = {"dataset": self.dataset, "split": self.split, "task": self.task, "class": self.word}
        return {**place, "boxes": self.boxes, **told}


@dataclass(frozen=True)
class Counts:
    """The counts of one split, over ``images`` of its ``total``."""

    rows: tuple[Count, ...]
    images: int
    total: int


def count_states(
    source: Source,
    config: DatasetConfig,
    split: Split,
    tables: Mapping[str, Labels | None],
    refused: Callable[[str, str], None],
    most: int = COUNTED,
) -> Counts:
    """The label states of a split's images, task by task.

    Args:
        source: the split, opened; its pictures are not decoded where it tells annotations without them.
        config: what it labels.
        split: which it is.
        tables: the table each task learns from.
        refused: told of a task whose claim training would refuse, and why.
        most: images that are looked at.
    """
    own = renamed(source.name, source.vocabulary, config.aliases, source.tag_classes)
    vocabulary = merge_vocabularies([own])
    words, _ = Translator(vocabulary, newcomers=True).translate(source.name, own)
    claims: dict[str, Claim] = {}
    for task, table in tables.items():
        try:
            found = None if table is None else claim(source, config, task, table, vocabulary, words)
        except DataError as error:
            refused(task, str(error))
            continue
        claims |= {task: found} if found is not None else {}
    reader = LabelReader(source, vocabulary, words, claims)
    tally = _Tally(vocabulary, claims)
    chosen = np.unique(np.linspace(0, len(source) - 1, min(len(source), most)).astype(np.int64))
    for index in chosen.tolist():
        stored = _annotations(source, index)
        found_here = reader.translate(stored)
        tally.add(reader.finish(found_here, stored.box_labels[:0], bare=len(stored) == 0), source.views)
    rows = tuple(row for task in tables for row in tally.rows(source.name, split, task))
    return Counts(rows, len(chosen), len(source))


def _annotations(source: Source, index: int) -> Annotations:
    """What is said of an image, without its pixels where the format allows."""
    tell = getattr(source, "annotations", None)
    size = source.size(index)
    if tell is None:
        return source.read(index).annotations
    found: Annotations = tell(index, size or (1 << 24, 1 << 24))  # an unknown size clips nothing
    return found


class _Tally:
    """Counts per task, word and state."""

    def __init__(self, vocabulary: Vocabulary, claims: Mapping[str, Claim]) -> None:
        self.claims = claims
        self.words = {task: self._names(vocabulary, said.table) for task, said in claims.items()}
        self.states = {task: np.zeros((len(names), len(STATES)), np.int64) for task, names in self.words.items()}
        self.boxes = np.zeros(len(vocabulary.boxes), np.int64)
        self.identified = 0

    @staticmethod
    def _names(vocabulary: Vocabulary, table: Labels) -> tuple[str, ...]:
        if table == "identities":
            return (f"{len(vocabulary.identities) + len(vocabulary.image_identities)} identities",)
        return vocabulary.boxes if table == "boxes" else vocabulary.tags if table == "tags" else ()

    def add(self, found: Annotations, views: bool) -> None:
        sure = found.box_labels[found.box_states == LabelState.POSITIVE].numpy()
        self.boxes += np.bincount(sure, minlength=len(self.boxes))
        self.identified += int((found.box_identities >= 0).sum())
        for task, counts in self.states.items():
            if task in found.states and len(counts):
                states = found.states[task].numpy().astype(np.int64)
                if views and self.claims[task].table == "identities":
                    states = np.array([LabelState.POSITIVE])
                counts[np.arange(len(counts)), states] += 1

    def rows(self, dataset: str, split: str, task: str) -> list[Count]:
        if task not in self.claims:
            return []
        table = self.claims[task].table
        boxes = self.boxes.tolist() if table == "boxes" else [self.identified if table == "identities" else 0]
        boxes *= 1 if table == "boxes" else len(self.words[task])
        return [
            Count(dataset, split, task, word, boxes[k], tuple(self.states[task][k].tolist()))
            for k, word in enumerate(self.words[task])
        ]
