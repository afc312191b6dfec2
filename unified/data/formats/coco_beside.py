# SPDX-License-Identifier: Apache-2.0
"""COCO's other files about the same images: key points, captions and panoptic segments, as columns beside the boxes."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from unified.contracts.errors import DataError
from unified.data.formats.json_lists import read_lists
from unified.data.formats.record import Record, finite, get, is_number
from unified.data.formats.strings import Strings
from unified.data.formats.table import CaptionTable, KeypointTable, PanopticTable

_SHAPE: Final = "an object with images and annotations"


@dataclass(frozen=True)
class Beside:
    """The files of one split that are there."""

    keypoints: Path | None = None
    captions: Path | None = None
    panoptic: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.keypoints, self.captions, self.panoptic) if path is not None)


def read_beside(files: Beside, images: Mapping[Hashable, int], boxes: Sequence[Any]) -> dict[str, Any]:
    """Columns of a table, and ``warnings``. ``boxes`` are the ids of the annotations in the table's order.

    Raises:
        DataError: a file is missing, is not JSON, or a record is not as it must be.
    """
    found: dict[str, Any] = {}
    told: list[str] = []
    if files.keypoints:
        found["keypoints"] = _keypoints(files.keypoints, boxes, told)
    if files.captions:
        found["captions"] = _captions(files.captions, images, told)
    if files.panoptic:
        found["panoptic"] = _panoptic(files.panoptic, images, told)
    return {**found, "warnings": tuple(told)}


def _keypoints(path: Path, boxes: Sequence[Any], told: list[str]) -> KeypointTable:
    """Points by the annotation's id, which COCO's files share."""
    row_of = {ident: k for k, ident in enumerate(boxes) if ident is not None}
    row = np.full(len(boxes), -1, dtype=np.int32)
    points, counts, named, strangers = array("f"), [0], [], 0

    def category(k: int, record: Record) -> None:
        if isinstance(record.get("keypoints"), list):
            named.append((tuple(map(str, record["keypoints"])), _skeleton(record.get("skeleton"))))

    def take(k: int, record: Record) -> None:
        nonlocal strangers
        values = record.get("keypoints")
        if values is None:
            return
        where = f"{path}: annotations[{k}]"
        if not isinstance(values, list) or len(values) % 3 or not all(is_number(x) for x in values):
            raise DataError(f"{where}: 'keypoints' must be numbers x, y, visibility for every point")
        at = row_of.get(get(record, "id", where, (int, str)))
        if at is None:
            strangers += 1
            return
        row[at] = len(counts) - 1
        points.extend([finite(x) for x in values])
        counts.append(len(values) // 3)

    read_lists(path, {"annotations": take, "categories": category}, "an object with annotations and categories")
    if strangers:
        told.append(f"{path.name}: {strangers} objects with key points have no box of the same id; they are left out")
    names, skeleton = max(named, key=lambda pair: len(pair[0]), default=((), ()))
    values = np.array(points, dtype=np.float32).reshape(-1, 3)
    return KeypointTable(row, np.cumsum(counts, dtype=np.int64), values, names, skeleton)


def _skeleton(value: Any) -> tuple[tuple[int, int], ...]:
    """COCO counts the points of a skeleton from 1."""
    pairs = value if isinstance(value, list) else []
    whole = (p for p in pairs if isinstance(p, list) and len(p) == 2 and all(isinstance(x, int) for x in p))
    return tuple((a - 1, b - 1) for a, b in whole)


def _captions(path: Path, images: Mapping[Hashable, int], told: list[str]) -> CaptionTable:
    texts: list[list[str]] = [[] for _ in images]
    strangers = 0

    def take(k: int, record: Record) -> None:
        nonlocal strangers
        where = f"{path}: annotations[{k}]"
        text, image = get(record, "caption", where, (str,)), get(record, "image_id", where, (int, str))
        if image in images:
            texts[images[image]].append(text.strip())
        else:
            strangers += 1

    read_lists(path, {"annotations": take}, _SHAPE)
    if strangers:
        told.append(f"{path.name}: {strangers} captions are of images that the split has not; they are left out")
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return CaptionTable(offsets, Strings.of(text for group in texts for text in group))


def _panoptic(path: Path, images: Mapping[Hashable, int], told: list[str]) -> PanopticTable:
    files = [""] * len(images)
    segments: list[list[tuple[int, int, float, bool]]] = [[] for _ in images]
    classes: dict[Hashable, tuple[int, str, bool]] = {}
    records: list[tuple[int, Record]] = []

    def category(k: int, record: Record) -> None:
        where = f"{path}: categories[{k}]"
        name, ident = get(record, "name", where, (str,)), get(record, "id", where, (int, str))
        classes[ident] = (len(classes), name, bool(record.get("isthing", 1)))

    def take(k: int, record: Record) -> None:
        where = f"{path}: annotations[{k}]"
        image, name = get(record, "image_id", where, (int, str)), get(record, "file_name", where, (str,))
        if image in images:
            files[images[image]] = name
            records.append((images[image], {"k": k, "segments": get(record, "segments_info", where, (list,))}))

    read_lists(path, {"annotations": take, "categories": category}, _SHAPE)
    for image, record in records:
        segments[image] = [_segment(s, classes, f"{path}: annotations[{record['k']}]") for s in record["segments"]]
    flat = [segment for group in segments for segment in group]
    if not any(files):
        told.append(f"{path.name}: none of its images is in the split")
    ids, labels, areas, crowd = zip(*flat, strict=True) if flat else ((), (), (), ())
    return PanopticTable(
        files=Strings.of(files),
        offsets=np.cumsum([0, *map(len, segments)], dtype=np.int64),
        ids=np.array(ids, dtype=np.int32),
        labels=np.array(labels, dtype=np.int32),
        areas=np.array(areas, dtype=np.float32),
        crowd=np.array(crowd, dtype=np.bool_),
        names=tuple(name for _, name, _ in classes.values()),
        things=tuple(thing for _, _, thing in classes.values()),
    )


def _segment(
    record: Any, classes: Mapping[Hashable, tuple[int, str, bool]], where: str
) -> tuple[int, int, float, bool]:
    if not isinstance(record, dict):
        raise DataError(f"{where}: segments_info must hold objects, got {type(record).__name__}")
    ident, category = get(record, "id", where, (int,)), get(record, "category_id", where, (int, str))
    if category not in classes or not 0 <= ident < 1 << 24:
        raise DataError(f"{where}: segment {ident} of category {category!r} is unknown ({len(classes)} categories)")
    area = record.get("area")
    return ident, classes[category][0], finite(area) if is_number(area) else 0.0, bool(record.get("iscrowd"))
