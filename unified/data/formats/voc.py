# SPDX-License-Identifier: Apache-2.0
"""Pascal VOC's layout: one XML file a picture, and lists of the pictures of a split (Everingham et al. 2010)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Final
from xml.etree import ElementTree

import numpy as np

from unified.contracts.config import SplitConfig
from unified.contracts.errors import DataError, suggestion
from unified.contracts.recognition import Recognised, splits_named
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
        files = tuple(contained(f"{name}.xml", folder) for name in names)
        for file in files:
            if not file.is_file():
                raise DataError(f"dataset '{self.name}': annotation file {said(file)} is missing")
        shown = pictures(images)
        reader = _Reader(images, shown, int(first), given.get("classes"), self.name)
        settings: dict[str, Any] = {
            "format": "voc",
            "names": names,
            "pictures": shown,
            "first_pixel": first,
            "classes": given.get("classes"),
        }
        return Scan(files=files, settings=settings, build=lambda: reader.table(names, files))

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
        if len({*names}) < len(names):
            twice = next(name for k, name in enumerate(names) if name in names[:k])
            raise DataError(f"dataset '{self.name}': {given} names '{twice}' twice")
        return folder, names

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

    def __init__(self, images: Path, shown: list[str], first: int, classes: Any, name: str) -> None:
        self.images, self.first, self.name = images, first, name
        self.shown, self.of_stem = {*shown}, by_stem(shown, images)
        if classes is not None and not (isinstance(classes, list | tuple) and all(isinstance(c, str) for c in classes)):
            raise DataError(f"dataset '{name}': option classes must be a list of names, got {classes!r}")
        self.classes: Sequence[str] | None = classes

    def table(self, names: Sequence[str], files: Sequence[Path]) -> Table:
        records = [_Record(path) for path in files]
        words = self._words(records)
        boxes, place = Boxes(), {word: k for k, word in enumerate(words)}
        for k, record in enumerate(records):
            for what, corners, difficult in record.objects:
                box = (corners[0] - self.first, corners[1] - self.first, *corners[2:])
                boxes.add(k, place[what], box, record.where, ignore=difficult)
        sizes = np.array([record.size for record in records], dtype=np.int32).reshape(-1, 2)
        columns, told = boxes.columns(sizes)
        if self.first == 1 and any(min(c[:2]) < 0 for c in boxes.corners):
            told.append("boxes begin at pixel 0, before VOC's first; if a tool wrote them so, set first_pixel: 0")
        return Table(
            files=Strings.of(self._picture(name, record) for name, record in zip(names, records, strict=True)),
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

    def _words(self, records: Sequence[_Record]) -> tuple[str, ...]:
        found = {what: record for record in reversed(records) for what, _, _ in record.objects}
        if self.classes is None:
            return tuple(sorted(found))
        for what, record in found.items():
            if what not in self.classes:
                raise DataError(f"{record.where}: class '{what}' is unknown{suggestion(what, self.classes)}")
        return tuple(self.classes)

    def _picture(self, name: str, record: _Record) -> str:
        """The picture that the record names, or the one of its own name: tools often leave another's path there."""
        told = PurePosixPath(record.filename.replace("\\", "/")).name
        inside = str(PurePosixPath(name).parent / told)
        if name in self.of_stem:
            return self.of_stem[name]
        if inside in self.shown:
            return inside
        raise DataError(f"dataset '{self.name}': {record.where}: no picture '{told or name}' in {self.images}")


class _Record:
    """One XML file: ``size`` (height, width; -1 unknown), ``filename``, and objects (class, corners, difficult)."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        root = self._parsed(path)
        self.filename = (root.findtext("filename") or "").strip()
        size = root.find("size")
        sides = [] if size is None else [self._number(size, key) for key in ("height", "width")]
        self.size = (int(sides[0]), int(sides[1])) if sides and min(sides) > 0 else (-1, -1)
        self.objects = [self._object(k, found) for k, found in enumerate(root.findall("object"))]

    def _parsed(self, path: Path) -> ElementTree.Element:
        try:
            data = path.read_bytes()
            if len(data) > _LARGEST or b"<!DOCTYPE" in data or b"<!ENTITY" in data:
                raise DataError(f"{path} is no annotation file: over 16 MB, or it declares entities")
            root = ElementTree.fromstring(data)
        except OSError as error:
            raise DataError(f"file {path} cannot be read: {error.strerror or error}") from error
        except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
            raise DataError(f"{path} is not XML: {error}") from error
        if root.tag != "annotation":
            raise DataError(f"{path}: expected <annotation>, got <{root.tag[:40]}>")
        return root

    def _object(self, k: int, found: ElementTree.Element) -> tuple[str, tuple[float, float, float, float], bool]:
        name, box = (found.findtext("name") or "").strip(), found.find("bndbox")
        if not name or box is None:
            raise DataError(f"{self.where}: object {k + 1} has no <{'bndbox' if name else 'name'}>")
        x0, y0, x1, y1 = (self._number(box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
        return name, (x0, y0, x1, y1), (found.findtext("difficult") or "0").strip() in ("1", "true", "True")

    def _number(self, parent: ElementTree.Element, key: str) -> float:
        text = (parent.findtext(key) or "").strip()
        try:
            value = float(text)
        except ValueError:
            raise DataError(f"{self.where}: <{parent.tag}> needs a number <{key}>, got {text[:40]!r}") from None
        return value if abs(value) < 1e9 else math.nan
