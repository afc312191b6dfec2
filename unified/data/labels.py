# SPDX-License-Identifier: Apache-2.0
"""What a dataset says about each task's classes: its own words, and its claim of what was looked for, as label states.

Legend: K box classes, A tags of the run's vocabulary, N boxes of an image.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unified.contracts.augmentation import MIXING, without
from unified.contracts.config import AugmentConfig, DatasetConfig
from unified.contracts.errors import DataError, suggestion
from unified.contracts.protocols import Labels
from unified.contracts.structures import Annotations, LabelState, Vocabulary
from unified.data.source import Source
from unified.data.vocabulary import WordMap

States = NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Claim:
    """What one dataset labels for one task.

    ``verified``: an image that shows nothing was checked to hold nothing. ``breaks``: transforms that make these labels
    untrue; of several pictures in one it are those of the whole image.
    """

    table: Labels
    labelled: NDArray[np.bool_]  # (K,) or (A,): the classes that were looked for
    verified: bool
    breaks: frozenset[str] = frozenset()


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
    chosen = np.full(len(own), isinstance(said, str))
    for word in () if isinstance(said, str) else said:
        chosen[_own_indices(source.name, task, word, own, getattr(words.names, table))] = True
    labelled = np.zeros(len(getattr(vocabulary, table)) + 1, dtype=np.bool_)  # the last is for unknown words
    labelled[place[chosen]] = True
    labelled[place[~chosen]] = False  # of classes that an alias joins, all must have been looked for
    return Claim(table, labelled[:-1], said == "empty")


def _own_indices(name: str, task: str, word: str, own: Sequence[str], names: Sequence[str]) -> list[int]:
    """Where a claimed class stands among the dataset's own, by its own word or by the one an alias gives it."""
    if word in own:
        return [own.index(word)]
    if word in names:
        return [k for k, alias in enumerate(names) if alias == word]
    known = {*own, *names}
    raise DataError(f"dataset '{name}': labelled class '{word}' of task '{task}' is unknown{suggestion(word, known)}")


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
        self._box_identities = bool(source.vocabulary.identities)
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
        """Annotations in the run's words. Boxes of unknown classes are gone.

        In flight ``states["tags"]`` is (A,) and ``states["boxes"]``, where the source narrows its claim, is (K,).
        """
        labels = self.words.boxes[own.box_labels.numpy()]
        identities = self._identity_words[own.box_identities.numpy()]
        identity = int(self.words.image_identities[own.identity]) if own.identity >= 0 else -1
        places = {"tags": (self.words.tags, len(self._fields)), "boxes": (self.words.boxes, len(self._tag_of_class))}
        states = {
            table: torch.from_numpy(_gathered(own.states[table].numpy(), *places[table]))
            for table in places
            if table in own.states
        }
        found = replace(
            own,
            box_labels=torch.from_numpy(labels),
            box_identities=torch.from_numpy(identities),
            identity=identity,
            states=states,
        )
        return found if (labels >= 0).all() else found.select(torch.from_numpy(labels >= 0))

    def finish(self, found: Annotations, cut: Tensor, *, bare: bool, mixed: Collection[str] = ()) -> Annotations:
        """Annotations with the states of every task, written from the boxes that are left.

        Args:
            found: as :meth:`translate` gave them, after the transforms.
            cut: (M,) labels of objects that were dropped although a part may still be seen.
            bare: whether the stored image had no boxes at all.
            mixed: the transforms that made one picture of several, so that no image's own record need speak for it.
        """
        if any(c.table == "identities" and not c.breaks.isdisjoint(mixed) for c in self.claims.values()):
            found = replace(found, identity=-1)
        if mixed:
            found = replace(found, extras={k: each for k, each in found.extras.items() if hasattr(each, "joined")})
        states = {
            task: torch.from_numpy(self._states(c, found, cut.numpy(), bare, not c.breaks.isdisjoint(mixed)))
            for task, c in self.claims.items()
        }
        labelled = self._boxes_labelled.copy()
        if "boxes" in found.states:
            labelled &= found.states["boxes"].numpy() != LabelState.IGNORE
        seen = np.where(labelled[found.box_labels.numpy()], found.box_states.numpy(), np.int8(LabelState.IGNORE))
        return replace(found, box_states=torch.from_numpy(seen), states={k: v for k, v in states.items() if len(v)})

    def _states(self, said: Claim, found: Annotations, cut: NDArray[np.int64], bare: bool, broken: bool) -> States:
        if said.table == "boxes":
            return self._box_states(said, found, bare)
        if said.table == "tags":
            return self._tag_states(said, found, cut, broken)
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
        if "boxes" in found.states:
            _narrow(states, found.states["boxes"].numpy())
        return states

    def _tag_states(self, said: Claim, found: Annotations, cut: NDArray[np.int64], broken: bool) -> States:
        """(A,): presence from the boxes that are left, the rest from the image's own record."""
        nothing = torch.zeros(len(self._fields), dtype=torch.int8)
        states = found.states.get("tags", nothing).numpy().copy()
        if broken:
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
        if "boxes" in found.states:
            self._narrow_presence(states, found.states["boxes"].numpy())
        states[~said.labelled] = LabelState.UNLABELLED
        if said.verified and not np.isin(states, (LabelState.POSITIVE, LabelState.IGNORE)).any():
            states[states == LabelState.NEGATIVE] = LabelState.EMPTY
        return states

    def _narrow_presence(self, tags: States, looked: States) -> None:
        """The presence of a class that nobody looked for in the image is as unknown as its boxes."""
        classes = np.flatnonzero(self._tag_of_class >= 0)
        states = tags[self._tag_of_class[classes]]
        _narrow(states, looked[classes])
        states[(looked[classes] == LabelState.POSITIVE) & (states == LabelState.IGNORE)] = LabelState.POSITIVE
        tags[self._tag_of_class[classes]] = states

    def joined(self, parts: Sequence[Annotations]) -> dict[str, Tensor]:
        """What several images' own records say of the picture they make together, in flight as :meth:`translate` says.

        A tag or class is known to be absent, or fully marked, only where it is in every one of them.
        """
        nothing = torch.zeros(len(self._fields), dtype=torch.int8)
        tags = torch.stack([part.states.get("tags", nothing) for part in parts]).numpy()
        states = {"tags": torch.from_numpy(_ORDER[_WEIGHT[tags].max(axis=0)])}
        looked = [part.states["boxes"] for part in parts if "boxes" in part.states]
        if looked:
            all_known = torch.stack([_known_here(part) for part in parts if "boxes" in part.states]).all(dim=0)
            states["boxes"] = torch.where(all_known, int(LabelState.NEGATIVE), int(LabelState.IGNORE)).to(torch.int8)
        return states

    def known_here(self, part: Annotations) -> Tensor:
        """(K,) bool: the classes whose every instance in an image is marked, or that are known to be absent."""
        return _known_here(part) if "boxes" in part.states else torch.ones(len(self._tag_of_class), dtype=torch.bool)

    def allowed(self, augment: AugmentConfig, tasks: Collection[str]) -> AugmentConfig:
        """The transforms that leave the labels of these tasks true.

        One that changes a picture is left out where it breaks any task. One that mixes pictures is left out where it
        breaks boxes, or leaves no task anything to learn; otherwise the labels that it breaks become unlabelled.
        """
        claims = [said for task, said in self.claims.items() if task in tasks]
        broken = frozenset().union(*(said.breaks for said in claims))
        harmful = {
            name
            for name in broken & frozenset(MIXING)
            if any(name in said.breaks and said.table == "boxes" for said in claims)
            or not any(self._outlasts(said, name) for said in claims)
        }
        return without(augment, (broken - frozenset(MIXING)) | harmful)

    def _outlasts(self, said: Claim, mixing: str) -> bool:
        """Whether a task has labels that stay true in a picture made of several: those that move with boxes."""
        if said.table == "identities":
            return self._box_identities
        return mixing not in said.breaks or (said.table == "tags" and bool(said.labelled[self._presence].any()))

    def view_identity(self, index: int) -> int:
        """The identity that the views of an image share, past all those that have names."""
        return self._identities + index


_ORDER = np.array(
    [LabelState.NEGATIVE, LabelState.EMPTY, LabelState.UNLABELLED, LabelState.IGNORE, LabelState.POSITIVE],
    dtype=np.int8,
)  # of a word that several own words are joined in, the last of their states counts
_WEIGHT = np.argsort(_ORDER).astype(np.int8)


def _gathered(states: States, places: NDArray[np.int64], count: int) -> States:
    """States of own words (own,) as those of the run's ``count`` words; of words an alias joins, all must be absent."""
    weights = np.full(count + 1, -1, dtype=np.int8)  # the last is for unknown words
    np.maximum.at(weights, places, _WEIGHT[states])
    states_in_order: States = np.append(_ORDER, np.int8(LabelState.UNLABELLED))  # -1, no own word: unlabelled
    return states_in_order[weights[:-1]]


def _narrow(states: States, looked: States) -> None:
    """Takes back what a dataset's claim says of classes that nobody looked for in this image, in place."""
    unshown = states != LabelState.POSITIVE
    states[(looked == LabelState.UNLABELLED) & unshown] = LabelState.UNLABELLED
    states[(looked == LabelState.POSITIVE) & unshown & (states != LabelState.UNLABELLED)] = LabelState.IGNORE
    states[looked == LabelState.IGNORE] = np.minimum(states[looked == LabelState.IGNORE], LabelState.IGNORE)


def _known_here(part: Annotations) -> Tensor:
    """(K,) bool: the classes whose every instance in an image is marked, or that are known to be absent."""
    looked = part.states["boxes"].clone()
    sure = part.box_labels[part.box_states == LabelState.POSITIVE]
    shown = torch.zeros(len(looked), dtype=torch.bool)
    shown[sure] = True
    return (looked != LabelState.IGNORE) & (shown | (looked == LabelState.NEGATIVE))
