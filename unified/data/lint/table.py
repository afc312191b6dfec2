# SPDX-License-Identifier: Apache-2.0
"""Data sets of other formats as sheets: their readers' tables, laid out as the records a COCO file would hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unified.data.formats.flaw import Place
from unified.data.formats.table import Table
from unified.data.lint.pictures import header
from unified.data.lint.sheet import Rows, Sheet
from unified.data.source import Source

Places = Mapping[str, tuple[Place, Sequence[Place]]]


def sheet_of(source: Source, file: str, whole: bool, places: Places) -> Sheet | None:
    """The records of an opened data set; None where its format keeps them to itself.

    Args:
        source: the data set's split.
        file: what it is called.
        whole: ask the pictures for the sizes that the files do not tell.
        places: where pictures and their boxes were read, by the pictures' names.
    """
    table: Any = getattr(source, "table", None)
    if not isinstance(table, Table):
        return None
    folder = getattr(source, "images", None)
    sizes = _sizes(table, folder if whole else None)
    images = [_image(table, k, size) for k, size in enumerate(sizes)]
    categories = [{"id": k, "name": word} for k, word in enumerate(table.categories)]
    rows, annotations = _annotations(table, sizes)
    known = [places.get(name) for name in table.files]
    starts = np.repeat(table.offsets[:-1], np.diff(table.offsets))
    owner = np.repeat(np.arange(len(known)), np.diff(table.offsets))
    boxes = [_box_place(known[owner[row]], row - int(starts[row])) for row in rows]
    return Sheet(
        file,
        Rows("images", images, range(len(images)), [each and each[0] for each in known]),
        Rows("categories", categories, range(len(categories))),
        Rows("annotations", annotations, range(len(annotations)), boxes),
        folder=Path(folder) if folder else None,
        native=False,
    )


def _box_place(known: tuple[Place, Sequence[Place]] | None, k: int) -> Place | None:
    return known[1][k] if known is not None and k < len(known[1]) else None


def _sizes(table: Table, folder: Path | None) -> list[tuple[int, int] | None]:
    """Width and height of every image, from its picture's header where the files do not tell."""
    found: list[tuple[int, int] | None] = []
    for k, name in enumerate(table.files):
        height, width = (int(side) for side in table.sizes[k])
        if height > 0:
            found.append((width, height))
            continue
        read = header(folder / name) if folder else ""
        found.append(None if isinstance(read, str) else read[0])
    return found


def _image(table: Table, k: int, size: tuple[int, int] | None) -> dict[str, Any]:
    record: dict[str, Any] = {"id": table.image_ids[k], "file_name": table.files[k]}
    return record if size is None else {**record, "width": size[0], "height": size[1]}


def _annotations(table: Table, sizes: list[tuple[int, int] | None]) -> tuple[list[int], list[dict[str, Any]]]:
    """Records of all boxes that can be told in pixels, and their rows in the table."""
    rows, records = [], []
    for k, size in enumerate(sizes):
        if table.scaled and size is None:
            continue
        scale = np.array([*size, *size] if table.scaled and size else [1, 1, 1, 1], dtype=np.float64)
        for row in range(int(table.offsets[k]), int(table.offsets[k + 1])):
            x0, y0, x1, y1 = (table.boxes_xyxy[row] * scale).tolist()
            flags = {"iscrowd": int(table.crowd[row])} | ({"ignore": 1} if table.ignore[row] else {})
            box = [round(x, 3) for x in (x0, y0, x1 - x0, y1 - y0)]
            record = {"id": row, "image_id": table.image_ids[k], "category_id": int(table.labels[row]), "bbox": box}
            rows.append(row)
            records.append({**record, **flags})
    return rows, records
