# SPDX-License-Identifier: Apache-2.0
"""What all formats share whose files become a table: which images a split has, its words, and reading one image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unified.contracts.config import DatasetConfig, SplitConfig
from unified.contracts.errors import DataError
from unified.contracts.extras import Keypoints, Masks, Panoptic
from unified.contracts.structures import Annotations, Frame, LabelState, Sample, Vocabulary
from unified.data.formats.flaw import REFUSE, Faults
from unified.data.formats.holdout import held_out, share_of
from unified.data.formats.panoptic_map import PanopticMap
from unified.data.formats.store import Scan, tabulate
from unified.data.formats.table import Table
from unified.data.formats.words import class_places, extended, tag_places
from unified.data.location import locate
from unified.data.masks import Rle
from unified.data.picture import contained, read_within, said
from unified.data.source import Reader, Source, Split, check_options, shrunk

_PROBED = 8  # pictures looked for when a dataset is opened
_COMMON = ("limit", "holdout")  # options


class IndexedSource(Source):
    """One split of a dataset whose files become a :class:`Table`.

    A format says in :meth:`scan` how. The validation split speaks the training split's words, where that is at hand,
    so that indices agree; values that only the validation files know come after them.

    Options of all formats: ``limit``, only so many images, the first ones; ``holdout``, the share (0 to 1) of a
    training split without a validation split that is kept for validation, chosen by the pictures' names.
    """

    from_files: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ()  # that the format takes beside those of all
    collects: ClassVar[bool] = True
    has_fields: ClassVar[bool] = True  # tags and identities by fields of its records
    needs_annotations: ClassVar[bool] = True  # a split that names no annotations is refused

    def __init__(self, name: str, config: DatasetConfig, split: Split, base: Path, faults: Faults = REFUSE) -> None:
        self.faults = faults
        check_options(name, config, (*_COMMON, *self.options))
        self.name, self.config, self.split = name, config, split
        self.views = config.identity.image == "views"
        _check_fields(name, config, self.has_fields)
        self.limit, self.holdout = _limit(name, config), share_of(name, config)
        self.root = locate(config.path, base, name)
        if not self.root.is_dir():
            raise DataError(f"dataset '{name}': folder {self.root} does not exist (path: {config.path})")
        part = self._part("train" if self.holdout and split == "val" else split)
        words = self._words_of_training(part)
        self.images = self._folder(part)
        self.panoptic_images = self.root / part.panoptic_images if part.panoptic_images else self.images
        if not self.images.is_dir():
            raise DataError(f"dataset '{name}': images folder {self.images} does not exist")
        self.table = self._table(part, strict=words is None)
        self._speak(words or self.table)
        self.warnings = [f"dataset '{name}': {text}" for text in self.table.warnings]
        if not faults.collecting:
            self._probe()
        self.faults = REFUSE  # what comes now is reading

    @classmethod
    def offers(cls, config: DatasetConfig, split: Split) -> bool:
        """Whether the dataset has this split at all."""
        return getattr(config, split) is not None or (config.train is not None and bool(config.options.get("holdout")))

    @abstractmethod
    def scan(self, part: SplitConfig, images: Path, strict: bool) -> Scan:
        """How one split's files become its table.

        Args:
            part: the split, ``images`` its folder of pictures.
            strict: refuse what else would be a remark: a tag or identity field that no record has.
        """

    def _table(self, part: SplitConfig, strict: bool) -> Table:
        scan = self.scan(part, self._folder(part), strict)
        if not self.has_fields and self.config.identity.boxes == "category":
            scan = _by_category(scan)
        return tabulate(held_out(scan, self.holdout, self.split) if self.holdout else scan, self.faults)

    def _folder(self, part: SplitConfig) -> Path:
        """Where a split's pictures are."""
        return self.root / part.images

    def _part(self, split: str) -> SplitConfig:
        part: SplitConfig | None = getattr(self.config, split)
        if part is None:
            raise DataError(
                f"dataset '{self.name}' has no '{split}' split; add {split}: {{images: ..., annotations: ...}}"
            )
        if part.annotations is None and self.needs_annotations:
            raise DataError(f"dataset '{self.name}': its '{split}' split names no annotations file")
        return part

    def _words_of_training(self, part: SplitConfig) -> Table | None:
        """The training split's table, which decides the words of every split."""
        first = self.config.train
        if self.split == "train" or first is None or first is part:
            return None
        named = first.annotations is not None or not self.needs_annotations
        there = (self.root / (first.annotations or first.images)).exists()
        if not (named and there):
            return None
        with suppress(DataError):  # as the training split opens it, so that it is read once
            return self._table(first, strict=True)
        return None if self.faults.collecting else self._table(first, strict=False)  # told with the training split

    def _speak(self, words: Table) -> None:
        """The split's vocabulary, and where the table's own words stand in it."""
        table = self.table
        classes = words.categories
        if self.faults.collecting:  # a class that only val has is told where splits are compared
            classes, self._classes = extended(classes, table.categories)
        else:
            self._classes = class_places(table, words, self.name)
        self._tags, tags, self._fields = tag_places(table, words)
        identities, self._identities = extended(words.identities, table.identities)
        image_identities, self._image_identities = extended(words.image_identities, table.image_identities)
        present = classes if self.config.tags.categories else ()
        both = sorted({*tags} & {*present})
        if both:
            raise DataError(
                f"dataset '{self.name}': '{both[0]}' is both a category and a value of an image field; "
                "rename one of them"
            )
        self.vocabulary = Vocabulary(classes, tags + present, identities, image_identities)
        self.tag_classes = (-1,) * len(tags) + tuple(range(len(present)))
        self.category_ids = table.category_ids or tuple((str(k), word) for k, word in enumerate(table.categories))

    def _probe(self) -> None:
        for k in range(min(len(self), _PROBED)):
            file = self.table.files[k]
            if not contained(file, self.images).is_file():
                raise DataError(
                    f"dataset '{self.name}': picture {said(self.images / file)} is missing; check the split's 'images'"
                )

    def __len__(self) -> int:
        return min(len(self.table), self.limit or len(self.table))

    def image_id(self, index: int) -> str:
        return self.table.image_ids[index]

    def file(self, index: int) -> str:
        """The picture's path below ``images``."""
        return self.table.files[index]

    def size(self, index: int) -> tuple[int, int] | None:
        height, width = (int(side) for side in self.table.sizes[index])
        return (height, width) if height > 0 else None

    def identities(self, index: int, of: Literal["boxes", "image"]) -> Sequence[int]:
        table, boxes = self.table, of == "boxes"
        told = table.box_identities[table.rows(index)] if boxes else table.image_identity[index : index + 1]
        places = _moved(told, self._identities if boxes else self._image_identities)
        return sorted({int(place) for place in places if place >= 0})

    def read(self, index: int) -> Sample:
        return self._read(index, None, read_within)

    def read_within(self, index: int, reach: int, reader: Reader = read_within) -> Sample:
        return self._read(index, reach, reader)

    def _read(self, index: int, reach: int | None, reader: Reader) -> Sample:
        image, size = reader(self.file(index), reach, self.images)
        self._check_size(index, size)
        return shrunk(Sample(image, self.annotations(index, size), Frame(self.image_id(index), size)))

    def annotations(self, index: int, size: tuple[int, int]) -> Annotations:
        """What the files say of an image of ``size`` (height, width) pixels."""
        table = self.table
        rows = table.rows(index)
        states = np.where(table.ignore[rows], LabelState.IGNORE, LabelState.POSITIVE).astype(np.int8)
        boxes, areas = table.boxes_xyxy[rows], table.areas[rows]
        if table.scaled:
            boxes = boxes * np.array([size[1], size[0]] * 2, dtype=np.float32)
            areas = areas * np.float32(size[0] * size[1])
        found = Annotations(
            boxes_xyxy=_tensor(boxes, np.float32),
            box_labels=_tensor(_moved(table.labels[rows], self._classes)),
            box_states=_tensor(states, np.int8),
            box_identities=_tensor(_moved(table.box_identities[rows], self._identities)),
            box_areas=_tensor(areas, np.float32),
            box_crowd=_tensor(table.crowd[rows], np.bool_),
            identity=int(_moved(table.image_identity[index : index + 1], self._image_identities)[0]),
            states=self._states(index),
            extras=self._extras(index, size),
        )
        return found if table.scaled or table.sizes[index][0] > 0 else _clipped(found, size)

    def _states(self, row: int) -> dict[str, Tensor]:
        table = self.table
        tags = np.full(len(self.vocabulary.tags), LabelState.NEGATIVE, dtype=np.int8)
        tags[: len(tags) - sum(k >= 0 for k in self.tag_classes)] = LabelState.UNLABELLED
        for columns, known in zip(self._fields, table.field_known[row], strict=True):
            if known:
                tags[columns] = LabelState.NEGATIVE
        words, states = table.tag_marks.at(row)
        tags[self._tags[words]] = states
        found = {"tags": _tensor(tags, np.int8)}
        if table.class_marks is not None:
            looked = np.full(len(self.vocabulary.boxes), LabelState.UNLABELLED, dtype=np.int8)
            words, states = table.class_marks.at(row)
            looked[self._classes[words]] = states
            found["boxes"] = _tensor(looked, np.int8)
        return found

    def _extras(self, row: int, size: tuple[int, int]) -> dict[str, Any]:
        table, found = self.table, dict[str, Any]()
        if table.keypoints is not None:
            found["keypoints"] = _keypoints(table, table.rows(row))
        if table.masks is not None:
            found["masks"] = _masks(table, row, size)
        if table.captions is not None:
            said = slice(int(table.captions.offsets[row]), int(table.captions.offsets[row + 1]))
            found["captions"] = tuple(table.captions.texts[said])
        if table.panoptic is not None and table.panoptic.files[row]:
            found["panoptic"] = _panoptic(table, row, size, self.panoptic_images)
        return found

    def _check_size(self, index: int, size: tuple[int, int]) -> None:
        """Boxes drawn on a picture of another size would be wrong in silence."""
        told = self.size(index)
        if told is None or max(abs(told[0] - size[0]), abs(told[1] - size[1])) <= 1:
            return
        turned = " (its EXIF orientation turns it; annotate the upright picture)" if told == size[::-1] else ""
        raise DataError(
            f"dataset '{self.name}': picture {said(self.file(index))} is {size[1]} x {size[0]} pixels, "
            f"but its record says {told[1]} x {told[0]}{turned}"
        )


def _tensor(array: NDArray[Any], dtype: Any = None) -> Tensor:
    """A tensor of its own memory: the array may be a read-only map."""
    return torch.from_numpy(np.array(array, dtype=dtype))


def _moved(indices: NDArray[Any], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices looked up in ``places``; -1 stays."""
    return np.where(indices >= 0, places[indices], -1) if len(places) else np.full(len(indices), -1, dtype=np.int64)


def _clipped(annotations: Annotations, size: tuple[int, int]) -> Annotations:
    """For images whose size only the picture tells."""
    limit = torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float32)
    boxes = torch.minimum(annotations.boxes_xyxy, limit)
    inside = replace(annotations, boxes_xyxy=boxes)
    return inside.select((boxes[:, 2:] > boxes[:, :2]).all(dim=1))


def _keypoints(table: Table, rows: slice) -> Keypoints:
    """The points of an image's boxes; boxes without any have unlabelled ones."""
    found = table.keypoints
    assert found is not None
    objects = found.row[rows]
    counts = np.where(objects >= 0, np.diff(found.offsets)[objects] if len(found.offsets) > 1 else 0, 0)
    points = np.zeros((len(objects), max([len(found.names), *counts.tolist()]), 3), dtype=np.float32)
    for k, row in enumerate(objects.tolist()):
        if row >= 0:
            points[k, : counts[k]] = found.points[int(found.offsets[row]) : int(found.offsets[row + 1])]
    if table.scaled:
        raise DataError("key points of scaled tables are not read")
    return Keypoints(torch.from_numpy(points), found.names, found.skeleton)


def _masks(table: Table, row: int, size: tuple[int, int]) -> Masks:
    told: tuple[int, int] = (int(table.sizes[row, 0]), int(table.sizes[row, 1]))
    counts = (table.masks[k] for k in range(*table.rows(row).indices(len(table.labels)))) if table.masks else ()
    stored = tuple(Rle(told, text.encode("ascii")) if text else None for text in counts)
    found = Masks(told, stored)
    return found if told == size else found.moved(np.eye(2, 3), size)  # records may be wrong by a pixel


def _panoptic(table: Table, row: int, size: tuple[int, int], root: Path) -> Panoptic:
    found = table.panoptic
    assert found is not None
    part = slice(int(found.offsets[row]), int(found.offsets[row + 1]))
    ids = tuple(found.ids[part].tolist())
    return Panoptic(
        size=size,
        labels=_tensor(found.labels[part], np.int64),
        crowd=_tensor(found.crowd[part]),
        areas=_tensor(found.areas[part]),
        names=found.names,
        things=found.things,
        read=PanopticMap(found.files[row], root, ids, size),
    )


def _limit(name: str, config: DatasetConfig) -> int | None:
    limit = config.options.get("limit")
    if limit is not None and not (isinstance(limit, int) and limit > 0):
        raise DataError(f"dataset '{name}': limit must be a number of images, 1 or more; got {limit!r}")
    return limit


def _check_fields(name: str, config: DatasetConfig, has_fields: bool) -> None:
    """Refuse fields where a format's records have none."""
    box, image = config.identity.boxes, config.identity.image
    asked = [*config.tags.fields, *([] if box in (None, "category") else [box])]
    asked += [] if image in (None, "views") else [image]
    if asked and not has_fields:
        raise DataError(
            f"dataset '{name}': format '{config.format}' has no field '{asked[0]}'; it takes tags: categories and "
            "identity: {boxes: category} or {image: views}"
        )


def _by_category(scan: Scan) -> Scan:
    """Boxes of one class are the same thing."""

    def build() -> Table:
        table = scan.build()
        identities = np.where(table.crowd, -1, table.labels).astype(np.int32)
        return replace(table, identities=table.categories, box_identities=identities)

    return Scan(scan.files, {**scan.settings, "identity": "category"}, build)
