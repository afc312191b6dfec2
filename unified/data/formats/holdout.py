# SPDX-License-Identifier: Apache-2.0
"""A part of a training split kept for validation, for datasets that come as one."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unified.contracts.config import DatasetConfig
from unified.contracts.errors import DataError
from unified.data.formats.store import Scan
from unified.data.formats.strings import Strings
from unified.data.formats.table import CaptionTable, Marks, PanopticTable, Table
from unified.data.source import Split


def share_of(name: str, config: DatasetConfig) -> float:
    """The option ``holdout`` of a dataset, 0 where it has none.

    Raises:
        DataError: it is no share, or the dataset has a validation split.
    """
    share = config.options.get("holdout", 0.0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise DataError(f"dataset '{name}': holdout must be a share from 0 to 1, got {share!r}")
    if share and config.val is not None:
        raise DataError(f"dataset '{name}': it has a 'val' split; leave out the option holdout")
    return float(share)


def held_out(scan: Scan, share: float, split: Split) -> Scan:
    """The scan of one side of a split that is cut in two: the last ``share`` of the images by a hash of their names.

    So an image stays on its side when others come or go, but for the few at the cut.
    """

    def build() -> Table:
        table = scan.build()
        if len(table) < 2:
            raise DataError(f"holdout needs at least two images, got {len(table)}")
        order = np.argsort([zlib.crc32(name.encode("utf-8", "replace")) for name in table.files], kind="stable")
        kept = min(max(round(share * len(table)), 1), len(table) - 1)
        rows = order[-kept:] if split == "val" else order[:-kept]
        return subset(table, np.sort(rows))

    return dataclasses.replace(scan, settings={**scan.settings, "holdout": share, "side": split}, build=build)


def subset(table: Table, images: NDArray[np.int64]) -> Table:
    """The table of some of its images; its words stay."""
    boxes, offsets = _spread(table.offsets, images)
    per_box = ("boxes_xyxy", "labels", "ignore", "crowd", "areas", "box_identities")
    per_image = ("sizes", "image_identity", "field_known")
    columns: dict[str, Any] = {name: getattr(table, name)[boxes] for name in per_box}
    columns |= {name: getattr(table, name)[images] for name in per_image}
    columns |= {name: Strings.of(getattr(table, name)[int(k)] for k in images) for name in ("files", "image_ids")}
    points = table.keypoints
    return dataclasses.replace(
        table,
        **columns,
        offsets=offsets,
        tag_marks=_marks(table.tag_marks, images),
        class_marks=None if table.class_marks is None else _marks(table.class_marks, images),
        keypoints=None if points is None else dataclasses.replace(points, row=points.row[boxes]),
        captions=None if table.captions is None else _captions(table.captions, images),
        panoptic=None if table.panoptic is None else _panoptic(table.panoptic, images),
        folder=None,
    )


def _spread(offsets: NDArray[np.int64], images: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows that belong to some images, and where each image's begin among them."""
    rows = [np.arange(offsets[k], offsets[k + 1]) for k in images]
    counts = offsets[images + 1] - offsets[images]
    return np.concatenate(rows).astype(np.int64), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _marks(marks: Marks, images: NDArray[np.int64]) -> Marks:
    rows, offsets = _spread(marks.offsets, images)
    return Marks(offsets, marks.words[rows], marks.states[rows])


def _captions(captions: CaptionTable, images: NDArray[np.int64]) -> CaptionTable:
    rows, offsets = _spread(captions.offsets, images)
    return CaptionTable(offsets, Strings.of(captions.texts[int(k)] for k in rows))


def _panoptic(found: PanopticTable, images: NDArray[np.int64]) -> PanopticTable:
    rows, offsets = _spread(found.offsets, images)
    columns: dict[str, Any] = {name: getattr(found, name)[rows] for name in ("ids", "labels", "areas", "crowd")}
    files = Strings.of(found.files[int(k)] for k in images)
    return dataclasses.replace(found, files=files, offsets=offsets, **columns)
