# SPDX-License-Identifier: Apache-2.0
"""The words a COCO file's own records hold, for checks that must not depend on whether the file can be opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unified.contracts.config import AliasConfig, DatasetConfig
from unified.data.formats.record import said_of
from unified.data.lint.sheet import Record, Sheet


@dataclass(frozen=True)
class Words:
    """Own words by table, and whether anything tells one thing from another."""

    boxes: tuple[str, ...]
    tags: tuple[str, ...]
    identified: bool


def read_words(sheet: Sheet, classes: Sequence[str], config: DatasetConfig) -> Words:
    """Classes, the values of the configured tag fields, and whether any record has an identity."""
    tags: dict[str, None] = {}
    for field in config.tags.fields:
        for record in sheet.images.records:
            if (said := said_of(record.get(field), field)) is not None:
                tags.update(dict.fromkeys(said.states))
    tags.update(dict.fromkeys(classes if config.tags.categories else ()))
    of_box, of_image = config.identity.boxes, config.identity.image
    identified = of_image == "views" or (of_box == "category" and bool(classes))
    identified |= _any_has(sheet.annotations.records, of_box) or _any_has(sheet.images.records, of_image)
    return Words(tuple(classes), tuple(tags), identified)


def _any_has(records: Sequence[Record], field: str | None) -> bool:
    return field is not None and any(record.get(field) is not None for record in records)


def box_aliases(aliases: AliasConfig) -> Mapping[str, str]:
    """The run's names for a data set's own classes."""
    given: dict[str, Any] = {**aliases.both, **aliases.boxes}
    return given
