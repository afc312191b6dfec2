# SPDX-License-Identifier: Apache-2.0
"""One vocabulary over many datasets: words are the same when their names are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unified.contracts.structures import Vocabulary

Indices = NDArray[np.int64]

TABLES: Final = tuple(field.name for field in fields(Vocabulary))


def merge_vocabularies(vocabularies: Iterable[Vocabulary]) -> Vocabulary:
    """The union by name of all words, in first-seen order, table by table."""
    given = list(vocabularies)
    return Vocabulary(**{t: tuple(dict.fromkeys(word for v in given for word in getattr(v, t))) for t in TABLES})


@dataclass(frozen=True, eq=False)
class WordMap:
    """Where a dataset's own words stand in the run's vocabulary, by own index; -1 for words the run does not know."""

    boxes: Indices
    tags: Indices
    identities: Indices
    image_identities: Indices


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
        """The map of a dataset's words, and a one-line remark for every table that lost some."""
        maps, warnings = {}, []
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
        return WordMap(**maps), warnings


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
