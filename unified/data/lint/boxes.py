# SPDX-License-Identifier: Apache-2.0
"""Boxes: whether each is four numbers, and whether they can be a box of the image they name.

Legend: M annotation records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unified.data.lint.finding import Findings, shown
from unified.data.lint.images import Images
from unified.data.lint.sheet import Record, Sheet

EDGE: Final = 1.0  # pixels: what rounding may put over the edge of an image
TINY: Final = 1.0  # pixels
HUGE: Final = 1e9  # pixels: no picture is so large, and float32 would no longer tell neighbours apart
_SHARE: Final = 0.5  # of all boxes, over the edge as they are written and inside as corners: they are corners
_FEW: Final = 3  # boxes over the edge that may be chance

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Boxes:
    """The annotations of a file as columns, row by row of its list."""

    image: Indices  # (M,) row of the image; -1 unknown
    label: Indices  # (M,) class; -1 unknown
    xywh: Floats  # (M, 4) pixels; NaN where these are not four numbers
    sure: Bools  # (M,) neither crowd nor difficult nor ignored
    usable: Bools  # (M,) a box with an area, of a known class, inside a known image
    corners: bool = False  # the file means x1, y1, x2, y2


def check_boxes(sheet: Sheet, images: Images, image: Indices, label: Indices, findings: Findings) -> Boxes:
    """Faults of every box, given which image and class each record names."""
    records = sheet.annotations.records
    xywh = np.full((len(records), 4), np.nan)
    for k, record in enumerate(records):
        found, fault, reason = read_box(record)
        if fault:
            findings.add(fault, sheet.file, sheet.annotations.at(k), "bbox", reason)
        if found is not None:
            xywh[k] = found
    sizes = np.append(images.sizes, [[np.nan, np.nan]], axis=0)[image]
    sure = np.array([not is_ignored(record) for record in records], dtype=np.bool_)
    corners = _are_corners(xywh, sizes)
    if corners:
        reason = f"most of the {len(xywh)} boxes reach over their images, but fit as corners x1, y1, x2, y2"
        findings.add("box-corners", sheet.file, "annotations", "bbox", reason)
        fits = _fits(xywh, sizes)
    else:
        fits = _check_places(sheet, xywh, sizes, findings)
    usable = fits & (image >= 0) & (label >= 0)
    _check_repeats(sheet, xywh, image, label, usable & sure, findings)
    return Boxes(image, label, xywh, sure, usable, corners)


def is_ignored(record: Record) -> bool:
    """Whether the record is a crowd, or marked as difficult or to be ignored."""
    return bool(record.get("iscrowd") or record.get("ignore") or record.get("difficult"))


def read_box(record: Record) -> tuple[tuple[float, ...] | None, str, str]:
    """The four numbers of a record's box, and the fault and its reason where there is one."""
    value = record.get("bbox")
    if value is None:
        return None, "box-missing", "is missing"
    if not isinstance(value, list) or len(value) != 4:
        return None, "box-type", f"must be x, y, width, height; got {shown(value)}"
    if not all(type(x) is float or type(x) is int for x in value):
        texts = all(isinstance(x, str | int | float) and not isinstance(x, bool) for x in value)
        return None, "box-text" if texts else "box-type", f"must be four numbers, got {shown(value)}"
    if not all(-HUGE < x < HUGE for x in value):
        return None, "box-not-finite", f"holds a number that no picture has room for: {shown(value)}"
    return tuple(map(float, value)), "", ""


def _fits(xywh: Floats, sizes: Floats) -> Bools:
    """Boxes with an area of which something is inside their image; an unknown size limits nothing."""
    low, extent = xywh[:, :2], xywh[:, 2:]
    limit = np.where(np.isnan(sizes), np.inf, sizes)
    return _all((extent > 0) & (low < limit) & (low + extent > 0))


def _finite(rows: Floats) -> Bools:
    """(M,): rows of nothing but numbers."""
    return _all(np.isfinite(rows))


def _all(mask: Bools) -> Bools:
    """(M, ...) -> (M,)."""
    result: Bools = np.logical_and.reduce(mask, axis=1)
    return result


def _any(mask: Bools) -> Bools:
    """(M, ...) -> (M,)."""
    result: Bools = np.logical_or.reduce(mask, axis=1)
    return result


def _are_corners(xywh: Floats, sizes: Floats) -> bool:
    """Whether most boxes of the file make no sense as x, y, width, height and all make sense as corners."""
    known = _finite(xywh) & _finite(sizes)
    low, high, limit = xywh[known, :2], xywh[known, 2:], sizes[known]
    over = _any((low + high) > limit + EDGE)
    as_corners = _all((high > low) & (high <= limit + EDGE) & (low >= -EDGE))
    return bool(over.sum() > max(_FEW, _SHARE * len(over)) and as_corners.all())


def _check_places(sheet: Sheet, xywh: Floats, sizes: Floats, findings: Findings) -> Bools:
    low, extent = xywh[:, :2], xywh[:, 2:]
    with np.errstate(invalid="ignore"):
        swapped = _any(extent < 0)
        flat = _any(extent == 0) & ~swapped
        fits = _fits(xywh, sizes)
        outside = ~fits & ~swapped & ~flat & _finite(xywh)
        over = np.maximum(-low, low + extent - sizes)
        over = np.where(np.isnan(over), -low, over).max(axis=1, initial=-np.inf)
        tiny = fits & _any(extent < TINY)
    say = _Speaker(sheet, xywh, sizes, findings)
    say.each("box-swapped", swapped, "has a negative side")
    say.each("box-no-area", flat, "has no area")
    say.each("box-outside", outside, "lies outside the image")
    for k in np.flatnonzero(fits & (over > EDGE)):
        say.one("box-over-edge", int(k), f"reaches {over[k]:.6g} pixels over the edge")
    if tiny.any():
        first = sheet.annotations.at(int(tiny.argmax()))
        reason = f"boxes less than a pixel wide or high: {int(tiny.sum())}, first {first}"
        findings.add("box-tiny", sheet.file, "annotations", "bbox", reason)
    return fits


class _Speaker:
    """Names boxes by their row, with their numbers and their image's size."""

    def __init__(self, sheet: Sheet, xywh: Floats, sizes: Floats, findings: Findings) -> None:
        self.sheet, self.xywh, self.sizes, self.findings = sheet, xywh, sizes, findings

    def one(self, fault: str, k: int, reason: str) -> None:
        box = ", ".join(f"{x:.6g}" for x in self.xywh[k])
        width, height = self.sizes[k]
        image = "" if math.isnan(width) else f" of a {width:g} x {height:g} image"
        self.findings.add(fault, self.sheet.file, self.sheet.annotations.at(k), "bbox", f"[{box}]{image} {reason}")

    def each(self, fault: str, where: Bools, reason: str) -> None:
        for k in np.flatnonzero(where):
            self.one(fault, int(k), reason)


def _check_repeats(
    sheet: Sheet, xywh: Floats, image: Indices, label: Indices, which: Bools, findings: Findings
) -> None:
    for k, first, same in repeats(xywh, image, label, which):
        other = sheet.annotations.at(first)
        if same:
            reason = f"is that of {other}, of the same class"
            findings.add("box-twice", sheet.file, sheet.annotations.at(k), "bbox", reason)
        else:
            reason = f"is that of {other}, of another class"
            findings.add("box-two-classes", sheet.file, sheet.annotations.at(k), "bbox", reason)


def repeats(xywh: Floats, image: Indices, label: Indices, which: Bools) -> Iterator[tuple[int, int, bool]]:
    """Rows whose image and box stand before: (row, the earlier row, whether the class is the same too)."""
    rows = np.flatnonzero(which)
    if not len(rows):
        return
    keys = np.column_stack([image[rows].astype(np.float64), xywh[rows]])
    _, inverse, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    first: dict[tuple[int, int], int] = {}
    boxes: dict[int, int] = {}
    for j in np.flatnonzero(counts[inverse] > 1):
        k, group = int(rows[j]), int(inverse[j])
        earlier = first.setdefault((group, int(label[k])), k)
        known = boxes.setdefault(group, k)
        if earlier != k:
            yield k, earlier, True
        elif known != k:
            yield k, known, False


def number(value: Any) -> float | None:
    """A number, or a text that is one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if -HUGE < found < HUGE else None


def are_numbers(values: list[Any]) -> bool:
    """Whether all of many values are numbers that a picture has room for; a file may hold millions of them."""
    if not {*map(type, values)} <= {int, float}:
        return False
    if not values:
        return True
    return min(values) > -HUGE and max(values) < HUGE and not math.isnan(sum(values))
