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
        return Scan((path,), settings, lambda: _Sheet(path, given, config.tags.fields, identity, side).table())

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
    ) -> None:
        self.path, self.options, self.fields = path, options, tuple(fields)
        self.columns = read_columns(path)
        self.image = self._column("image", _IMAGE)
        self.label = self._column("label", _LABEL, needed=False)
        self.rows = self._rows(side)
        self.box_identity, self.image_identity = (self._named(name) for name in identity)

    def _column(self, option: str, usual: Sequence[str], needed: bool = True) -> str | None:
        given = self.options.get(option)
        found = self._named(given) if given is not None else _first(self.columns, usual)
        if found is None and needed:
            raise DataError(
                f"{self.path}: no column names the pictures; known: {', '.join(self.columns)}; "
                f"set options: {{{option}: COLUMN}}"
            )
        return found

    def _named(self, name: str | None) -> str | None:
        if name is not None and name not in self.columns and name != "category":
            raise DataError(f"{self.path}: no column '{name}'{suggestion(str(name), self.columns)}")
        return name

    def _rows(self, side: str) -> list[int]:
        count = len(self.columns[str(self.image)])
        column = self._named(self.options.get("split"))
        if column is None:
            return list(range(count))
        rows = [k for k in range(count) if str(self.columns[column][k]).strip().lower() in _SPLIT_WORDS[side]]
        if not rows:
            raise DataError(f"{self.path}: no row has {' or '.join(_SPLIT_WORDS[side])} in its column '{column}'")
        return rows

    def _place(self, row: int) -> str:
        return f"{self.path}: row {row + 1}"

    def table(self) -> Table:
        files, image_of = self._images()
        boxes, words, identities = self._boxes(image_of)
        sizes = np.full((len(files), 2), -1, dtype=np.int32)
        columns, told = boxes.columns(sizes, scaled=bool(self.options.get("normalised")))
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
        """The pictures in first-seen order, and the picture of every row."""
        index: dict[str, int] = {}
        image_of = []
        for row in self.rows:
            name = str(self.columns[str(self.image)][row] or "").strip().replace("\\", "/")
            if not name:
                raise DataError(f"{self._place(row)}: names no picture (column '{self.image}')")
            image_of.append(index.setdefault(name, len(index)))
        if not index:
            raise DataError(f"{self.path} has no rows in it")
        return list(index), image_of

    def _boxes(self, image_of: Sequence[int]) -> tuple[Boxes, tuple[str, ...], tuple[str, ...]]:
        boxes, classes, people = Boxes(), dict[str, int](), dict[str, int]()
        found = _box_columns(self.columns)
        if found is None or self.label is None:
            return boxes, (), ()
        names, extents = found
        people_column = self.columns.get(self.box_identity or "", ())
        for row, image in zip(self.rows, image_of, strict=True):
            values = [self.columns[name][row] for name in names]
            if all(value is None or value == "" for value in values):
                continue
            label = str(self.columns[self.label][row] or "").strip()
            if not label:
                raise DataError(f"{self._place(row)}: a box without a class (column '{self.label}')")
            who = people_column[row] if people_column else None
            person = -1 if who is None or who == "" else people.setdefault(str(who), len(people))
            corners = self._corners(row, names, values, extents)
            boxes.add(image, classes.setdefault(label, len(classes)), corners, self._place(row), identity=person)
        order = sorted(classes)
        place = {classes[word]: k for k, word in enumerate(order)}
        boxes.labels = [place[k] for k in boxes.labels]
        return boxes, tuple(order), tuple(people)

    def _corners(
        self, row: int, names: Sequence[str], values: Sequence[Any], extents: bool
    ) -> tuple[float, float, float, float]:
        try:
            x0, y0, x1, y1 = (float(value) for value in values)
        except (TypeError, ValueError):
            shown = ", ".join(str(value)[:20] for value in values)
            raise DataError(f"{self._place(row)}: {', '.join(names)} must be four numbers, got {shown}") from None
        if self.options.get("normalised") and max(x0, y0, x1, y1) > 1.05:
            raise DataError(f"{self._place(row)}: normalised boxes are shares, 0 to 1, got {max(x0, y0, x1, y1):g}")
        return (x0, y0, x0 + x1, y0 + y1) if extents else (x0, y0, x1, y1)

    def _tags(self, images: int, image_of: Sequence[int]) -> list[list[Said | None]]:
        """What each image's rows say in each field, taken together."""
        found: list[list[Said | None]] = [[None] * len(self.fields) for _ in range(images)]
        for k, field in enumerate(self.fields):
            column = self.columns[str(self._named(field))]
            yes_no = _is_yes_no(column)
            for row, image in zip(self.rows, image_of, strict=True):
                said = self._said(column[row], field, yes_no, row)
                found[image][k] = _together(found[image][k], said)
        return found

    def _said(self, value: Any, field: str, yes_no: bool, row: int) -> Said | None:
        text = value.strip() if isinstance(value, str) else value
        if text is None or text == "":
            return None
        if yes_no:
            return said_of(_YES_NO[str(text).lower()], field)
        if isinstance(text, str) and text.startswith("["):
            try:
                text = json.loads(text)
            except (ValueError, RecursionError):
                raise DataError(f"{self._place(row)}: column '{field}' is no JSON list: {text[:60]}") from None
        if isinstance(text, str):
            parts = text.split(str(self.options.get("separator", "|")))
            return listed(part.strip() for part in parts if part.strip())
        return said_of(text, field)

    def _identities(self, images: int, image_of: Sequence[int]) -> tuple[tuple[str, ...], Any]:
        found: list[str | None] = [None] * images
        column = self.columns.get(self.image_identity or "", ())
        for row, image in zip(self.rows if column else (), image_of, strict=False):
            value = column[row]
            if value is None or value == "":
                continue
            if found[image] not in (None, str(value)):
                raise DataError(
                    f"{self._place(row)}: '{self.image_identity}' is {value}, an earlier row of the picture says "
                    f"{found[image]}"
                )
            found[image] = str(value)
        return numbered(found)


def _together(first: Said | None, then: Said | None) -> Said | None:
    """What two rows of one image say: a yes outweighs a no."""
    if first is None or then is None:
        return first or then
    states = {w: max(first.states.get(w, 0), then.states.get(w, 0)) for w in {**first.states, **then.states}}
    return Said(states, first.whole and then.whole)
