# SPDX-License-Identifier: Apache-2.0
"""YOLO's layout: one text file a picture, a line an object, in shares of the picture's sides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Final

import numpy as np
import yaml

from unified.contracts.config import SplitConfig
from unified.contracts.errors import DataError
from unified.contracts.recognition import Recognised
from unified.contracts.structures import LabelState
from unified.data.formats.flaw import Faults, Place
from unified.data.formats.indexed import IndexedSource
from unified.data.formats.listing import names_in, pictures, text_of
from unified.data.formats.store import Scan
from unified.data.formats.strings import Strings
from unified.data.formats.table import Boxes, Marks, Table
from unified.data.picture import contained

_SLACK: Final = 0.05  # of a side: what rounding and careless tools put outside the picture
Corners = tuple[float, float, float, float]


class YoloDataset(IndexedSource):
    """One split of a dataset in YOLO's text format: ``class x y w h`` a line, or ``class`` and the points of a polygon.

    A split's ``images`` is a folder, or a ``.txt`` list of pictures. A picture's labels are where the last ``images``
    of its path reads ``labels``, else beside it, else in the folder that the split's ``annotations`` names. A picture
    with an empty file holds nothing; one without a file was not labelled, and no class is taken to be absent from it.

    Options: ``names``, the classes as a list, or the file that lists them (data.yaml); ``missing: empty`` takes
    pictures without a file to hold nothing.
    """

    has_fields: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ("names", "missing")
    needs_annotations: ClassVar[bool] = False

    def scan(self, part: SplitConfig, images: Path, strict: bool) -> Scan:
        missing = self.config.options.get("missing", "unlabelled")
        if missing not in ("unlabelled", "empty"):
            raise DataError(f"dataset '{self.name}': missing must be 'unlabelled' or 'empty', got {missing!r}")
        names, points = self._classes_said()
        shown = self._pictures(part, images)
        where = [self._labels(name, part, images) for name in shown]
        there = [path is not None for path in where]
        if not any(there):
            raise DataError(
                f"dataset '{self.name}': no picture of {images} has a label file; they are looked for in a folder "
                "'labels' beside 'images' and beside the pictures; or name one: annotations: FOLDER"
            )
        settings: dict[str, Any] = {"format": "yolo", "pictures": shown, "there": there, "names": names}
        settings |= {"missing": missing, "points": points}
        files = tuple(path for path in where if path is not None)
        reader = _Reader(images, None if names is None else len(names), points, self.faults)
        return Scan(files, settings, lambda: reader.table(shown, where, names or [], missing == "unlabelled"))

    def _folder(self, part: SplitConfig) -> Path:
        """Where a list stands in the place of the pictures' folder, it is the dataset's own."""
        return self.root if part.images.endswith(".txt") else super()._folder(part)

    def _pictures(self, part: SplitConfig, images: Path) -> list[str]:
        if not part.images.endswith(".txt"):
            return pictures(images)
        listed, found = self.root / part.images, list[str]()
        for k, line in enumerate(names_in(listed)):
            with self.faults.going_on("file-name-hostile", Place(str(listed), f"picture {k + 1}")):
                found.append(contained(listed.parent / line, images).relative_to(images).as_posix())
        return found

    def _labels(self, name: str, part: SplitConfig, images: Path) -> Path | None:
        """The label file of a picture, if it is there."""
        text = (images / name).with_suffix(".txt")
        choices = [text]
        if part.annotations is not None:
            choices = [self.root / part.annotations / PurePosixPath(name).with_suffix(".txt")]
        elif "images" in (own := text.relative_to(self.root.parent).parts[1:]):
            last = len(own) - 1 - own[::-1].index("images")
            choices.insert(0, self.root.joinpath(*own[:last], "labels", *own[last + 1 :]))
        found = next((path for path in choices if path.is_file()), None)
        return None if found is None else contained(found.name, found.parent)

    def _classes_said(self) -> tuple[list[str] | None, int]:
        """What :meth:`_said` finds; no classes where it is at fault, and faults are collected."""
        with self.faults.going_on("classes-malformed", Place(str(self.root / self._names_file))):
            return self._said()
        return None, 0

    @property
    def _names_file(self) -> str:
        given = self.config.options.get("names", "data.yaml")
        return given if isinstance(given, str) else ""

    def _said(self) -> tuple[list[str], int]:
        """The classes' names, and how many numbers of key points stand behind a box (``kpt_shape``)."""
        given = self.config.options.get("names", "data.yaml")
        if not isinstance(given, str):
            return class_names(given, f"dataset '{self.name}': option names"), 0
        file = self.root / given
        if file.suffix not in (".yaml", ".yml"):
            return class_names(names_in(file), str(file)), 0
        said = _yaml(file)
        shape = said.get("kpt_shape", [])
        if not isinstance(shape, list) or not all(str(n).isdecimal() for n in shape):
            raise DataError(f"{file}: kpt_shape must be two whole numbers, got {shape!r}")
        return class_names(said.get("names"), str(file)), math.prod(map(int, shape)) if shape else 0

    @classmethod
    def recognise(cls, path: Path) -> Recognised | None:
        file = path / "data.yaml" if path.is_dir() else path
        if file.suffix not in (".yaml", ".yml") or not file.is_file():
            return None
        try:
            said = _yaml(file)
            class_names(said.get("names"), str(file))
        except DataError:
            return None
        if not isinstance(said.get("train", said.get("val")), str | list):
            return None
        root = _root(file, said)
        parts = {s: {"images": _split(said[s], root, file)} for s in ("train", "val") if said.get(s)}
        options = {"names": file.name if file.parent.resolve() == root else str(file.resolve())}
        dataset = {"format": "yolo", **parts, "tags": {"categories": True}, "options": options}
        return Recognised("a YOLO dataset", root, dataset, ("boxes", "tags"), 2)


def class_names(given: Any, where: str) -> list[str]:
    """Names by number out of a list, or out of a mapping from 0, 1, 2, ...

    Raises:
        DataError: neither, a number is missing, or a name stands twice.
    """
    if isinstance(given, dict):
        numbers = sorted(given, key=lambda key: int(key) if str(key).isdecimal() else -1)
        if [str(key) for key in numbers] != [str(k) for k in range(len(given))]:
            raise DataError(
                f"{where}: names must be numbered 0 to {len(given) - 1}, got {', '.join(map(str, numbers))}"
            )
        given = [given[key] for key in numbers]
    if not isinstance(given, list) or not given or not all(isinstance(name, str) and name.strip() for name in given):
        raise DataError(f"{where}: expected names, a list of the classes' names")
    twice = next((name for k, name in enumerate(given) if name in given[:k]), None)
    if twice is not None:
        raise DataError(f"{where}: two classes are named '{twice}'; give one of them another name")
    return [name.strip() for name in given]


def _yaml(file: Path) -> Mapping[str, Any]:
    """A YAML mapping of texts; nothing in it is carried out, and ``no`` is a name like any other."""
    try:
        loader = yaml.BaseLoader(text_of(file))  # texts, lists and mappings only
        try:
            found = loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{file} is not YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(found, dict):
        raise DataError(f"{file}: expected train, val and names")
    return found


def _root(file: Path, said: Mapping[str, Any]) -> Path:
    """The folder the splits are in: what ``path`` says where that is there, else the file's own."""
    told = Path(str(said.get("path") or "."))
    choices = [file.parent / told, file.parent]
    first = next(str(v) for v in (said.get("train"), said.get("val")) if v)
    return next((c.resolve() for c in choices if (c / first).exists()), file.parent.resolve())


def _split(value: Any, root: Path, file: Path) -> str:
    """The split's folder or list, relative to the root. Tools write ``../train/images`` and mean ``train/images``."""
    if not isinstance(value, str):
        raise DataError(f"{file}: a split of several folders is not read; list its pictures in one .txt file")
    if not (root / value).exists() and (root / value.lstrip("./")).exists():
        return value.lstrip("./")
    return value


class _Reader:
    """Reads label files into one table. ``classes``: how many there are; None: nobody knows."""

    def __init__(self, images: Path, classes: int | None, points: int, faults: Faults) -> None:
        self.images, self.classes, self.points, self.faults = images, classes, points, faults

    def table(self, shown: Sequence[str], where: Sequence[Path | None], names: Sequence[str], silent: bool) -> Table:
        boxes, told = Boxes(), []
        for k, path in enumerate(where):
            for place, label, corners in self._objects(path) if path else ():
                boxes.add(k, label, corners, place)
        sizes = np.full((len(shown), 2), -1, dtype=np.int32)
        columns, lost = boxes.columns(sizes, scaled=True, faults=self.faults)
        for k, name in enumerate(shown if boxes.in_order else ()):
            self.faults.placed(name, Place(str(self.images / name)), boxes.in_order[k])
        bare = [k for k, path in enumerate(where) if path is None]
        if bare and silent:
            told.append(
                f"{len(bare)} pictures have no label file, first {shown[bare[0]]}; they are unlabelled, not empty "
                "(options: {missing: empty} if they hold nothing)"
            )
        absent = dict.fromkeys(range(len(names)), int(LabelState.NEGATIVE))
        marks = Marks.of({} if path is None else absent for path in where) if bare and silent else None
        return Table(
            files=Strings.of(shown),
            image_ids=Strings.of(name.rpartition(".")[0] for name in shown),
            sizes=sizes,
            image_identity=np.full(len(shown), -1, dtype=np.int32),
            field_known=np.zeros((len(shown), 0), dtype=np.bool_),
            tag_marks=Marks.none(len(shown)),
            categories=tuple(names),
            class_marks=marks,
            warnings=(*told, *lost),
            **columns,
        )

    def _objects(self, path: Path) -> Iterator[tuple[Place, int, Corners]]:
        """Place, class and corners (shares) of every object of a label file."""
        text = ""
        with self.faults.going_on("file-unreadable", Place(str(path))):
            text = text_of(path)
        for number, line in enumerate(text.splitlines(), 1):
            place = Place(str(path), f"line {number}")
            if line.strip() and (numbers := self._numbers(line, place)) is not None:
                label, values = numbers
                known, fitting = self._known(label, place), self._are_shares(values, place)
                if known and fitting:
                    yield place, int(label), _corners(values)

    def _numbers(self, line: str, place: Place) -> tuple[float, list[float]] | None:
        try:
            label, *values = (float(word) for word in line.split())
        except ValueError:
            reason = f"expected numbers, class x y w h, got {line.strip()[:60]!r}"
            self.faults.tell("record-malformed", place, "", reason)
            return None
        if self.points and len(values) == 4 + self.points:
            values = values[:4]
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            reason = f"expected class x y w h, or class and a polygon, got {len(values) + 1} numbers"
            self.faults.tell("record-malformed", place, "", reason)
            return None
        return label, values

    def _known(self, label: float, place: Place) -> bool:
        if not math.isfinite(label):
            self.faults.tell("record-malformed", place, "class", f"expected a class, got {label}")
        elif self.classes is not None and not (label.is_integer() and 0 <= label < self.classes):
            reason = f"class {label:g} is none of the {self.classes} classes (they count from 0)"
            self.faults.tell("class-unknown", place, "class", reason)
        else:
            return self.classes is not None
        return False

    def _are_shares(self, values: Sequence[float], place: Place) -> bool:
        outside = [x for x in values if x > 1 + _SLACK]
        if outside:
            reason = f"expected shares of the picture, 0 to 1, got {outside[0]:g}; are these pixels?"
            self.faults.tell("record-malformed", place, "box", reason)
        return not outside


def _corners(values: Sequence[float]) -> Corners:
    if len(values) == 4:
        x, y, w, h = values
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
