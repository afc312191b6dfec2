# SPDX-License-Identifier: Apache-2.0
"""CSV and Parquet files: a row an image, or a row a box, with columns for tags, identities and corners."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from unified.contracts.config import SplitConfig
from unified.contracts.errors import DataError, suggestion
from unified.contracts.recognition import Recognised, partners
from unified.data.formats.columns import Columns, peek_columns, read_columns
from unified.data.formats.flaw import Faults, Place
from unified.data.formats.indexed import IndexedSource
from unified.data.formats.record import said_of
from unified.data.formats.store import Scan
from unified.data.formats.strings import Strings
from unified.data.formats.table import Boxes, Said, Table, field_tags, listed, numbered

_IMAGE: Final = ("image", "file_name", "filename", "file", "path", "image_path", "filepath", "img")
_LABEL: Final = ("label", "class", "category", "class_name", "name")
_TAGS: Final = ("tags", "tag", "labels", "attributes")
_CORNERS: Final = (("xmin", "ymin", "xmax", "ymax"), ("x_min", "y_min", "x_max", "y_max"), ("x1", "y1", "x2", "y2"))
_EXTENTS: Final = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
_YES_NO: Final = {"0": False, "1": True, "0.0": False, "1.0": True, "true": True, "false": False}
_SPLIT_WORDS: Final = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test", "dev")}


class SheetDataset(IndexedSource):
    """One split of a dataset in a CSV or Parquet file, its ``annotations``.

    ``tags: {fields: [COLUMN, ...]}``: a cell holds tags between ``|``, or a JSON list; an empty cell says nothing of
    the column, ``[]`` says that none applies. A column of yes and no (1, 0, true, false) is one tag, of its own name.
    ``identity`` names columns. Boxes are in columns xmin, ymin, xmax, ymax (or x, y, width, height) beside label; a row
    without numbers there is an image without a box.

    Options: ``image``, ``label``, ``split``: names of these columns, the last one saying which rows are of the split;
    ``separator`` of tags; ``normalised: true`` for boxes in shares of the picture.
    """

    options: ClassVar[tuple[str, ...]] = ("image", "label", "split", "separator", "normalised")

    def scan(self, part: SplitConfig, images: Path, strict: bool) -> Scan:
        path = self.root / str(part.annotations)
        if not path.is_file():
            raise DataError(f"dataset '{self.name}': annotation file {path} is missing")
        config, given = self.config, dict(self.config.options)
        side = "train" if part is config.train else "val"
        identity = (config.identity.boxes, None if config.identity.image == "views" else config.identity.image)
        settings: dict[str, Any] = {"format": "csv", "options": given, "fields": config.tags.fields}
        settings |= {"identity": identity, "side": side, "suffix": path.suffix}
        fields = config.tags.fields
        return Scan((path,), settings, lambda: _Sheet(path, given, fields, identity, side, self.faults).table())

    @classmethod
    def recognise(cls, path: Path) -> Recognised | None:
        file = path
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in (".csv", ".parquet"))
            named = [p for p in found if "train" in p.stem.lower()] or (found if len(found) == 1 else [])
            if len(named) != 1:
                return None
            file = named[0]
        if file.suffix.lower() not in (".csv", ".parquet") or not file.is_file():
            return None
        columns = peek_columns(file)
        image = _first(columns, _IMAGE)
        if image is None or "ImageID" in columns:
            return None
        return _recognised(file, columns, image, exact=path.is_file())


def _recognised(file: Path, columns: Columns, image: str, exact: bool) -> Recognised | None:
    box, label = _box_columns(columns), _first(columns, _LABEL)
    fields = [c for c in columns if c in _TAGS or (c == label and not box) or _is_yes_no(columns[c])]
    identity = next((c for c in columns if c.lower() in ("identity", "who", "person_id")), None)
    tables = (
        (("boxes",) if box and label else ()) + (("tags",) if fields else ()) + (("identities",) if identity else ())
    )
    if not tables:
        return None
    first = next((str(v) for v in columns[image] if v), "")
    folders = [".", "images", "train", "img"]
    images = next((folder for folder in folders if (file.parent / folder / first).is_file()), ".")
    present = {"categories": True} if box and label else {}
    dataset: dict[str, Any] = {"format": "csv", "tags": {"fields": fields, **present}}
    if identity:
        dataset["identity"] = {"boxes" if box else "image": identity}
    split = next((c for c in columns if c.lower() in ("split", "subset", "set")), None)
    if split is not None:
        both = {"images": images, "annotations": file.name}
        dataset |= {"train": both, "val": dict(both), "options": {"split": split}}
        return Recognised("a table with a split column", file.parent, dataset, tables)
    parts = {s: {"images": images, "annotations": name} for s, name in partners(file).items()}
    exactly = {"images": images, "annotations": file.name} if exact else None
    return Recognised("a table of images", file.parent, {**dataset, **parts}, tables, exactly=exactly)


def _first(columns: Mapping[str, Any], choices: Sequence[str]) -> str | None:
    """The first of the usual names that a column has, whatever its case."""
    lower = {column.lower(): column for column in columns}
    return next((lower[choice] for choice in choices if choice in lower), None)


def _box_columns(columns: Mapping[str, Any]) -> tuple[list[str], bool] | None:
    """Names of the four columns, and whether the last two are extents, not corners."""
    lower = {column.lower(): column for column in columns}
    for group, extents in ((_CORNERS, False), (_EXTENTS, True)):
        for names in group:
            if all(name in lower for name in names):
                return [lower[name] for name in names], extents
    return None


def _is_yes_no(values: Sequence[Any]) -> bool:
    shown = {str(v).strip().lower() for v in values if v is not None and str(v).strip()}
    return bool(shown) and shown <= {*_YES_NO}


class _Sheet:
    """The rows of one file on their way to a table."""

    def __init__(
        self,
        path: Path,
        options: Mapping[str, Any],
        fields: Sequence[str],
        identity: tuple[str | None, str | None],
        side: str,
        faults: Faults,
    ) -> None:
        self.path, self.options, self.fields, self.faults = path, options, tuple(fields), faults
        self.columns, self.numbers = read_columns(path, faults)
        self.label = self._column("label", _LABEL)
        self.box_identity, self.image_identity = (self._named(name) for name in identity)
        self.tags = [self._named(field) for field in self.fields]
        split, image = self._named(options.get("split")), self._column("image", _IMAGE)
        if image is None:
            known = f"known: {', '.join(self.columns)}; set options: {{image: COLUMN}}"
            raise DataError(f"{path}: no column names the pictures; {known}")
        self.image = image
        self.rows = self._rows(side, split)

    def _column(self, option: str, usual: Sequence[str]) -> str | None:
        given = self.options.get(option)
        return self._named(given) if given is not None else _first(self.columns, usual)

    def _named(self, name: str | None) -> str | None:
        if name is None or name in self.columns or name == "category":
            return name
        reason = f"no column '{name}'{suggestion(str(name), self.columns)}"
        self.faults.tell("column-missing", Place(str(self.path)), "", reason)
        return None

    def _rows(self, side: str, column: str | None) -> list[int]:
        count = len(self.columns[self.image])
        if column is None:
            return list(range(count))
        rows = [k for k in range(count) if str(self.columns[column][k]).strip().lower() in _SPLIT_WORDS[side]]
        if not rows:
            raise DataError(f"{self.path}: no row has {' or '.join(_SPLIT_WORDS[side])} in its column '{column}'")
        return rows

    def _place(self, row: int) -> Place:
        return Place(str(self.path), f"row {self.numbers[row]}")

    def _text(self, row: int, column: str) -> str:
        """A cell as the text that CSV would hold; empty where there is nothing, or what is no text."""
        value = self.columns[column][row]
        if isinstance(value, bytes | list | dict):
            what = "bytes" if isinstance(value, bytes) else "a list" if isinstance(value, list) else "a structure"
            hint = "; pictures inside a table are not read, write them as files" if column == self.image else ""
            self.faults.tell("record-malformed", self._place(row), column, f"expected a text, got {what}{hint}")
            return ""
        if _is_nothing(value):
            return ""
        whole = isinstance(value, float) and value.is_integer()  # pandas makes these of numbers among missing ones
        return str(int(value) if whole else value).strip()

    def table(self) -> Table:
        files, image_of = self._images()
        boxes, words, identities = self._boxes(image_of)
        sizes = np.full((len(files), 2), -1, dtype=np.int32)
        columns, told = boxes.columns(sizes, scaled=bool(self.options.get("normalised")), faults=self.faults)
        first = dict(zip(reversed(image_of), reversed(self.rows), strict=True))
        for k, file in enumerate(files if boxes.in_order else ()):
            self.faults.placed(file, self._place(first[k]), boxes.in_order[k])
        names, image_identity = self._identities(len(files), image_of)
        if self.box_identity == "category":
            identities, columns["box_identities"] = words, columns["labels"].copy()
        return Table(
            files=Strings.of(files),
            image_ids=Strings.of(files),
            sizes=sizes,
            image_identity=image_identity,
            image_identities=names,
            identities=identities,
            categories=words,
            category_ids=tuple((word, word) for word in words),
            fields=self.fields,
            warnings=tuple(told),
            **columns,
            **field_tags(self._tags(len(files), image_of), len(self.fields)),
        )

    def _images(self) -> tuple[list[str], list[int]]:
        """The pictures in first-seen order, and the picture of every row; rows without one are no rows."""
        index: dict[str, int] = {}
        image_of, rows = [], []
        for row in self.rows:
            known = _is_nothing(self.columns[self.image][row])
            name = self._text(row, self.image).replace("\\", "/")
            if name:
                rows.append(row)
                image_of.append(index.setdefault(name, len(index)))
            elif known:
                self.faults.tell("record-malformed", self._place(row), self.image, "names no picture")
        self.rows = rows
        if not index:
            raise DataError(f"{self.path} has no rows in it")
        return list(index), image_of

    def _boxes(self, image_of: Sequence[int]) -> tuple[Boxes, tuple[str, ...], tuple[str, ...]]:
        boxes, classes, people = Boxes(), dict[str, int](), dict[str, int]()
        found = _box_columns(self.columns)
        if found is None or self.label is None:
            return boxes, (), ()
        names, extents = found
        for row, image in zip(self.rows, image_of, strict=True):
            values = [self.columns[name][row] for name in names]
            if all(map(_is_nothing, values)):
                continue
            label = self._text(row, self.label)
            if not label:
                self.faults.tell("record-malformed", self._place(row), self.label, "a box without a class")
            corners = self._corners(row, names, values, extents)
            if corners is None or not label:
                continue
            named = self.box_identity in self.columns
            who = self._text(row, str(self.box_identity)) if named else ""
            person = people.setdefault(who, len(people)) if who else -1
            boxes.add(image, classes.setdefault(label, len(classes)), corners, self._place(row), identity=person)
        order = sorted(classes)
        place = {classes[word]: k for k, word in enumerate(order)}
        boxes.labels = [place[k] for k in boxes.labels]
        return boxes, tuple(order), tuple(people)

    def _corners(
        self, row: int, names: Sequence[str], values: Sequence[Any], extents: bool
    ) -> tuple[float, float, float, float] | None:
        found = []
        for name, value in zip(names, values, strict=True):
            try:
                number = float(value)
            except (TypeError, ValueError):
                shown = "nothing" if _is_nothing(value) else repr(str(value)[:20])
                reason = f"{', '.join(names)} must be four numbers, got {shown}"
                self.faults.tell("record-malformed", self._place(row), name, reason)
                continue
            if self.options.get("normalised") and number > 1.05:
                reason = f"normalised boxes are shares, 0 to 1, got {number:g}"
                self.faults.tell("record-malformed", self._place(row), name, reason)
                continue
            found.append(number)
        if len(found) < 4:
            return None
        x0, y0, x1, y1 = found
        return (x0, y0, x0 + x1, y0 + y1) if extents else (x0, y0, x1, y1)

    def _tags(self, images: int, image_of: Sequence[int]) -> list[list[Said | None]]:
        """What each image's rows say in each field, taken together."""
        found: list[list[Said | None]] = [[None] * len(self.fields) for _ in range(images)]
        for k, field in enumerate(self.fields):
            column = self.columns.get(self.tags[k] or "", [None] * len(self.numbers))
            yes_no = _is_yes_no(column)
            for row, image in zip(self.rows, image_of, strict=True):
                said = self._said(column[row], field, yes_no, row)
                found[image][k] = _together(found[image][k], said)
        return found

    def _said(self, value: Any, field: str, yes_no: bool, row: int) -> Said | None:
        text = value.strip() if isinstance(value, str) else value
        if _is_nothing(text):
            return None
        if isinstance(text, bytes):
            self.faults.tell("record-malformed", self._place(row), field, "expected tags, got bytes")
            return None
        if yes_no:
            return said_of(_YES_NO[str(text).lower()], field)
        if isinstance(text, str) and text.startswith("["):
            try:
                text = json.loads(text)
            except (ValueError, RecursionError):
                self.faults.tell("record-malformed", self._place(row), field, f"is no JSON list: {text[:60]}")
                return None
        if isinstance(text, str):
            parts = text.split(str(self.options.get("separator", "|")))
            return listed(part.strip() for part in parts if part.strip())
        return said_of(text, field)

    def _identities(self, images: int, image_of: Sequence[int]) -> tuple[tuple[str, ...], Any]:
        found: list[str | None] = [None] * images
        column = self.image_identity
        if column is None or column not in self.columns:
            return numbered(found)
        for row, image in zip(self.rows, image_of, strict=True):
            value = self._text(row, column)
            if value and found[image] not in (None, value):
                reason = f"'{column}' is {value}, an earlier row of the picture says {found[image]}"
                self.faults.tell("identity-disagrees", self._place(row), column, reason)
            elif value:
                found[image] = value
        return numbered(found)


def _is_nothing(value: Any) -> bool:
    """An empty cell: of CSV, of Parquet, or of a table that pandas wrote."""
    return value is None or value == "" or (isinstance(value, float) and value != value)


def _together(first: Said | None, then: Said | None) -> Said | None:
    """What two rows of one image say: a yes outweighs a no."""
    if first is None or then is None:
        return first or then
    states = {w: max(first.states.get(w, 0), then.states.get(w, 0)) for w in {**first.states, **then.states}}
    return Said(states, first.whole and then.whole)
