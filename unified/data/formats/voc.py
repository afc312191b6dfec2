# SPDX-License-Identifier: Apache-2.0
"""Pascal VOC's layout: one XML file a picture, and lists of the pictures of a split (Everingham et al. 2010)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Final, NamedTuple
from xml.etree import ElementTree

import numpy as np

from unified.contracts.config import SplitConfig
from unified.contracts.errors import DataError, suggestion
from unified.contracts.recognition import Recognised, splits_named
from unified.data.formats.flaw import Faults, Place
from unified.data.formats.indexed import IndexedSource
from unified.data.formats.listing import by_stem, names_in, pictures, walk
from unified.data.formats.store import Scan
from unified.data.formats.strings import Strings
from unified.data.formats.table import Boxes, Marks, Table
from unified.data.picture import contained, said

_LISTS: Final = "ImageSets/Main"
_LARGEST: Final = 16 << 20  # bytes of one XML file


class VocDataset(IndexedSource):
    """One split of a dataset in Pascal VOC's format: difficult objects are neither learned nor scored.

    A split's ``annotations`` is its list (``ImageSets/Main/train.txt``, names without endings, one a line) or the
    folder of XML files. Pixels count from 1 in VOC, and a box holds its last row and column: x0 = xmin - 1, x1 = xmax.

    Options: ``xml``, the folder of the XML files (Annotations); ``first_pixel``, 1, or 0 for tools that write the
    edges as they are; ``classes``, their order, by default alphabetical.
    """

    has_fields: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ("xml", "first_pixel", "classes")

    def scan(self, part: SplitConfig, images: Path, strict: bool) -> Scan:
        given = self.config.options
        folder, names = self._names(part)
        first = given.get("first_pixel", 1)
        if first not in (0, 1) or isinstance(first, bool):
            raise DataError(f"dataset '{self.name}': first_pixel must be 0 or 1, got {first!r}")
        names, files = self._files(names, folder)
        shown = pictures(images)
        reader = _Reader(images, shown, int(first), given.get("classes"), self.name, self.faults)
        settings: dict[str, Any] = {
            "format": "voc",
            "names": names,
            "pictures": shown,
            "first_pixel": first,
            "classes": given.get("classes"),
        }
        return Scan(files=files, settings=settings, build=lambda: reader.table(names, files))

    def _files(self, names: Sequence[str], folder: Path) -> tuple[list[str], tuple[Path, ...]]:
        """The names whose XML file is there, and these files."""
        there, files = [], []
        for name in names:
            with self.faults.going_on("file-name-hostile", Place(str(folder))):
                file = contained(f"{name}.xml", folder)
                if not file.is_file():
                    self.faults.tell("file-missing", Place(said(file)), "", "the annotation file is missing")
                    continue
                there.append(name)
                files.append(file)
        return there, tuple(files)

    def _names(self, part: SplitConfig) -> tuple[Path, list[str]]:
        """The folder of XML files, and the names of the split's pictures."""
        given = self.root / str(part.annotations)
        folder = given if given.is_dir() else self.root / str(self.config.options.get("xml", "Annotations"))
        if given.is_dir():
            names = sorted(name.removesuffix(".xml") for name in walk(given) if name.endswith(".xml"))
        else:
            names = [line.split()[0] for line in names_in(given)]  # lists of one class have a second column
        if not names:
            raise DataError(f"dataset '{self.name}': {given} names no annotation files")
        once = dict.fromkeys(names)
        if len(once) < len(names):
            for name in once:
                if (times := names.count(name)) > 1:
                    reason = f"names '{name}' {'twice' if times == 2 else f'{times} times'}"
                    self.faults.tell("listed-twice", Place(str(given)), "", reason)
        return folder, list(once)

    @classmethod
    def recognise(cls, path: Path) -> Recognised | None:
        if not path.is_dir() or not (path / "Annotations").is_dir() or not (path / "JPEGImages").is_dir():
            return None
        if not any(name.endswith(".xml") for name in walk(path / "Annotations")):
            return None
        lists = {p.stem: f"{_LISTS}/{p.name}" for p in sorted((path / _LISTS).glob("*.txt"))}
        found = {split: lists[name] for split, name in splits_named(lists).items()}
        parts = {split: {"images": "JPEGImages", "annotations": found[split]} for split in found}
        whole = {"train": {"images": "JPEGImages", "annotations": "Annotations"}}
        dataset = {"format": "voc", **(parts or whole), "tags": {"categories": True}}
        return Recognised("a Pascal VOC folder", path, dataset, ("boxes", "tags"))


class _Reader:
    """Reads XML files into one table."""

    def __init__(self, images: Path, shown: list[str], first: int, classes: Any, name: str, faults: Faults) -> None:
        self.images, self.first, self.faults = images, first, faults
        self.shown, self.of_stem = {*shown}, by_stem(shown, images, faults)
        if classes is not None and not (isinstance(classes, list | tuple) and all(isinstance(c, str) for c in classes)):
            raise DataError(f"dataset '{name}': option classes must be a list of names, got {classes!r}")
        self.classes: Sequence[str] | None = classes

    def table(self, names: Sequence[str], files: Sequence[Path]) -> Table:
        read = [(name, record) for name, path in zip(names, files, strict=True) if (record := self._record(path))]
        shown = {name: self._picture(name, record) for name, record in read}
        records = [record for name, record in read if shown[name]]
        names = [name for name in shown if shown[name]]
        words = self._words(records)
        boxes, place = Boxes(), {word: k for k, word in enumerate(words)}
        for k, record in enumerate(records):
            for found in record.objects:
                x0, y0, x1, y1 = found.corners
                box = (x0 - self.first, y0 - self.first, x1, y1)
                if found.name in place:
                    boxes.add(k, place[found.name], box, found.place, ignore=found.difficult)
        sizes = np.array([record.size for record in records], dtype=np.int32).reshape(-1, 2)
        columns, told = boxes.columns(sizes, faults=self.faults)
        for k, (name, record) in enumerate(zip(names, records, strict=True)):
            self.faults.placed(str(shown[name]), record.place, boxes.in_order[k] if boxes.in_order else ())
        if self.first == 1 and any(min(c[:2]) < 0 for c in boxes.corners):
            told.append("boxes begin at pixel 0, before VOC's first; if a tool wrote them so, set first_pixel: 0")
        return Table(
            files=Strings.of(str(shown[name]) for name in names),
            image_ids=Strings.of(names),
            sizes=sizes,
            image_identity=np.full(len(names), -1, dtype=np.int32),
            field_known=np.zeros((len(names), 0), dtype=np.bool_),
            tag_marks=Marks.none(len(names)),
            categories=words,
            category_ids=tuple((word, word) for word in words),
            warnings=tuple(told),
            **columns,
        )

    def _record(self, path: Path) -> _Record | None:
        """A file's record; None, and a fault, where it cannot be read at all."""
        try:
            return _Record(path, self.faults)
        except _UnreadableError as error:
            self.faults.tell("file-unreadable", Place(str(path)), "", str(error))
            return None

    def _words(self, records: Sequence[_Record]) -> tuple[str, ...]:
        objects = [found for record in records for found in record.objects]
        if self.classes is None:
            return tuple(sorted({found.name for found in objects}))
        for found in objects:
            if found.name not in self.classes:
                reason = f"class '{found.name}' is unknown{suggestion(found.name, self.classes)}"
                self.faults.tell("class-unknown", found.place, "name", reason)
        return tuple(self.classes)

    def _picture(self, name: str, record: _Record) -> str | None:
        """The picture that the record names, or the one of its own name: tools often leave another's path there."""
        told = PurePosixPath(record.filename.replace("\\", "/")).name
        inside = str(PurePosixPath(name).parent / told)
        if name in self.of_stem:
            return self.of_stem[name]
        if inside in self.shown:
            return inside
        reason = f"no picture '{told or name}' in {self.images}"
        self.faults.tell("picture-missing", record.place, "filename", reason)
        return None


class _UnreadableError(Exception):
    """The file is no annotation file, and why."""


class _Object(NamedTuple):
    name: str
    corners: tuple[float, float, float, float]
    difficult: bool
    place: Place


class _Record:
    """One XML file: ``size`` (height, width; -1 unknown), ``filename``, and objects."""

    def __init__(self, path: Path, faults: Faults) -> None:
        self.place, self.faults = Place(str(path)), faults
        root = _parsed(path)
        self.filename = (root.findtext("filename") or "").strip()
        size = root.find("size")
        sides = [] if size is None else [self._number(size, key, self.place) for key in ("height", "width")]
        self.size = (int(sides[0]), int(sides[1])) if sides and min(s or 0 for s in sides) > 0 else (-1, -1)  # type: ignore[arg-type]
        found = (self._object(k, each) for k, each in enumerate(root.findall("object")))
        self.objects = [each for each in found if each is not None]

    def _object(self, k: int, found: ElementTree.Element) -> _Object | None:
        place = Place(self.place.file, f"object {k + 1}")
        name, box = (found.findtext("name") or "").strip(), found.find("bndbox")
        for tag, there in (("name", name != ""), ("bndbox", box is not None)):
            if not there:
                self.faults.tell("record-malformed", place, tag, "is missing")
        corners = [None if box is None else self._number(box, key, place) for key in ("xmin", "ymin", "xmax", "ymax")]
        x0, y0, x1, y1 = corners
        if not name or x0 is None or y0 is None or x1 is None or y1 is None:
            return None
        difficult = (found.findtext("difficult") or "0").strip() in ("1", "true", "True")
        return _Object(name, (x0, y0, x1, y1), difficult, place)

    def _number(self, parent: ElementTree.Element, key: str, place: Place) -> float | None:
        text = (parent.findtext(key) or "").strip()
        try:
            value = float(text)
        except ValueError:
            reason = f"<{parent.tag}> needs a number <{key}>, got {text[:40]!r}"
            self.faults.tell("record-malformed", place, f"{parent.tag}.{key}", reason)
            return None
        return value if abs(value) < 1e9 else math.nan


def _parsed(path: Path) -> ElementTree.Element:
    try:
        data = path.read_bytes()
        if len(data) > _LARGEST or b"<!DOCTYPE" in data or b"<!ENTITY" in data:
            raise _UnreadableError("is no annotation file: over 16 MB, or it declares entities")
        root = ElementTree.fromstring(data)
    except OSError as error:
        raise _UnreadableError(f"cannot be read: {error.strerror or error}") from error
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise _UnreadableError(f"is not XML: {error}") from error
    if root.tag != "annotation":
        raise _UnreadableError(f"expected <annotation>, got <{root.tag[:40]}>")
    return root
