# SPDX-License-Identifier: Apache-2.0
"""Annotation records: ids, what they point to, and the fields beside the box."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unified.data.lint.boxes import Boxes, are_numbers, check_boxes, number
from unified.data.lint.categories import Classes
from unified.data.lint.finding import Findings, shown
from unified.data.lint.images import Images
from unified.data.lint.sheet import Record, Sheet, identify, is_id

_FLAGS: Final = (0, 1, None)  # equal to False and True too
OVER: Final = 1.1  # times the box's area, beyond what rounding does


def check_annotations(sheet: Sheet, images: Images, classes: Classes, findings: Findings) -> Boxes:
    """Faults of the list of annotations."""
    rows, file = sheet.annotations, sheet.file
    if not len(rows) and len(sheet.images) and sheet.native:
        findings.add("no-annotations", file, "", "annotations", "the list is empty")
    identify(rows, "annotation", file, findings)
    image = _pointers(sheet, "image_id", images.index, "image", findings)
    label = _pointers(sheet, "category_id", classes.index, "category", findings)
    for k, record in enumerate(rows.records):
        for fault, field, reason in beside(record):
            findings.add(fault, file, rows.at(k), field, reason)
    boxes = check_boxes(sheet, images, image, label, findings)
    _check_areas(sheet, boxes, findings)
    return boxes


def _pointers(
    sheet: Sheet, key: str, index: Mapping[int | str, int], noun: str, findings: Findings
) -> NDArray[np.int64]:
    """The row that each annotation names by an id; -1, and a finding, where there is none."""
    found = np.full(len(sheet.annotations), -1, dtype=np.int64)
    for k, record in enumerate(sheet.annotations.records):
        ident = record.get(key)
        row = index.get(ident) if is_id(ident) else None  # type: ignore[arg-type]
        if row is None:
            reason = _stray(ident, index, noun, key in record)
            findings.add(f"{noun}-unknown", sheet.file, sheet.annotations.at(k), key, reason)
        else:
            found[k] = row
    return found


def _stray(ident: Any, index: Mapping[int | str, int], noun: str, there: bool) -> str:
    if not there or ident is None:
        return "is missing"
    if not is_id(ident):
        return f"must be a number or a text, got {shown(ident)}"
    other = other_type(ident)
    hint = f", though {shown(other)} is" if other in index else ""
    return f"{shown(ident)} is the id of no {noun} of the file that can be told apart ({len(index)} known){hint}"


def other_type(ident: int | str) -> int | str | None:
    """``7`` for ``"7"`` and the other way round."""
    if isinstance(ident, int):
        return str(ident) if abs(ident) < 10**18 else None
    return int(ident) if ident.isascii() and ident.isdecimal() and len(ident) < 18 else None


def beside(record: Record) -> list[tuple[str, str, str]]:
    """Faults of the fields beside the box, as (fault, field, reason)."""
    told = []
    for flag in ("iscrowd", "ignore", "difficult"):
        value = record.get(flag)
        if isinstance(value, list | dict) or value not in _FLAGS:
            told.append(("crowd-value", flag, f"must be 0 or 1, got {shown(value)}"))
    if (outline := record.get("segmentation")) is not None and (reason := outline_fault(outline)):
        told.append(("outline-malformed", "segmentation", reason))
    if (points := record.get("keypoints")) is not None and (reason := _keypoints_fault(points, record)):
        told.append(("keypoints-malformed", "keypoints", reason))
    area = record.get("area")
    if area is not None and (isinstance(area, str) or (found := number(area)) is None or found < 0):
        told.append(("area-impossible", "area", f"must be a number of square pixels, got {shown(area)}"))
    return told


def outline_fault(outline: Any) -> str:
    """What is wrong with a segmentation; empty where nothing is."""
    if isinstance(outline, dict):
        counts, size = outline.get("counts"), outline.get("size")
        if not _is_size(size) or not isinstance(counts, list | str):
            return "a run-length mask needs 'size' [height, width] and 'counts'"
        if isinstance(counts, list) and not all(type(x) is int and x >= 0 for x in counts):
            return "the run lengths must be whole numbers"
        if isinstance(counts, list) and sum(counts) != (pixels := outline["size"][0] * outline["size"][1]):
            return f"the run lengths add up to {sum(counts)}, but its size is {pixels} pixels"
        return ""
    if not isinstance(outline, list):
        return f"must be polygons or a run-length mask, got {shown(outline)}"
    for polygon in outline:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            return f"a polygon needs three or more points x, y; got {shown(polygon)}"
        if not are_numbers(polygon):
            return f"a polygon's coordinates must be finite numbers, got {shown(polygon)}"
    return ""


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(x) is int and x > 0 for x in value)


def _keypoints_fault(points: Any, record: Record) -> str:
    if not isinstance(points, list) or len(points) % 3:
        return f"must be triples x, y, visibility; got {shown(points)}"
    if not are_numbers(points):
        return f"must be finite numbers, got {shown(points)}"
    if not all(x in (0, 1, 2) for x in points[2::3]):
        return "a visibility is neither 0 nor 1 nor 2"
    seen, told = sum(x > 0 for x in points[2::3]), record.get("num_keypoints")
    if told is not None and told != seen:
        return f"{seen} are labelled, but 'num_keypoints' says {shown(told)}"
    return ""


def _check_areas(sheet: Sheet, boxes: Boxes, findings: Findings) -> None:
    if boxes.corners:
        return
    told = [number(record.get("area")) for record in sheet.annotations.records]
    areas = np.array([np.nan if x is None else x for x in told], dtype=np.float64)
    own = boxes.xywh[:, 2:].prod(axis=1)
    with np.errstate(invalid="ignore"):
        over = boxes.usable & (areas > OVER * own + 1)
    for k in np.flatnonzero(over):
        reason = f"{areas[k]:.6g} is more than the {own[k]:.6g} of its box"
        findings.add("area-over-box", sheet.file, sheet.annotations.at(int(k)), "area", reason)
