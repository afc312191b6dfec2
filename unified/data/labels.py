# SPDX-License-Identifier: Apache-2.0
"""What a dataset says about each task's classes: its own words, and its claim of what was looked for, as label states.

Legend: K box classes, A tags of the run's vocabulary, N boxes of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unified.contracts.config import DatasetConfig
from unified.contracts.errors import DataError, suggestion
from unified.contracts.protocols import Labels
from unified.contracts.structures import Annotations, LabelState, Vocabulary
from unified.data.source import Source
from unified.data.vocabulary import WordMap

States = NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Claim:
    """What one dataset labels for one task. ``verified``: an image that shows nothing was checked to hold nothing."""

    table: Labels
    labelled: NDArray[np.bool_]  # (K,) or (A,): the classes that were looked for
    verified: bool


def claim(
    source: Source, config: DatasetConfig, task: str, table: Labels, vocabulary: Vocabulary, words: WordMap
) -> Claim | None:
    """The dataset's claim for a task; None where it labels nothing for it.

    Raises:
        DataError: a class it claims to label is not among its own, or it has no such labels at all.
    """
    said = config.labelled.get(task, "all" if table == "none" else "none")
    if said == "none" or said == ():
        return None
    if table == "none":
        return Claim(table, np.zeros(0, dtype=np.bool_), False)
    if table == "identities":
        _check_identities(source, task, said)
        return Claim(table, np.ones(1, dtype=np.bool_), False)
    own: Sequence[str] = getattr(source.vocabulary, table)
    place: NDArray[np.int64] = getattr(words, table)
    if not own:
        raise DataError(f"dataset '{source.name}' is said to label task '{task}', but it has no {table}")
    chosen = range(len(own)) if isinstance(said, str) else [_own_index(source.name, task, word, own) for word in said]
    labelled = np.zeros(len(getattr(vocabulary, table)) + 1, dtype=np.bool_)  # the last is for unknown words
    labelled[place[list(chosen)]] = True
    return Claim(table, labelled[:-1], said == "empty")


def _own_index(name: str, task: str, word: str, own: Sequence[str]) -> int:
    if word not in own:
        raise DataError(f"dataset '{name}': labelled class '{word}' of task '{task}' is unknown{suggestion(word, own)}")
    return own.index(word)


def _check_identities(source: Source, task: str, said: str | tuple[str, ...]) -> None:
    if said != "all":
        raise DataError(
            f"dataset '{source.name}': task '{task}' learns identities; labelled takes 'all' or 'none', got {said!r}"
        )
    if not (source.views or source.vocabulary.identities or source.vocabulary.image_identities):
        raise DataError(
            f"dataset '{source.name}' is said to label task '{task}', but it has no identities; "
            "set identity: {boxes: FIELD} or {image: FIELD} or {image: views}"
        )


class LabelReader:
    """Turns a source's annotations into those of the run, task by task."""

    def __init__(self, source: Source, vocabulary: Vocabulary, words: WordMap, claims: Mapping[str, Claim]) -> None:
        self.words, self.claims = words, dict(claims)
        self._identity_words = np.append(words.identities, -1)  # -1 stays
        self._identities = len(vocabulary.image_identities)
        classes, tags = len(vocabulary.boxes), len(vocabulary.tags)
        own = np.asarray(source.tag_classes if len(source.tag_classes) else [-1] * len(words.tags), dtype=np.int64)
        self._fields = np.zeros(tags, dtype=np.bool_)  # tags that only the image's own record tells
        self._fields[words.tags[(own < 0) & (words.tags >= 0)]] = True
        present = (own >= 0) & (words.tags >= 0)
        self._presence = np.zeros(tags, dtype=np.bool_)  # tags that are the presence of a box class
        self._presence[words.tags[present]] = True
        self._tag_of_own_class = np.full(len(words.boxes), -1, dtype=np.int64)
        self._tag_of_own_class[own[present]] = words.tags[present]
        self._tag_of_class = np.full(classes, -1, dtype=np.int64)
        known = words.boxes >= 0
        self._tag_of_class[words.boxes[known]] = self._tag_of_own_class[known]
        looked_for = [c.labelled for c in self.claims.values() if c.table == "boxes"]
        self._boxes_labelled = np.any(looked_for, axis=0) if looked_for else np.ones(classes, dtype=np.bool_)

    def translate(self, own: Annotations) -> Annotations:
        """Annotations in the run's words. Boxes of unknown classes are gone; ``states["tags"]`` is (A,) in flight."""
        labels = self.words.boxes[own.box_labels.numpy()]
        identities = self._identity_words[own.box_identities.numpy()]
        identity = int(self.words.image_identities[own.identity]) if own.identity >= 0 else -1
        tags = np.zeros(len(self._fields) + 1, dtype=np.int8)
        if "tags" in own.states:
            tags[self.words.tags] = own.states["tags"].numpy()
        states = {"tags": torch.from_numpy(tags[:-1])}
        found = replace(
            own,
            box_labels=torch.from_numpy(labels),
            box_identities=torch.from_numpy(identities),
            identity=identity,
            states=states,
        )
        return found if (labels >= 0).all() else found.select(torch.from_numpy(labels >= 0))

    def finish(self, found: Annotations, cut: Tensor, *, bare: bool, mixed: bool) -> Annotations:
        """Annotations with the states of every task, written from the boxes that are left.

        Args:
            found: as :meth:`translate` gave them, after the transforms.
            cut: (M,) labels of objects that were dropped although a part may still be seen.
            bare: whether the stored image had no boxes at all.
            mixed: whether several images were joined, so that no image's own record speaks for the whole.
        """
        states = {
            task: torch.from_numpy(self._states(c, found, cut.numpy(), bare, mixed)) for task, c in self.claims.items()
        }
        labelled = self._boxes_labelled[found.box_labels.numpy()]
        seen = np.where(labelled, found.box_states.numpy(), np.int8(LabelState.IGNORE))
        return replace(found, box_states=torch.from_numpy(seen), states={k: v for k, v in states.items() if len(v)})

    def _states(self, said: Claim, found: Annotations, cut: NDArray[np.int64], bare: bool, mixed: bool) -> States:
        if said.table == "boxes":
            return self._box_states(said, found, bare)
        if said.table == "tags":
            return self._tag_states(said, found, cut, mixed)
        if said.table == "identities":
            known = found.identity >= 0 or bool((found.box_identities >= 0).any())
            return np.array([LabelState.POSITIVE if known else LabelState.UNLABELLED], dtype=np.int8)
        return np.zeros(0, dtype=np.int8)

    def _box_states(self, said: Claim, found: Annotations, bare: bool) -> States:
        """(K,): a class that only crowds or difficult objects show is NEGATIVE; their boxes say where not to look."""
        states = np.where(said.labelled, LabelState.NEGATIVE, LabelState.UNLABELLED).astype(np.int8)
        if said.verified and bare:
            states[said.labelled] = LabelState.EMPTY
        labels, sure = found.box_labels.numpy(), found.box_states.numpy() == LabelState.POSITIVE
        shown = labels[sure]
        states[shown[said.labelled[shown]]] = LabelState.POSITIVE
        return states

    def _tag_states(self, said: Claim, found: Annotations, cut: NDArray[np.int64], mixed: bool) -> States:
        """(A,): presence from the boxes that are left, the rest from the image's own record."""
        states = found.states["tags"].numpy().copy()
        if mixed:
            states[self._fields] = LabelState.UNLABELLED
        states[self._presence] = LabelState.NEGATIVE
        labels, sure = found.box_labels.numpy(), found.box_states.numpy() == LabelState.POSITIVE
        for shown, state in (
            (labels[~sure], LabelState.IGNORE),
            (cut, LabelState.IGNORE),
            (labels[sure], LabelState.POSITIVE),
        ):
            tags = self._tag_of_class[shown]
            states[tags[tags >= 0]] = state
        states[~said.labelled] = LabelState.UNLABELLED
        if said.verified and not np.isin(states, (LabelState.POSITIVE, LabelState.IGNORE)).any():
            states[states == LabelState.NEGATIVE] = LabelState.EMPTY
        return states

    def view_identity(self, index: int) -> int:
        """The identity that the views of an image share, past all those that have names."""
        return self._identities + index
