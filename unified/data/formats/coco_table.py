# SPDX-License-Identifier: Apache-2.0
"""A COCO instances file as flat arrays: read once, checked record by record, small enough to send to any process."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unified.contracts.config import IdentityConfig, TagsConfig
from unified.contracts.errors import DataError, suggestion
from unified.contracts.structures import LabelState

Record = Mapping[str, Any]
_MOST_TAGS = 4096  # a field with more values than this is a name or a number, not a tag


@dataclass(frozen=True, eq=False)
class CocoTable:
    """N images; M boxes in the images' order (image i has ``offsets[i]:offsets[i + 1]``); A tags from image fields."""

    categories: tuple[str, ...]
    image_ids: tuple[str, ...]  # N
    files: tuple[str, ...]  # N
    sizes: NDArray[np.int32]  # (N, 2) height, width in pixels; -1 unknown
    offsets: NDArray[np.int64]  # (N + 1,)
    boxes_xyxy: NDArray[np.float32]  # (M, 4) pixels of the original image
    labels: NDArray[np.int64]  # (M,) into categories
    ignore: NDArray[np.bool_]  # (M,) crowd, ignored or difficult
    crowd: NDArray[np.bool_]  # (M,)
    areas: NDArray[np.float32]  # (M,) px²
    identities: tuple[str, ...]
    box_identities: NDArray[np.int64]  # (M,) into identities, -1 unknown
    image_identities: tuple[str, ...]
    image_identity: NDArray[np.int64]  # (N,) into image_identities, -1 unknown
    tags: tuple[str, ...]
    tag_states: NDArray[np.int8]  # (N, A) LabelState
    field_words: tuple[tuple[str, ...], ...]  # F tag fields: the values of each
    field_known: NDArray[np.bool_]  # (N, F) whether the image has the field
    warnings: tuple[str, ...]


def load_table(path: Path, tags: TagsConfig, identity: IdentityConfig, *, strict: bool = True) -> CocoTable:
    """The file's table; a file that has not changed is not read twice in a process.

    A tag or identity field that no record has is an error, or with ``strict=False`` only a remark.

    Raises:
        DataError: the file is missing, is not JSON, or a record is not as it must be (the message names the record).
    """
    try:
        stat = path.stat()
    except OSError:
        raise DataError(
            f"annotation file {path} is missing; check the split's 'annotations' and the dataset's path"
        ) from None
    return _load(path, (stat.st_mtime_ns, stat.st_size), tags.fields, (identity.boxes, identity.image), strict)


@lru_cache(maxsize=4)
def _load(
    path: Path,
    stamp: tuple[int, int],
    fields: tuple[str, ...],
    identity: tuple[str | None, str | None],
    strict: bool,
) -> CocoTable:
    document = _read(path)
    images, categories = _list(document, "images", path), _list(document, "categories", path)
    annotations = _list(document, "annotations", path)
    if not images:
        raise DataError(f"{path} has no images in it")
    names, class_of, told = _categories(categories, path)
    index_of = _index_images(images, path)
    sizes = np.array([_size(record, k, path) for k, record in enumerate(images)], dtype=np.int32).reshape(-1, 2)
    boxes = _Boxes(path, index_of, class_of).gather(annotations)
    box_field, image_field = (None if field in ("category", "views") else field for field in identity)
    told += _absent([box_field], annotations, path, "annotation", strict)
    told += _absent([image_field, *fields], images, path, "image", strict)
    identities, boxes["identity"] = _identities(annotations, box_field)
    if identity[0] == "category":
        identities, boxes["identity"] = names, boxes["label"].copy()
    boxes, offsets, lost = _usable(boxes, sizes)
    if len(lost):
        remark = f"boxes without area or with impossible numbers are left out, first annotations[{lost[0]}]"
        told.append(f"{path.name}: {len(lost)} {remark}")
    words, known, tags, tag_states = _image_tags(images, fields, path)
    image_identities, of_images = _identities(images, image_field)
    return CocoTable(
        categories=names,
        image_ids=tuple(str(record["id"]) for record in images),
        files=tuple(record["file_name"] for record in images),
        sizes=sizes,
        offsets=offsets,
        boxes_xyxy=boxes["corners"],
        labels=boxes["label"],
        ignore=boxes["ignore"],
        crowd=boxes["crowd"],
        areas=_areas(boxes["area"], boxes["corners"]),
        identities=identities,
        box_identities=np.where(boxes["crowd"], -1, boxes["identity"]),
        image_identities=image_identities,
        image_identity=of_images,
        tags=tags,
        tag_states=tag_states,
        field_words=words,
        field_known=known,
        warnings=tuple(told),
    )


def _usable(
    boxes: Mapping[str, NDArray[Any]], sizes: NDArray[np.int32]
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64], NDArray[np.int64]]:
    """The columns of the boxes that can be used, image by image; where each image's begin; the records left out."""
    corners, keep = _corners(boxes["bbox"], sizes[boxes["image"]])
    order = np.flatnonzero(keep)[np.argsort(boxes["image"][keep], kind="stable")]
    counts = np.bincount(boxes["image"][order], minlength=len(sizes))
    kept = {name: column[order] for name, column in {**boxes, "corners": corners}.items()}
    return kept, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), np.flatnonzero(~keep)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"annotation file {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"annotation file {path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise DataError(f"annotation file {path} must hold an object with images, annotations and categories")
    return document


def _list(document: Mapping[str, Any], key: str, path: Path) -> list[Record]:
    value = document.get(key)
    if not isinstance(value, list):
        raise DataError(f"{path} has no list '{key}'{suggestion(key, document)}")
    for k, record in enumerate(value):
        if not isinstance(record, dict):
            raise DataError(f"{path}: {key}[{k}] must be an object, got {type(record).__name__}")
    return value


def _get(record: Record, key: str, where: str, kinds: tuple[type, ...]) -> Any:
    """A key that must be there, of one of the kinds."""
    if key not in record:
        raise DataError(f"{where} has no '{key}'")
    value = record[key]
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise DataError(
            f"{where}: '{key}' must be {' or '.join(kind.__name__ for kind in kinds)}, got {str(value)[:60]!r}"
        )
    return value


def _categories(records: Sequence[Record], path: Path) -> tuple[tuple[str, ...], dict[Hashable, int], list[str]]:
    """Names in the file's order, index by category id, and a remark for every name that stands there twice."""
    index: dict[str, int] = {}
    class_of: dict[Hashable, int] = {}
    told = []
    for k, record in enumerate(records):
        where = f"{path}: categories[{k}]"
        ident, name = _get(record, "id", where, (int, str)), str(_get(record, "name", where, (str, int)))
        if ident in class_of:
            raise DataError(f"{where} repeats the id {ident!r}")
        if name in index:
            told.append(f"{path.name}: several categories are named '{name}'; they are taken to be one")
        class_of[ident] = index.setdefault(name, len(index))
    return tuple(index), class_of, told


def _index_images(records: Sequence[Record], path: Path) -> dict[Hashable, int]:
    index: dict[Hashable, int] = {}
    for k, record in enumerate(records):
        where = f"{path}: images[{k}]"
        ident = _get(record, "id", where, (int, str))
        _get(record, "file_name", where, (str,))
        if ident in index:
            raise DataError(f"{where} repeats the id {ident!r} of images[{index[ident]}]")
        index[ident] = k
    return index


def _size(record: Record, k: int, path: Path) -> tuple[int, int]:
    if record.get("width") is None or record.get("height") is None:
        return -1, -1
    width, height = (_get(record, key, f"{path}: images[{k}]", (int, float)) for key in ("width", "height"))
    if not (0 < width < 2**31 and 0 < height < 2**31):
        raise DataError(f"{path}: images[{k}] has an impossible size, width {width} and height {height}")
    return int(height), int(width)


class _Boxes:
    """The annotation records as columns, each checked against the images and categories it names."""

    def __init__(self, path: Path, index_of: Mapping[Hashable, int], class_of: Mapping[Hashable, int]) -> None:
        self.path, self.index_of, self.class_of = path, index_of, class_of

    def gather(self, records: Sequence[Record]) -> dict[str, NDArray[Any]]:
        rows = [self._row(k, record) for k, record in enumerate(records)]
        image, label, bbox, area, ignore, crowd = zip(*rows, strict=True) if rows else ((),) * 6
        return {
            "image": np.array(image, dtype=np.int64),
            "label": np.array(label, dtype=np.int64),
            "bbox": np.array(bbox, dtype=np.float64).reshape(-1, 4),
            "area": np.array(area, dtype=np.float64),
            "ignore": np.array(ignore, dtype=np.bool_),
            "crowd": np.array(crowd, dtype=np.bool_),
        }

    def _row(self, k: int, record: Record) -> tuple[int, int, tuple[float, ...], float, bool, bool]:
        where = f"{self.path}: annotations[{k}]"
        if "id" in record:
            where += f" (id {str(record['id'])[:40]})"
        image = self._known(record, "image_id", self.index_of, "image", where)
        label = self._known(record, "category_id", self.class_of, "category", where)
        bbox = _get(record, "bbox", where, (list,))
        if len(bbox) != 4 or not all(isinstance(x, int | float) and not isinstance(x, bool) for x in bbox):
            raise DataError(f"{where}: 'bbox' must be four numbers x, y, width, height, got {str(bbox)[:60]}")
        area = record.get("area")
        known = isinstance(area, int | float) and _finite(area) > 0
        crowd = bool(record.get("iscrowd"))
        ignore = crowd or bool(record.get("ignore")) or bool(record.get("difficult"))
        return image, label, tuple(_finite(x) for x in bbox), _finite(area) if known else 0.0, ignore, crowd

    def _known(self, record: Record, key: str, index: Mapping[Hashable, int], kind: str, where: str) -> int:
        ident = _get(record, key, where, (int, str))
        if ident not in index:
            raise DataError(f"{where} names the {kind} {ident!r}, which is not in the file ({len(index)} known)")
        return index[ident]


def _finite(value: Any) -> float:
    """A number as a float; NaN for what no float32 picture could hold."""
    return float(value) if abs(value) < 1e9 else math.nan


def _corners(bbox: NDArray[np.float64], sizes: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """x, y, w, h -> corners clipped to the image, and which boxes can be used at all."""
    low, extent = bbox[:, :2], bbox[:, 2:]
    corners = np.concatenate([low, low + extent], axis=1)
    limit = np.where(sizes > 0, sizes, np.inf)[:, ::-1]
    clipped = np.minimum(np.maximum(corners, 0), np.tile(limit, 2)).astype(np.float32)
    with np.errstate(invalid="ignore"):
        usable = (
            np.isfinite(bbox).all(axis=1) & (extent > 0).all(axis=1) & (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        )
    return clipped, usable


def _areas(given: NDArray[np.float64], corners: NDArray[np.float32]) -> NDArray[np.float32]:
    """The file's areas (of the masks, where it has any); the box's own where it says none."""
    own = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    return np.where(given > 0, given, own).astype(np.float32)


def _absent(fields: Sequence[str | None], records: Sequence[Record], path: Path, kind: str, strict: bool) -> list[str]:
    """A remark, or with ``strict`` an error, for every field that no record has."""
    remarks = []
    for field in fields:
        if field is None or not records or any(record.get(field) is not None for record in records):
            continue
        keys = {str(key) for record in records for key in record}
        remarks.append(f"{path.name}: no {kind} has the field '{field}'{suggestion(field, keys)}")
    if strict and remarks:
        raise DataError(f"{path.parent}/{remarks[0]}")
    return remarks


def _identities(records: Sequence[Record], field: str | None) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The values of a field as names in first-seen order, and each record's index into them."""
    found = np.full(len(records), -1, dtype=np.int64)
    if field is None:
        return (), found
    index: dict[str, int] = {}
    for k, record in enumerate(records):
        value = record.get(field)
        if value is not None:
            found[k] = index.setdefault(str(value), len(index))
    return tuple(index), found


def _values(record: Record, field: str) -> tuple[str, ...] | None:
    """The tags a field gives an image; None where it says nothing. A yes-or-no field is itself the tag."""
    value = record.get(field)
    if value is None:
        return None
    if isinstance(value, bool):
        return (field,) if value else ()
    return tuple(str(item) for item in value) if isinstance(value, list) else (str(value),)


def _said(
    records: Sequence[Record], fields: Sequence[str], path: Path
) -> tuple[tuple[tuple[str, ...], ...], list[list[tuple[str, ...] | None]]]:
    """Every field's values in first-seen order, and what each image says in each field."""
    said = [[_values(record, field) for field in fields] for record in records]
    words = []
    for k, field in enumerate(fields):
        found = dict.fromkeys(word for row in said for word in row[k] or ())
        if any(isinstance(record.get(field), bool) for record in records):
            found.setdefault(field)
        if len(found) > _MOST_TAGS:
            raise DataError(
                f"{path}: image field '{field}' has {len(found)} different values; it does not look like tags"
            )
        words.append(tuple(found))
    return tuple(words), said


def field_states(
    words: Sequence[Sequence[str]], known: NDArray[np.bool_], more: Sequence[Sequence[str]]
) -> tuple[tuple[str, ...], NDArray[np.int8]]:
    """Tag names of ``words`` and then ``more``, field by field, and states (N, A): NEGATIVE where a field is known.

    ``known`` is (N, F). An image that lacks a field says nothing of that field's values.
    """
    index: dict[str, int] = {}
    for group in (*words, *more):
        for word in group:
            index.setdefault(word, len(index))
    states = np.full((len(known), len(index)), LabelState.UNLABELLED, dtype=np.int8)
    for k, (ours, theirs) in enumerate(zip(words, more, strict=True)):
        columns = [index[word] for word in (*ours, *theirs)]
        states[np.flatnonzero(known[:, k])[:, None], columns] = LabelState.NEGATIVE
    return tuple(index), states


def _image_tags(
    records: Sequence[Record], fields: Sequence[str], path: Path
) -> tuple[tuple[tuple[str, ...], ...], NDArray[np.bool_], tuple[str, ...], NDArray[np.int8]]:
    """Each field's words, which images have which field (N, F), all tag names, and every image's states (N, A)."""
    words, said = _said(records, fields, path)
    known = np.array([[values is not None for values in row] for row in said], dtype=np.bool_)
    known = known.reshape(len(records), len(fields))
    tags, states = field_states(words, known, [()] * len(words))
    index = {word: k for k, word in enumerate(tags)}
    for k, row in enumerate(said):
        states[k, [index[word] for values in row for word in values or ()]] = LabelState.POSITIVE
    return words, known, tags, states
