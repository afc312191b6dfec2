# SPDX-License-Identifier: Apache-2.0
"""Where one split's words stand among those of the split that decides them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unified.contracts.errors import DataError, suggestion
from unified.data.formats.table import Table

Places = NDArray[np.int64]


def extended(first: tuple[str, ...], then: tuple[str, ...]) -> tuple[tuple[str, ...], Places]:
    """Both lists of names as one, and where the names of the second stand in it."""
    if first == then:
        return first, np.arange(len(first), dtype=np.int64)
    names = tuple(dict.fromkeys([*first, *then]))
    place = {word: k for k, word in enumerate(names)}
    return names, np.array([place[word] for word in then], dtype=np.int64)


def class_places(table: Table, words: Table, name: str) -> Places:
    """Where the table's categories stand among those of ``words``; -1 for one that no box has.

    Raises:
        DataError: a box is of a category that ``words`` has not.
    """
    known = {word: k for k, word in enumerate(words.categories)}
    used = np.bincount(table.labels, minlength=len(table.categories))
    for k in np.flatnonzero(used):
        word = table.categories[k]
        if word not in known:
            raise DataError(
                f"dataset '{name}': val has the category '{word}', which train has not{suggestion(word, known)}"
            )
    return np.array([known.get(word, -1) for word in table.categories], dtype=np.int64)


def tag_places(table: Table, words: Table) -> tuple[Places, tuple[str, ...], tuple[Places, ...]]:
    """Where the table's tags stand, all tag names, and which of them are the values of each field of the table."""
    names, place = extended(words.tags, table.tags)
    index = {word: k for k, word in enumerate(names)}
    of_words = dict(zip(words.fields, words.field_words, strict=True))
    columns = [
        np.array([index[word] for word in dict.fromkeys([*of_words.get(field, ()), *own])], dtype=np.int64)
        for field, own in zip(table.fields, table.field_words, strict=True)
    ]
    return place, names, tuple(columns)
