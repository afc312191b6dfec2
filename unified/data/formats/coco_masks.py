# SPDX-License-Identifier: Apache-2.0
"""COCO's segmentations as one text each: polygons and both kinds of run lengths become compressed run lengths."""

from __future__ import annotations

from array import array
from typing import Any, TypeAlias

from pycocotools import mask as coco_mask

from unified.data.formats.record import is_number
from unified.data.picture import MOST_PIXELS

Shape: TypeAlias = str | list[int] | tuple["array[float]", ...] | None
"""Run lengths compressed or not, or rings of x, y, x, y ...; None where there is no mask, or none that can be read."""


def compact(value: Any) -> Shape:
    """What a record's ``segmentation`` says, in little memory."""
    if isinstance(value, dict):
        counts = value.get("counts")
        if isinstance(counts, str):
            return counts
        whole = isinstance(counts, list) and all(isinstance(n, int) and n >= 0 for n in counts)
        return counts if whole else None
    if not isinstance(value, list):
        return None
    rings = [ring for ring in value if isinstance(ring, list) and len(ring) >= 6 and len(ring) % 2 == 0]
    return tuple(array("d", ring) for ring in rings if all(map(is_number, ring))) or None


def encoded(shape: Shape, size: tuple[int, int]) -> str:
    """A shape of an image of ``size`` (height, width) as compressed run lengths; empty where there is none."""
    height, width = size
    if shape is None or height < 1 or width < 1 or height * width > MOST_PIXELS:
        return ""
    if isinstance(shape, tuple):
        reach = 2 * max(size)  # the rasteriser walks every pixel of an outline, wherever it leads
        if not all(-reach <= value <= reach for ring in shape for value in ring):
            return ""
        merged = coco_mask.merge(coco_mask.frPyObjects([list(ring) for ring in shape], height, width))
        return str(merged["counts"].decode("ascii"))
    if isinstance(shape, str):
        return shape if _fits(shape, height * width) else ""
    if sum(shape) != height * width:
        return ""
    return str(coco_mask.frPyObjects({"size": [height, width], "counts": shape}, height, width)["counts"].decode())


def _fits(text: str, pixels: int) -> bool:
    """Whether compressed run lengths add up to all pixels: the decoder itself does not look.

    Six bits a letter from 48 on: five of the number, low first, and one that says that more follow; the last one's
    fifth bit is the sign. From the third run on a number is the difference to the one two before.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text.encode("ascii", "replace"):
        part = letter - 48
        if not 0 <= part < 64 or shift > 30:
            return False
        value |= (part & 31) << shift
        shift += 5
        if part & 32:
            continue
        value -= (1 << shift) if part & 16 else 0
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return shift == 0 and min(runs, default=-1) >= 0 and sum(runs) == pixels
