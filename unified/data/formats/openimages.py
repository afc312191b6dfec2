# SPDX-License-Identifier: Apache-2.0
"""Open Images' files: normalised boxes, groups, and labels of whole images that a person verified (Kuznetsova 2020).

Boxes of a class are complete only in images where a person verified that class. So the verified labels narrow what an
image says: a class verified to be absent is NEGATIVE, one verified to be there and not boxed is IGNORE, one that nobody
verified is UNLABELLED.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

import numpy as np

from unified.contracts.config import SplitConfig
from unified.contracts.errors import DataError
from unified.contracts.recognition import Recognised, splits_named
from unified.contracts.structures import LabelState
from unified.data.formats.columns import Columns, peek_columns, read_columns
from unified.data.formats.flaw import Faults, Place
from unified.data.formats.indexed import IndexedSource
from unified.data.formats.listing import by_stem, pictures
from unified.data.formats.store import Scan
from unified.data.formats.strings import Strings
from unified.data.formats.table import Boxes, Marks, Table

_CORNERS: Final = ("XMin", "YMin", "XMax", "YMax")
_COLUMNS: Final = {
    "boxes": ("ImageID", "LabelName", *_CORNERS),
    "labels": ("ImageID", "LabelName", "Confidence"),
}
_UNVERIFIED: Final = "machine"  # in the column Source: nobody looked


class OpenImagesDataset(IndexedSource):
    """One split in Open Images' format: ``annotations`` the boxes, ``labels`` the verified labels of whole images.

    Images are the pictures of the split's folder that the files speak of. Groups (IsGroupOf) are crowds. The verified
    labels are the images' tags as well. Option ``classes``: the file with the classes' names, by which they are told.
    """

    has_fields: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ("classes",)

    def scan(self, part: SplitConfig, images: Path, strict: bool) -> Scan:
        classes = self.config.options.get("classes")
        paths = {"boxes": part.annotations, "labels": part.labels, "classes": classes}
        files = {kind: self.root / str(name) for kind, name in paths.items() if name}
        for file in files.values():
            if not file.is_file():
                raise DataError(f"dataset '{self.name}': annotation file {file} is missing")
        if self.config.tags.categories:
            raise DataError(f"dataset '{self.name}': its tags are the verified labels; leave out tags: categories")
        shown = pictures(images)
        settings = {"format": "openimages", "pictures": shown, "kinds": sorted(files)}
        return Scan(tuple(files.values()), settings, lambda: _Reader(files, shown, images, self.faults).table())

    @classmethod
    def recognise(cls, path: Path) -> Recognised | None:
        folder = path if path.is_dir() else path.parent
        if path.is_file() and path.suffix.lower() != ".csv":
            return None
        heads = {p.name: peek_columns(p) for p in sorted(folder.glob("*.csv"))}
        if path.is_file() and "ImageID" not in heads.get(path.name, {}):
            return None
        boxes = {name for name, head in heads.items() if {"ImageID", "LabelName", *_CORNERS} <= {*head}}
        labels = {name for name, head in heads.items() if {"ImageID", "LabelName", "Confidence"} <= {*head}} - boxes
        if not boxes:
            return None
        named = next((name for name in heads if "class" in name.lower() and name not in boxes | labels), None)
        parts = {s: _split(s, name, labels, folder) for s, name in _by_split(boxes).items()}
        dataset = {"format": "openimages", **parts, "options": {"classes": named} if named else {}}
        tables = ("boxes", "tags") if all("labels" in part for part in parts.values()) else ("boxes",)
        return Recognised("Open Images files", folder, dataset, tables, 2)


def _by_split(names: set[str]) -> dict[str, str]:
    tokens = {token: name for name in sorted(names) for token in name.lower().replace(".", "-").split("-")}
    found = {split: tokens[token] for split, token in splits_named(tokens).items()}
    return found or {"train": min(names)}


def _split(split: str, boxes: str, labels: set[str], folder: Path) -> dict[str, str]:
    children = splits_named(child.name for child in folder.iterdir() if child.is_dir())
    images = children.get(split) or next((n for n in ("images",) if (folder / n).is_dir()), ".")
    verified = _by_split(labels).get(split) if labels else None
    return {"images": images, "annotations": boxes} | ({"labels": verified} if verified else {})


class _Reader:
    """Reads one split's files into a table."""

    def __init__(self, files: Mapping[str, Path], shown: list[str], images: Path, faults: Faults) -> None:
        self.files, self.folder, self.faults = files, images, faults
        read = {kind: read_columns(files[kind], faults) for kind in ("boxes", "labels") if kind in files}
        self.columns = {kind: columns for kind, (columns, _) in read.items() if self._is_whole(kind, columns)}
        self.numbers = {kind: numbers for kind, (_, numbers) in read.items()}
        self.names: dict[str, str] = {}
        if "classes" in files:
            with faults.going_on("file-unreadable", Place(str(files["classes"]))):
                self.names = _class_names(files["classes"])
        stems = by_stem(shown, images, faults)
        said = {ident for columns in self.columns.values() for ident in columns["ImageID"]}
        found = {Path(stem).name: file for stem, file in stems.items()}
        self.images = {ident: found[ident] for ident in sorted(said) if ident in found}
        self.absent = len(said) - len(self.images)
        if not self.images and len(self.columns) == len(read):
            raise DataError(f"none of the {len(said)} images of {files['boxes']} is in {images} (IMAGEID.jpg)")

    def _is_whole(self, kind: str, columns: Columns) -> bool:
        lost = [name for name in _COLUMNS[kind] if name not in columns]
        for name in lost:
            reason = f"no column '{name}'; known: {', '.join(columns)}"
            self.faults.tell("column-missing", Place(str(self.files[kind])), "", reason)
        return not lost

    def _place(self, kind: str, row: int) -> Place:
        return Place(str(self.files[kind]), f"row {self.numbers[kind][row]}")

    def table(self) -> Table:
        index = {ident: k for k, ident in enumerate(self.images)}
        told = [f"{self.absent} images of the files are not in {self.folder}"] if self.absent else []
        labels: Sequence[str] = self.columns.get("boxes", {}).get("LabelName", ())
        idents = sorted({*labels}, key=lambda ident: (self._name(ident), ident))
        idents += sorted((k for k in self.names if k not in {*labels}), key=self._name) if self.names else []
        names = tuple(dict.fromkeys(map(self._name, idents)))
        boxes = self._boxes(index, {ident: names.index(self._name(ident)) for ident in idents})
        sizes = np.full((len(index), 2), -1, dtype=np.int32)
        columns, lost = boxes.columns(sizes, scaled=True, faults=self.faults)
        for k, file in enumerate(self.images.values() if boxes.in_order else ()):
            self.faults.placed(file, Place(str(self.folder / file)), boxes.in_order[k])
        verified, unsure = self._verified(index)
        told += [f"{unsure} labels that only a machine gave are left out"] if unsure else []
        tags = tuple(sorted({word for row in verified for word in row}))
        return Table(
            files=Strings.of(self.images.values()),
            image_ids=Strings.of(self.images),
            sizes=sizes,
            image_identity=np.full(len(index), -1, dtype=np.int32),
            field_known=np.zeros((len(index), 0), dtype=np.bool_),
            tags=tags,
            tag_marks=_tag_marks(verified, tags),
            categories=names,
            category_ids=tuple((ident, self._name(ident)) for ident in idents),
            class_marks=_class_marks(verified, names) if "labels" in self.files else None,
            warnings=(*told, *lost),
            **columns,
        )

    def _name(self, ident: str) -> str:
        return self.names.get(ident, ident)

    def _boxes(self, index: Mapping[str, int], place: Mapping[str, int]) -> Boxes:
        boxes, columns = Boxes(), self.columns.get("boxes")
        if columns is None:
            return boxes
        groups: Sequence[str] = columns.get("IsGroupOf", ["0"] * len(columns["ImageID"]))
        for row, (image, label) in enumerate(zip(columns["ImageID"], columns["LabelName"], strict=True)):
            if image not in index:
                continue
            where = self._place("boxes", row)
            found = [self._share(columns[name][row], where, name) for name in _CORNERS]
            x0, y0, x1, y1 = found
            if x0 is None or y0 is None or x1 is None or y1 is None:
                continue
            boxes.add(index[image], place[label], (x0, y0, x1, y1), where, crowd=groups[row] == "1")
        return boxes

    def _verified(self, index: Mapping[str, int]) -> tuple[list[dict[str, int]], int]:
        """Per image, class name -> state; and how many labels nobody verified."""
        rows: list[dict[str, int]] = [{} for _ in index]
        columns, unsure = self.columns.get("labels"), 0
        if columns is None:
            return rows, 0
        images, labels, sure = (columns[name] for name in _COLUMNS["labels"])
        sources: Sequence[str] = columns.get("Source", [""] * len(images))
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            if image not in index:
                continue
            value = self._share(sure[row], self._place("labels", row), "Confidence")
            if value is None:
                continue
            if value not in (0.0, 1.0) or sources[row] == _UNVERIFIED:
                unsure += 1
                continue
            state = int(LabelState.POSITIVE if value else LabelState.NEGATIVE)
            said = rows[index[image]].setdefault(self._name(label), state)
            if said != state:
                rows[index[image]][self._name(label)] = int(LabelState.IGNORE)
        return rows, unsure

    def _share(self, text: str, place: Place, column: str) -> float | None:
        try:
            value = float(text)
        except ValueError:
            value = math.inf
        if value <= 1.05 or math.isnan(value):
            return value
        shown = repr(text[:40]) if math.isinf(value) else f"{value:g}"
        self.faults.tell("record-malformed", place, column, f"expected a number from 0 to 1, got {shown}")
        return None


def _class_names(path: Path) -> dict[str, str]:
    """Names by id, of a file with or without a header."""
    columns = list(read_columns(path)[0].items())
    if len(columns) < 2:
        raise DataError(f"{path}: expected two columns, a class's id and its name")
    rows = [(columns[0][0], columns[1][0]), *zip(columns[0][1], columns[1][1], strict=True)]
    return {ident: name.strip() for ident, name in rows if (ident, name) != ("LabelName", "DisplayName")}


def _tag_marks(verified: Sequence[Mapping[str, int]], tags: Sequence[str]) -> Marks:
    place = {word: k for k, word in enumerate(tags)}
    return Marks.of({place[word]: state for word, state in row.items()} for row in verified)


def _class_marks(verified: Sequence[Mapping[str, int]], names: Sequence[str]) -> Marks:
    """Verified to be absent: looked for. Anything else than absent, and not boxed: nobody can say where it is."""
    place = {word: k for k, word in enumerate(names)}
    return Marks.of({place[word]: state for word, state in row.items() if word in place} for row in verified)
