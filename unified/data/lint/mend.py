# SPDX-License-Identifier: Apache-2.0
"""A repaired copy of one file's records. The records that were read are left as they are; every change is told."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, Final

import numpy as np

from unified.data.lint.annotations import other_type, outline_fault
from unified.data.lint.boxes import EDGE, is_ignored, number, read_box
from unified.data.lint.finding import shown
from unified.data.lint.images import is_side
from unified.data.lint.mend_beside import mend_beside
from unified.data.lint.part import Examined
from unified.data.lint.sheet import is_id

Id = int | str
_ALIKE: Final = 0.01  # by which proportions may differ where a picture was scaled after it was labelled


class Mender:
    """Makes a repaired document of one examined file.

    Args:
        examined: the file.
        rename: the name to use for each class that is to have another.
        allowed: names of classes that may stand in this file; None: any.
    """

    def __init__(self, examined: Examined, rename: Mapping[str, str], allowed: Set[str] | None = None) -> None:
        self.examined, self.sheet = examined, examined.sheet
        self.rename, self.allowed = rename, allowed
        self.changes: list[str] = []
        self.image_of: dict[Id, Id] = {}  # every id that annotations may use, and the one that is kept
        self.category_of: dict[Id, Id] = {}
        self.size: dict[Id, tuple[float, float]] = {}
        self._row: dict[Id, int] = {}
        self.scale: dict[Id, tuple[float, float]] = {}

    def document(self) -> dict[str, Any]:
        """The repaired document. ``changes`` then holds a line for everything that differs."""
        images, categories = self._images(), self._categories()
        annotations = self._annotations()
        rest = {k: v for k, v in self.sheet.document.items() if k not in ("images", "categories", "annotations")}
        return {**rest, "images": images, "categories": categories, "annotations": annotations}

    def _tell(self, place: str, what: str) -> None:
        self.changes.append(f"{self.sheet.file}: {place}: {what}")

    def _lost(self, place: str, what: str) -> dict[str, Any] | None:
        """Tells of a record that is left out."""
        self._tell(place, what)
        return None

    def _images(self) -> list[dict[str, Any]]:
        rows, kept = self.sheet.images, []
        first_of: dict[str, Id] = {}
        clashing = self._clashing()
        for k, record in enumerate(rows.records):
            ident, name = record.get("id"), self.examined.images.names[k]
            if not is_id(ident) or not name:
                self._tell(rows.at(k), "left out: its id or its file name cannot be used")
            elif ident in clashing:
                self._tell(rows.at(k), f"left out: several pictures have the id {shown(ident)}")
            elif ident in self.image_of:
                self._tell(rows.at(k), "left out: listed twice")
            elif name in first_of:
                self.image_of[ident] = first_of[name]  # type: ignore[index]
                self._tell(rows.at(k), f"joined with image {shown(first_of[name])}, which is the same file")
            elif (sized := self._sized(k, dict(record))) is not None:
                self.image_of[ident] = first_of[name] = ident  # type: ignore[assignment,index]
                kept.append(sized)
        return kept

    def _clashing(self) -> set[Id]:
        """Ids of several pictures: nobody can say which of them an annotation means."""
        names: dict[Id, set[str]] = {}
        for record, name in zip(self.sheet.images.records, self.examined.images.names, strict=True):
            if is_id(record.get("id")):
                names.setdefault(record["id"], set()).add(name)
        return {ident for ident, found in names.items() if len(found) > 1}

    def _sized(self, k: int, record: dict[str, Any]) -> dict[str, Any] | None:
        """The image with the size of its picture; None where the picture cannot be used."""
        told, own = self.examined.images.sizes[k], self.examined.sizes[k]
        place, ident = self.sheet.images.at(k), record["id"]
        if np.isnan(own).any():
            if self.sheet.folder is not None:
                return self._lost(place, "left out: its picture is missing or damaged")
            if np.isnan(told).any():
                return self._lost(place, "left out: nothing tells its size")
            own = told
        width, height = (float(side) for side in own)
        self.size[ident], self._row[ident] = (width, height), k
        if not np.isnan(told).any() and np.abs(told - own).max() > 1:
            x, y = width / float(told[0]), height / float(told[1])
            if abs(x / y - 1) > _ALIKE:
                return self._lost(place, f"left out: labelled at {told[0]:g} x {told[1]:g}, not {width:g} x {height:g}")
            self.scale[ident] = x, y
            self._tell(place, f"size and boxes scaled from {told[0]:g} x {told[1]:g} to {width:g} x {height:g}")
        elif not (is_side(record.get("width")) and is_side(record.get("height"))):
            self._tell(place, f"size written: {width:g} x {height:g}")
        elif ident not in self.scale and np.abs(told - own).max() <= 1:
            self.size[ident] = float(told[0]), float(told[1])
            return record
        return {**record, "width": int(width), "height": int(height)}

    def _categories(self) -> list[dict[str, Any]]:
        rows, kept = self.sheet.categories, []
        first: dict[str, Id] = {}
        known, names = self.examined.classes.index, self.examined.classes.names
        for k, record in enumerate(rows.records):
            ident, given = record.get("id"), record.get("name")
            text = given.strip() if isinstance(given, str) else str(given)
            name = self.rename.get(text, text)
            if not is_id(ident) or (ident not in known and not self._same_again(k)):
                self._tell(rows.at(k), "left out: its id or its name cannot be used")
            elif ident in self.category_of:
                self._tell(rows.at(k), "left out: listed twice")
            elif text not in names:
                self._tell(rows.at(k), "left out: it has no name")
            elif self.allowed is not None and name not in self.allowed:
                self._tell(rows.at(k), f"left out with its annotations: train has no class {shown(name)}")
            elif name in first:
                self.category_of[ident] = first[name]  # type: ignore[index]
                self._tell(rows.at(k), f"joined with category {shown(first[name])}, {shown(name)}")
            else:
                self.category_of[ident] = first[name] = ident  # type: ignore[assignment,index]
                if name != given:
                    self._tell(rows.at(k), f"renamed from {shown(given)} to {shown(name)}")
                kept.append({**record, "name": name})
        return kept

    def _same_again(self, k: int) -> bool:
        """Whether all records with this one's id have one name."""
        mine = self.sheet.categories.records[k]
        return (
            len({str(r.get("name")).strip() for r in self.sheet.categories.records if r.get("id") == mine["id"]}) == 1
        )

    def _annotations(self) -> list[dict[str, Any]]:
        rows, kept = self.sheet.annotations, []
        used: set[Id] = set()
        boxes: set[tuple[Any, ...]] = set()
        fresh = 1 + max((i for r in rows.records if type(i := r.get("id")) is int and abs(i) < 2**62), default=0)
        for k, given in enumerate(rows.records):
            record = self._pointed(k, dict(given))
            record = record and self._boxed(k, record)
            if record is None or not mend_beside(record, lambda what, k=k: self._tell(rows.at(k), what)):  # type: ignore[misc]
                continue
            ident = record.get("id")
            if not is_id(ident) or ident in used:
                record["id"] = fresh
                fresh += 1
                self._tell(rows.at(k), f"numbered {record['id']}")
            key = record["image_id"], record["category_id"], *record["bbox"]
            if key in boxes:
                self._tell(rows.at(k), "left out: the same box of the same class stands before")
                continue
            boxes |= {key} if not is_ignored(record) else set()
            used.add(record["id"])
            kept.append(record)
        return kept

    def _pointed(self, k: int, record: dict[str, Any]) -> dict[str, Any] | None:
        """The record with the ids of its image and category as they are kept."""
        for key, known in (("image_id", self.image_of), ("category_id", self.category_of)):
            ident = record.get(key)
            found = known.get(ident, known.get(other_type(ident))) if is_id(ident) else None  # type: ignore[arg-type]
            if found is None:
                return self._lost(self.sheet.annotations.at(k), f"left out: its {key} {shown(ident)} leads nowhere")
            if type(found) is not type(ident) or found != ident:
                self._tell(self.sheet.annotations.at(k), f"{key} {shown(ident)} becomes {shown(found)}")
                record[key] = found
        return record

    def _boxed(self, k: int, record: dict[str, Any]) -> dict[str, Any] | None:
        """The record with a box inside its image; None where there is nothing to see."""
        place, ident = self.sheet.annotations.at(k), record["image_id"]
        width, height = self.size[ident]
        box = self._numbers(place, record)
        if box is None:
            self._tell(
                place, "made a region to ignore: its box cannot be read, so the object is somewhere in the image"
            )
            gone = {key: value for key, value in record.items() if key not in ("segmentation", "keypoints", "area")}
            return {**gone, "bbox": [0, 0, width, height], "iscrowd": 1}
        if self.examined.boxes.corners:
            box = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            self._tell(place, "box taken for corners")
        if min(box[2:]) < 0:
            box, how = _upright(box, *self.examined.images.sizes[self._row[ident]])
            self._tell(place, how)
        if ident in self.scale:
            box = [value * self.scale[ident][j % 2] for j, value in enumerate(box)]
            record = {key: value for key, value in record.items() if key not in ("segmentation", "keypoints", "area")}
        inside = _clipped(box, width, height)
        if inside is None:
            return self._lost(place, "left out: nothing of its box is inside the image")
        if max(abs(a - b) for a, b in zip(inside, box, strict=True)) > 1:
            self._tell(place, f"clipped to [{', '.join(f'{x:.6g}' for x in inside)}]")
            box = inside
        return {**record, "bbox": box} if box != record.get("bbox") else record

    def _numbers(self, place: str, record: dict[str, Any]) -> list[float] | None:
        found, fault, _ = read_box(record)
        if found is not None:
            return record["bbox"]  # type: ignore[no-any-return]
        if fault == "box-text" and None not in (read := [number(x) for x in record["bbox"]]):
            self._tell(place, "texts of the box written as numbers")
            return read  # type: ignore[return-value]
        outline = record.get("segmentation")
        if fault == "box-missing" and isinstance(outline, list) and outline and not outline_fault(outline):
            xs = [x for polygon in outline for x in polygon[::2]]
            ys = [y for polygon in outline for y in polygon[1::2]]
            self._tell(place, "box written from the outline")
            return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        return None


def _upright(box: list[float], width: float, height: float) -> tuple[list[float], str]:
    """A box with negative sides as the corners it means, or as the sides it means where only these fit the image."""
    sides = [abs(side) for side in box[2:]]
    turned = [min(box[j], box[j] + box[j + 2]) for j in (0, 1)] + sides
    unsigned = [*box[:2], *sides]
    if not _inside(turned, width, height) and _inside(unsigned, width, height):
        return unsigned, "signs of its sides left out"
    return turned, "corners turned round"


def _inside(box: list[float], width: float, height: float) -> bool:
    return min(box[:2]) >= -EDGE and box[0] + box[2] <= width + EDGE and box[1] + box[3] <= height + EDGE


def _clipped(box: list[float], width: float, height: float) -> list[float] | None:
    x, y = max(box[0], 0), max(box[1], 0)
    right, bottom = min(box[0] + box[2], width), min(box[1] + box[3], height)
    return [x, y, right - x, bottom - y] if right > x and bottom > y else None
