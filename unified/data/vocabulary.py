# SPDX-License-Identifier: Apache-2.0
"""One vocabulary over many datasets: words are the same when their names are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unified.contracts.config import AliasConfig
from unified.contracts.errors import DataError, suggestion
from unified.contracts.structures import Vocabulary

Indices = NDArray[np.int64]

TABLES: Final = tuple(field.name for field in fields(Vocabulary))


def merge_vocabularies(vocabularies: Iterable[Vocabulary]) -> Vocabulary:
    """The union by name of all words, in first-seen order, table by table."""
    given = list(vocabularies)
    return Vocabulary(**{t: tuple(dict.fromkeys(word for v in given for word in getattr(v, t))) for t in TABLES})


def renamed(name: str, own: Vocabulary, aliases: AliasConfig, tag_classes: Sequence[int] = ()) -> Vocabulary:
    """A dataset's words by the names that the run has for them, index by index; two may become one.

    A tag that is the presence of a class (``tag_classes``) is renamed with it.

    Raises:
        DataError: an alias of a word that the dataset has not.
    """
    _check_aliases(name, own, aliases)
    boxes, tags = {**aliases.both, **aliases.boxes}, {**aliases.both, **aliases.tags}
    presence = tag_classes or (-1,) * len(own.tags)
    return replace(
        own,
        boxes=tuple(boxes.get(word, word) for word in own.boxes),
        tags=tuple((boxes if k >= 0 else tags).get(word, word) for word, k in zip(own.tags, presence, strict=True)),
    )


def _check_aliases(name: str, own: Vocabulary, aliases: AliasConfig) -> None:
    tables = ((aliases.boxes, own.boxes, "boxes"), (aliases.tags, own.tags, "tags"))
    for given, words, what in (*tables, (aliases.both, (*own.boxes, *own.tags), "boxes or tags")):
        for word in given:
            if word not in words:
                raise DataError(
                    f"dataset '{name}': aliases: '{word}' is none of its {what}{suggestion(word, {*words})}"
                )


@dataclass(frozen=True, eq=False)
class WordMap:
    """Where a dataset's own words stand in the run's vocabulary, by own index; -1 for words the run does not know."""

    boxes: Indices
    tags: Indices
    identities: Indices
    image_identities: Indices
    names: Vocabulary  # the own words as aliases name them, index by index


class Translator:
    """Finds datasets' words in a run's vocabulary and keeps account of those that are not in it.

    With ``newcomers`` identities outside the vocabulary are numbered on from its end, not dropped: they have
    no proxies to learn against, but a validation split must tell them apart to score retrieval on them.
    """

    def __init__(self, vocabulary: Vocabulary, *, newcomers: bool) -> None:
        self.vocabulary = vocabulary
        self.newcomers = newcomers
        self._index = {t: {word: k for k, word in enumerate(getattr(vocabulary, t))} for t in TABLES}

    def translate(self, name: str, own: Vocabulary) -> tuple[WordMap, list[str]]:
        """The map of a dataset's words, as aliases name them, and a one-line remark for every table that lost some."""
        maps: dict[str, Indices] = {}
        warnings = []
        for table in TABLES:
            words: Sequence[str] = getattr(own, table)
            index = self._index[table]
            if self.newcomers and table.endswith("identities"):
                for word in words:
                    index.setdefault(word, len(index))
            maps[table] = np.array([index.get(word, -1) for word in words], dtype=np.int64)
            lost = [word for word in words if word not in index]
            if lost:
                shown = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
                kind = table.replace("_", " ")
                warnings.append(
                    f"dataset '{name}': the model does not know {len(lost)} of its {kind}; left out: {shown}"
                )
        return WordMap(**maps, names=own), warnings


def shared_identities(vocabularies: Sequence[tuple[str, Vocabulary]]) -> list[str]:
    """A remark for every two datasets that name the same identity: numbers often agree by accident."""
    remarks = []
    for k, (name, own) in enumerate(vocabularies):
        for other_name, other in vocabularies[:k]:
            for table in ("identities", "image_identities"):
                both = sorted({*getattr(own, table)} & {*getattr(other, table)})
                if both:
                    remarks.append(
                        f"datasets '{other_name}' and '{name}' share {len(both)} {table.replace('_', ' ')}, such as "
                        f"'{both[0]}'; they are taken to be the same things"
                    )
    return remarks
