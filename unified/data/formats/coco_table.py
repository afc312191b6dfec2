# SPDX-License-Identifier: Apache-2.0
"""A COCO instances file as a table: read once, item by item, every record checked."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unified.contracts.config import IdentityConfig, TagsConfig
from unified.contracts.errors import DataError
from unified.contracts.structures import LabelState
from unified.data.formats.coco_beside import Beside, read_beside
from unified.data.formats.coco_masks import Shape, compact, encoded
from unified.data.formats.json_lists import hand_lists, read_lists
from unified.data.formats.record import Record, absent, finite, get, is_number, known, said_of
from unified.data.formats.strings import Strings
from unified.data.formats.table import Marks, Said, Table, clipped, field_tags, in_order, numbered

_MOST_TAGS: Final = 4096  # a field with more values than this is a name or a number, not a tag
_SHAPE: Final = "an object with images, annotations and categories"


def load_table(
    path: Path,
    tags: TagsConfig,
    identity: IdentityConfig,
    *,
    strict: bool = True,
    beside: Beside | None = None,
    masks: bool = False,
    document: Mapping[str, Any] | None = None,
) -> Table:
    """Reads the file, with ``masks`` the objects' outlines too; not anew where it is at hand as ``document``.

    A tag or identity field that no record has is an error, or with ``strict=False`` a remark.

    Raises:
        DataError: the file is missing, is not JSON, or a record is not as it must be (the message names the record).
    """
    images = _Images(path, tags.fields, None if identity.image == "views" else identity.image)
    categories = _Categories(path)
    objects = _Objects(path, None if identity.boxes == "category" else identity.boxes, masks)
    takers = {"images": images.take, "annotations": objects.take, "categories": categories.take}
    if document is None:
        read_lists(path, takers, _SHAPE)
    else:
        hand_lists(path, document, takers)
    if not images.files:
        raise DataError(f"{path} has no images in it")
    told = [*categories.told, *objects.absent(strict), *images.absent(strict)]
    sizes = np.array(images.sizes, dtype=np.int32).reshape(-1, 2)
    columns, lost = objects.columns(images.index, categories, sizes)
    if len(lost):
        remark = f"boxes without area or with impossible numbers are left out, first annotations[{lost[0]}]"
        told.append(f"{path.name}: {len(lost)} {remark}")
    named = {name: columns.pop(name) for name in ("identities", "ids")}
    if identity.boxes == "category":
        columns["box_identities"] = np.where(columns["crowd"], -1, columns["labels"]).astype(np.int32)
    image_identities, image_identity = numbered(images.identities)
    more = read_beside(beside, images.index, named["ids"]) if beside else {}
    return Table(
        files=Strings.of(images.files),
        image_ids=Strings.of(map(str, images.index)),
        sizes=sizes,
        image_identity=image_identity,
        image_identities=image_identities,
        identities=categories.names if identity.boxes == "category" else named["identities"],
        categories=categories.names,
        category_ids=tuple((str(ident), categories.names[k]) for ident, k in categories.index.items()),
        fields=tags.fields,
        class_marks=images.class_marks(categories),
        warnings=(*told, *more.pop("warnings", ())),
        **columns,
        **images.tags(),
        **more,
    )


class _Categories:
    """Names in the file's order, index by category id, and a remark for every name that stands there twice."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index: dict[Hashable, int] = {}
        self.told: list[str] = []
        self._place: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._place)

    def take(self, k: int, record: Record) -> None:
        where = f"{self.path}: categories[{k}]"
        ident, name = get(record, "id", where, (int, str)), str(get(record, "name", where, (str, int)))
        if ident in self.index:
            raise DataError(f"{where} repeats the id {ident!r}")
        if name in self._place:
            self.told.append(f"{self.path.name}: several categories are named '{name}'; they are taken to be one")
        self.index[ident] = self._place.setdefault(name, len(self._place))


class _Images:
    """The image records as columns."""

    def __init__(self, path: Path, fields: Sequence[str], identity: str | None) -> None:
        self.path, self.fields, self.identity = path, tuple(fields), identity
        self.index: dict[Hashable, int] = {}
        self.files: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self.identities: list[str | None] = []
        self.said: list[list[Said | None]] = []
        self.keys: set[str] = set()
        self._found: set[str] = set()
        self._federated: list[tuple[list[Any], list[Any]] | None] = []

    def take(self, k: int, record: Record) -> None:
        where = f"{self.path}: images[{k}]"
        ident = get(record, "id", where, (int, str))
        self.files.append(get(record, "file_name", where, (str,)))
        if ident in self.index:
            raise DataError(f"{where} repeats the id {ident!r} of images[{self.index[ident]}]")
        self.index[ident] = k
        self.sizes.append(_size(record, where))
        self.keys.update(record)
        said = [said_of(record.get(field), field) for field in self.fields]
        who = record.get(self.identity) if self.identity else None
        self._found.update(field for field, value in zip(self.fields, said, strict=True) if value is not None)
        self._found.update([self.identity] if self.identity and who is not None else [])
        self.said.append(said)
        self.identities.append(None if who is None else str(who))
        self._federated.append(_federated(record, where))

    def absent(self, strict: bool) -> list[str]:
        """A remark, or with ``strict`` an error, for every field that no image has."""
        fields = [field for field in (self.identity, *self.fields) if field and field not in self._found]
        return _told([absent(field, "image", self.keys) for field in fields], self.path, strict)

    def tags(self) -> dict[str, Any]:
        """The tag columns of the table."""
        columns = field_tags(self.said, len(self.fields))
        for field, words in zip(self.fields, columns["field_words"], strict=True):
            if len(words) > _MOST_TAGS:
                raise DataError(
                    f"{self.path}: image field '{field}' has {len(words)} different values; it does not look like tags"
                )
        return columns

    def class_marks(self, categories: _Categories) -> Marks | None:
        """Which classes were looked for in which image, where the file says so (the LVIS convention)."""
        if all(row is None for row in self._federated):
            return None
        rows = []
        for k, row in enumerate(self._federated):
            where = f"{self.path}: images[{k}]"
            said = zip((LabelState.NEGATIVE, LabelState.IGNORE), row or ((), ()), strict=True)
            rows.append({known(i, categories.index, "category", where): int(state) for state, ids in said for i in ids})
        return Marks.of(rows)


def _size(record: Record, where: str) -> tuple[int, int]:
    if record.get("width") is None or record.get("height") is None:
        return -1, -1
    width, height = (get(record, key, where, (int, float)) for key in ("width", "height"))
    if not (0 < width < 2**31 and 0 < height < 2**31):
        raise DataError(f"{where} has an impossible size, width {width} and height {height}")
    return int(height), int(width)


def _federated(record: Record, where: str) -> tuple[list[Any], list[Any]] | None:
    """Categories verified to be absent, and those of which not every instance is marked (Gupta et al. 2019, LVIS)."""
    if "neg_category_ids" not in record and "not_exhaustive_category_ids" not in record:
        return None
    lists = [record.get(key, []) for key in ("neg_category_ids", "not_exhaustive_category_ids")]
    if not all(isinstance(ids, list) and all(isinstance(i, int | str) for i in ids) for ids in lists):
        raise DataError(f"{where}: neg_category_ids and not_exhaustive_category_ids must be lists of category ids")
    return lists[0], lists[1]


class _Objects:
    """The annotation records as columns; which images and categories they name is resolved when all are known."""

    def __init__(self, path: Path, identity: str | None, masks: bool) -> None:
        self.path, self.identity = path, identity
        self.shapes: list[Shape] | None = [] if masks else None
        self.images: list[Hashable] = []
        self.categories: list[Hashable] = []
        self.ids: list[Any] = []
        self.bbox, self.area, self.who = array("d"), array("d"), array("i")
        self.ignore, self.crowd = bytearray(), bytearray()
        self.keys: set[str] = set()
        self._names: dict[str, int] = {}

    def _where(self, k: int, ident: Any) -> str:
        return f"{self.path}: annotations[{k}]" + (f" (id {str(ident)[:40]})" if ident is not None else "")

    def take(self, k: int, record: Record) -> None:
        image, category, bbox = record.get("image_id"), record.get("category_id"), record.get("bbox")
        if type(image) not in (int, str) or type(category) not in (int, str) or not _is_bbox(bbox):
            self._refuse(k, record)
        self.images.append(image)
        self.categories.append(category)
        self.ids.append(record.get("id"))
        self.bbox.extend([finite(x) for x in bbox])  # type: ignore[union-attr]
        if self.shapes is not None:
            self.shapes.append(compact(record.get("segmentation")))
        area = record.get("area")
        self.area.append(max(finite(area), 0.0) if is_number(area) else 0.0)
        crowd = bool(record.get("iscrowd"))
        self.crowd.append(crowd)
        self.ignore.append(crowd or bool(record.get("ignore")) or bool(record.get("difficult")))
        who = record.get(self.identity) if self.identity else None
        self.who.append(-1 if who is None else self._names.setdefault(str(who), len(self._names)))
        if len(self.keys) < 100:  # far more are names of things, not fields
            self.keys.update(record)

    def _refuse(self, k: int, record: Record) -> None:
        where = self._where(k, record.get("id"))
        for key in ("image_id", "category_id"):
            get(record, key, where, (int, str))
        bbox = get(record, "bbox", where, (list,))
        raise DataError(f"{where}: 'bbox' must be four numbers x, y, width, height, got {str(bbox)[:60]}")

    def absent(self, strict: bool) -> list[str]:
        """A remark, or with ``strict`` an error, for an identity field that no annotation has."""
        lost = self.identity is not None and not self._names and len(self.images) > 0
        return _told([absent(str(self.identity), "annotation", self.keys)] if lost else [], self.path, strict)

    def columns(
        self, images: dict[Hashable, int], categories: _Categories, sizes: NDArray[np.int32]
    ) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """The box columns of the table beside the annotations' ids, and the records left out."""
        image = self._resolved(self.images, images, "image")
        label = self._resolved(self.categories, categories.index, "category")
        bbox = np.frombuffer(self.bbox, dtype=np.float64).reshape(-1, 4)
        corners, keep = clipped(np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], axis=1), sizes[image])
        keep &= (bbox[:, 2:] > 0).all(axis=1)
        order, offsets = in_order(image, keep, len(sizes))
        crowd = np.frombuffer(self.crowd, dtype=np.bool_)[order]
        corners, area = corners[order], np.frombuffer(self.area, dtype=np.float64)[order]
        own = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
        columns = {
            "offsets": offsets,
            "boxes_xyxy": corners,
            "labels": label[order].astype(np.int32),
            "ignore": np.frombuffer(self.ignore, dtype=np.bool_)[order],
            "crowd": crowd,
            "areas": np.where(area > 0, area, own).astype(np.float32),  # of the mask, where the file has any
            "box_identities": np.where(crowd, -1, np.frombuffer(self.who, dtype=np.int32)[order]).astype(np.int32),
            "identities": tuple(self._names),
            "ids": [self.ids[k] for k in order.tolist()],
        }
        if self.shapes is not None:
            places = zip(order.tolist(), image[order].tolist(), strict=True)
            columns["masks"] = Strings.of(encoded(self.shapes[k], tuple(sizes[i].tolist())) for k, i in places)
        return columns, np.flatnonzero(~keep)

    def _resolved(self, idents: Sequence[Hashable], index: dict[Hashable, int], kind: str) -> NDArray[np.int64]:
        found = np.fromiter((index.get(i, -1) for i in idents), dtype=np.int64, count=len(idents))
        lost = np.flatnonzero(found < 0)
        if len(lost):
            k = int(lost[0])
            known(idents[k], index, kind, self._where(k, self.ids[k]))
        return found


def _is_bbox(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(is_number(x) for x in value)


def _told(remarks: list[str], path: Path, strict: bool) -> list[str]:
    if strict and remarks:
        raise DataError(f"{path}: {remarks[0]}")
    return [f"{path.name}: {remark}" for remark in remarks]
