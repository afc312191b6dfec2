# SPDX-License-Identifier: Apache-2.0
"""COCO instances files: boxes, crowds, tags from image fields or categories, identities from any field."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unified.contracts.config import DatasetConfig, SplitConfig
from unified.contracts.errors import DataError, suggestion
from unified.contracts.structures import Annotations, Frame, LabelState, Sample, Vocabulary
from unified.data.formats.coco_table import CocoTable, field_states, load_table
from unified.data.location import locate
from unified.data.picture import contained, read_picture
from unified.data.source import Source, Split, check_options

_PROBED = 8  # pictures looked for when a dataset is opened


class CocoDataset(Source):
    """One split of a dataset in COCO's format. All images of the file are kept, also those without annotations.

    The validation split speaks the training split's words, where the training file is at hand, so that indices agree;
    values that only the validation file knows come after them. Option ``limit``: only so many images, the first ones.
    """

    def __init__(self, name: str, config: DatasetConfig, split: Split, base: Path) -> None:
        check_options(name, config, ("limit",))
        self.limit = config.options.get("limit")
        if self.limit is not None and not (isinstance(self.limit, int) and self.limit > 0):
            raise DataError(f"dataset '{name}': limit must be a number of images, 1 or more; got {self.limit!r}")
        self.name = name
        self.views = config.identity.image == "views"
        part = _part(name, config, split)
        root = locate(config.path, base, name)
        if not root.is_dir():
            raise DataError(f"dataset '{name}': folder {root} does not exist (path: {config.path})")
        self.images = root / part.images
        words = _words(config, split, root)
        table = load_table(root / str(part.annotations), config.tags, config.identity, strict=words is None)
        self.table = _in_words(table, words or table, name)
        self.warnings = [f"dataset '{name}': {text}" for text in table.warnings]
        self.vocabulary, self.tag_classes = _vocabulary(self.table, config, name)
        self._probe()

    def _probe(self) -> None:
        if not self.images.is_dir():
            raise DataError(f"dataset '{self.name}': images folder {self.images} does not exist")
        for file in self.table.files[:_PROBED]:
            if not contained(file, self.images).is_file():
                raise DataError(
                    f"dataset '{self.name}': picture {self.images / file} is missing; check the split's 'images'"
                )

    def __len__(self) -> int:
        return min(len(self.table.files), self.limit or len(self.table.files))

    def image_id(self, index: int) -> str:
        return self.table.image_ids[index]

    def size(self, index: int) -> tuple[int, int] | None:
        height, width = (int(side) for side in self.table.sizes[index])
        return (height, width) if height > 0 else None

    def read(self, index: int) -> Sample:
        image = read_picture(self.table.files[index], self.images)
        size = int(image.shape[1]), int(image.shape[2])
        self._check_size(index, size)
        return Sample(image, self.annotations(index, size), Frame(self.image_id(index), size))

    def annotations(self, index: int, size: tuple[int, int]) -> Annotations:
        """What the file says of an image of ``size`` (height, width) pixels."""
        table = self.table
        rows = slice(int(table.offsets[index]), int(table.offsets[index + 1]))
        states = np.where(table.ignore[rows], LabelState.IGNORE, LabelState.POSITIVE).astype(np.int8)
        tags = np.full(len(self.vocabulary.tags), LabelState.NEGATIVE, dtype=np.int8)
        tags[: len(table.tags)] = table.tag_states[index]
        found = Annotations(
            boxes_xyxy=_tensor(table.boxes_xyxy[rows]),
            box_labels=_tensor(table.labels[rows]),
            box_states=_tensor(states),
            box_identities=_tensor(table.box_identities[rows]),
            box_areas=_tensor(table.areas[rows]),
            box_crowd=_tensor(table.crowd[rows]),
            identity=int(table.image_identity[index]),
            states={"tags": _tensor(tags)},
        )
        return found if table.sizes[index][0] > 0 else _clipped(found, size)

    def _check_size(self, index: int, size: tuple[int, int]) -> None:
        """Boxes drawn on a picture of another size would be wrong in silence."""
        told = self.size(index)
        if told is None or max(abs(told[0] - size[0]), abs(told[1] - size[1])) <= 1:
            return
        turned = " (its EXIF orientation turns it; annotate the upright picture)" if told == size[::-1] else ""
        raise DataError(
            f"dataset '{self.name}': picture {self.table.files[index]} is {size[1]} x {size[0]} pixels, "
            f"but its record says {told[1]} x {told[0]}{turned}"
        )


def _tensor(array: NDArray) -> Tensor:  # type: ignore[type-arg]
    return torch.from_numpy(np.ascontiguousarray(array))


def _clipped(annotations: Annotations, size: tuple[int, int]) -> Annotations:
    """For images whose size only the picture tells."""
    limit = torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float32)
    boxes = torch.minimum(annotations.boxes_xyxy, limit)
    inside = replace(annotations, boxes_xyxy=boxes)
    return inside.select((boxes[:, 2:] > boxes[:, :2]).all(dim=1))


def _part(name: str, config: DatasetConfig, split: Split) -> SplitConfig:
    part: SplitConfig | None = getattr(config, split)
    if part is None:
        raise DataError(f"dataset '{name}' has no '{split}' split; add {split}: {{images: ..., annotations: ...}}")
    if part.annotations is None:
        raise DataError(f"dataset '{name}': its '{split}' split names no annotations file")
    return part


def _words(config: DatasetConfig, split: Split, root: Path) -> CocoTable | None:
    """The training split's table, which decides the words of every split."""
    if split == "train" or config.train is None or config.train.annotations is None:
        return None
    path = root / config.train.annotations
    return load_table(path, config.tags, config.identity) if path.is_file() else None


def _extended(first: tuple[str, ...], then: tuple[str, ...]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Both lists of names as one, and where the names of the second stand in it."""
    names = tuple(dict.fromkeys([*first, *then]))
    place = {word: k for k, word in enumerate(names)}
    return names, np.array([place[word] for word in then], dtype=np.int64)


def _moved(indices: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices looked up in ``place``; -1 stays."""
    return np.append(place, -1)[indices]


def _in_words(table: CocoTable, words: CocoTable, name: str) -> CocoTable:
    """The table with its indices in another table's words."""
    if table is words:
        return table
    known = {word: k for k, word in enumerate(words.categories)}
    for k in np.unique(table.labels):
        word = table.categories[k]
        if word not in known:
            raise DataError(
                f"dataset '{name}': val has the category '{word}', which train has not{suggestion(word, known)}"
            )
    classes = np.array([known.get(word, -1) for word in table.categories], dtype=np.int64)
    tags, states = field_states(words.field_words, table.field_known, table.field_words)
    place = np.array([tags.index(word) for word in table.tags], dtype=np.int64)
    states[:, place] = np.maximum(states[:, place], table.tag_states)
    identities, place = _extended(words.identities, table.identities)
    image_identities, image_place = _extended(words.image_identities, table.image_identities)
    return replace(
        table,
        categories=words.categories,
        labels=classes[table.labels],
        tags=tags,
        tag_states=states,
        identities=identities,
        box_identities=_moved(table.box_identities, place),
        image_identities=image_identities,
        image_identity=_moved(table.image_identity, image_place),
    )


def _vocabulary(table: CocoTable, config: DatasetConfig, name: str) -> tuple[Vocabulary, tuple[int, ...]]:
    """The dataset's words, and which tags are the presence of which class."""
    both = sorted({*table.tags} & {*table.categories}) if config.tags.categories else []
    if both:
        raise DataError(
            f"dataset '{name}': '{both[0]}' is both a category and a value of an image field; rename one of them"
        )
    present = table.categories if config.tags.categories else ()
    words = Vocabulary(table.categories, table.tags + present, table.identities, table.image_identities)
    return words, (-1,) * len(table.tags) + tuple(range(len(present)))
