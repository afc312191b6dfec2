# SPDX-License-Identifier: Apache-2.0
"""A split of another format as the records of a COCO file, so that what mends those mends it too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from unified.contracts.config import DatasetConfig
from unified.contracts.errors import DataError
from unified.contracts.source import shown_path
from unified.data.convert import as_coco, said_of
from unified.data.formats.flaw import Flaw, Place
from unified.data.formats.indexed import IndexedSource
from unified.data.lint.finding import Findings
from unified.data.lint.part import Part, examine
from unified.data.lint.sheet import Rows, Sheet
from unified.data.lint.words import box_aliases

_NOTHING_LOST: Final = ("box-over-edge", "box-outside", "box-no-area", "listed-twice", "picture-without-class")
"""Faults of the files whose records can be left out: nothing that they meant can be seen in a picture."""

_WITHOUT_PICTURE: Final = ("file-missing", "file-unreadable", "file-name-hostile")
"""Faults that leave no doubt about a picture, where there is none that has their name."""


@dataclass(frozen=True, eq=False)
class Transcript:
    """The split with the records of a COCO file, examined as those are, and what was lost on the way, a line each."""

    part: Part
    config: DatasetConfig  # the data set as COCO, with this split; who writes its file says in it where that is
    lost: tuple[str, ...]


def transcribe(part: Part) -> Transcript:
    """Lays out an opened split.

    An object that could not be read is not silently background: its picture then says of no class that all of it is
    marked.

    Raises:
        DataError: the split was not opened, or nobody can say which picture a lost object was in.
    """
    source, sheet = part.source, part.examined.sheet
    if not isinstance(source, IndexedSource):
        raise DataError("its classes or columns cannot be read; mend those first")
    doubtful, lost, known = set[int](), list[str](), _Whereabouts(sheet)
    for flaw in part.flaws:
        pictures = set() if flaw.fault in _NOTHING_LOST else known.images(flaw.place)
        if flaw.fault not in (*_NOTHING_LOST, *_WITHOUT_PICTURE) and not pictures:
            raise DataError(f"{_shown(flaw)}: nobody can say which picture that is of; mend it there")
        doubtful |= pictures
        lost.append(f"{_shown(flaw)}: {_done(flaw, bool(pictures))}")
    images, categories, annotations = _rows(source, sheet, doubtful)
    laid = Sheet(sheet.file, images, categories, annotations, folder=sheet.folder)
    examined = examine(laid, "headers", Findings(), box_aliases(part.config.aliases))
    return Transcript(replace(part, examined=examined), _as_coco(part, source), tuple(lost))


def _as_coco(part: Part, source: IndexedSource) -> DatasetConfig:
    split = {"images": str(source.images.resolve()), "annotations": "-"}
    return DatasetConfig.model_validate(as_coco(part.config, source, {part.split: split}))


def _shown(flaw: Flaw) -> str:
    file = shown_path(Path(flaw.place.file))
    return str(flaw.place._replace(file=file)) + (f".{flaw.field}" if flaw.field else "")


def _done(flaw: Flaw, doubtful: bool) -> str:
    if flaw.fault == "box-over-edge":
        return "clipped to the image"
    return "cannot be used: where its picture has no box, it is ignored" if doubtful else "left out"


class _Whereabouts:
    """Which images a record speaks of."""

    def __init__(self, sheet: Sheet) -> None:
        numbers = {record["id"]: k for k, record in enumerate(sheet.images.records)}
        self.at: dict[Place | None, int] = {}
        self.named: dict[str, set[int]] = {}
        for rows, key in ((sheet.images, "id"), (sheet.annotations, "image_id")):
            self.at |= {place: numbers[row[key]] for place, row in zip(rows.places, rows.records, strict=True)}
        for k, record in enumerate(sheet.images.records):
            self.named.setdefault(Path(record["file_name"]).stem, set()).add(k)

    def images(self, place: Place) -> set[int]:
        """The one read from there, or all those that the file is named after."""
        return {self.at[place]} if place in self.at else self.named.get(Path(place.file).stem, set())


def _rows(source: IndexedSource, sheet: Sheet, doubtful: set[int]) -> tuple[Rows, Rows, Rows]:
    """Images, categories and annotations as COCO has them."""
    words = source.vocabulary.boxes
    every = list(range(1, len(words) + 1))
    images: list[dict[str, Any]] = []
    numbers = {record["id"]: k + 1 for k, record in enumerate(sheet.images.records)}
    own = [words.index(word) + 1 for word in source.table.categories]
    annotations = [_annotation(source, record, numbers, own) for record in sheet.annotations.records]
    shown: dict[int, set[int]] = {}
    for record in annotations:
        shown.setdefault(record["image_id"], set()).add(record["category_id"])
    for k, image in enumerate(sheet.images.records):
        size = image.get("height", 1), image.get("width", 1)
        whole: dict[str, Any] = {**image, "id": k + 1, **said_of(source, source.annotations(k, size))}
        if k in doubtful:
            whole |= {"neg_category_ids": [], "not_exhaustive_category_ids": every}
        elif doubtful and "neg_category_ids" not in whole:  # where one image speaks of that, all have to
            absent = [ident for ident in every if ident not in shown.get(k + 1, ())]
            whole |= {"neg_category_ids": absent, "not_exhaustive_category_ids": []}
        images.append(whole)
    categories = [{"id": k, "name": word} for k, word in zip(every, words, strict=True)]
    return (
        replace(sheet.images, records=images),
        Rows("categories", categories, range(len(categories))),
        replace(sheet.annotations, records=annotations),
    )


def _annotation(
    source: IndexedSource, record: Mapping[str, Any], numbers: Mapping[str, int], own: Sequence[int]
) -> dict[str, Any]:
    """A box's record with its ids as the copy has them, its area and its identity."""
    row, box = record["id"], record["bbox"]
    identity = int(source.table.box_identities[row])
    ids = {"id": row + 1, "image_id": numbers[record["image_id"]], "category_id": own[record["category_id"]]}
    area = {"area": round(box[2] * box[3], 3)}
    return {**record, **ids, **area, **({"identity": source.table.identities[identity]} if identity >= 0 else {})}
