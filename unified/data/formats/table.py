# SPDX-License-Identifier: Apache-2.0
"""What any format's files say of one split, as flat arrays: checked once, compact, mapped by every process.

Legend: N images, M boxes in the images' order, A tags, K box classes, F tag fields of an image record.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unified.contracts.structures import LabelState
from unified.data.formats.flaw import REFUSE, Faults, Place
from unified.data.formats.strings import Strings

EDGE: Final = 1.0  # pixels: what rounding may put over the edge of an image
SLACK: Final = 0.01  # the same as a share of a side


@dataclass(frozen=True, eq=False)
class Marks:
    """Label states said image by image: those of image ``i`` stand at ``offsets[i]:offsets[i + 1]``."""

    offsets: NDArray[np.int64]  # (N + 1,)
    words: NDArray[np.int32]  # index of a tag or of a class
    states: NDArray[np.int8]  # LabelState

    @classmethod
    def of(cls, rows: Iterable[dict[int, int]]) -> Marks:
        """From one mapping of word to state an image."""
        words, states, counts = [], [], [0]
        for row in rows:
            words += list(row)
            states += list(row.values())
            counts.append(len(row))
        return cls(np.cumsum(counts, dtype=np.int64), np.array(words, dtype=np.int32), np.array(states, dtype=np.int8))

    @classmethod
    def none(cls, images: int) -> Marks:
        """Nothing said of any image."""
        return cls(np.zeros(images + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int8))

    def at(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
        """The words of an image and their states."""
        part = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return self.words[part], self.states[part]


@dataclass(frozen=True, eq=False)
class KeypointTable:
    """J objects with key points. ``row`` (M,) leads from a box to its object or is -1."""

    row: NDArray[np.int32]  # (M,)
    offsets: NDArray[np.int64]  # (J + 1,) into points
    points: NDArray[np.float32]  # (sum of points, 3) x, y in pixels, visibility 0 unlabelled, 1 hidden, 2 visible
    names: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...]  # pairs of indices into names


@dataclass(frozen=True, eq=False)
class CaptionTable:
    """Sentences about images: those of image ``i`` are ``texts[offsets[i]:offsets[i + 1]]``."""

    offsets: NDArray[np.int64]  # (N + 1,)
    texts: Strings


@dataclass(frozen=True, eq=False)
class PanopticTable:
    """S segments in the images' order, and the picture each image's segments are drawn in ('' where it has none)."""

    files: Strings  # N, relative to the panoptic folder
    offsets: NDArray[np.int64]  # (N + 1,)
    ids: NDArray[np.int32]  # (S,) the number drawn: R + 256 G + 65536 B
    labels: NDArray[np.int32]  # (S,) into names
    areas: NDArray[np.float32]  # (S,) px²
    crowd: NDArray[np.bool_]  # (S,)
    names: tuple[str, ...]
    things: tuple[bool, ...]  # countable objects, not stuff


@dataclass(frozen=True, eq=False)
class Table:
    """One split of one dataset in its own words.

    ``field_words`` are the values of each tag field. An image that has the field says no to all of them but those that
    ``tag_marks`` say otherwise of; of tags outside the fields only the marks speak. ``class_marks`` is None where the
    dataset's claim holds for every image; otherwise a class that an image neither marks nor boxes was not looked for.
    """

    files: Strings  # N, below the split's images folder
    image_ids: Strings  # N
    sizes: NDArray[np.int32]  # (N, 2) height, width in pixels; -1 unknown
    offsets: NDArray[np.int64]  # (N + 1,) into the boxes
    boxes_xyxy: NDArray[np.float32]  # (M, 4) pixels of the original image, or with ``scaled`` shares of its sides
    labels: NDArray[np.int32]  # (M,) into categories
    ignore: NDArray[np.bool_]  # (M,) crowd, ignored or difficult
    crowd: NDArray[np.bool_]  # (M,)
    areas: NDArray[np.float32]  # (M,) px², or with ``scaled`` shares of the picture
    box_identities: NDArray[np.int32]  # (M,) into identities, -1 unknown
    image_identity: NDArray[np.int32]  # (N,) into image_identities, -1 unknown
    field_known: NDArray[np.bool_]  # (N, F)
    tag_marks: Marks
    categories: tuple[str, ...] = ()
    category_ids: tuple[tuple[str, str], ...] = ()  # the file's own id of a category as text, and the name
    identities: tuple[str, ...] = ()
    image_identities: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()  # F names
    field_words: tuple[tuple[str, ...], ...] = ()
    class_marks: Marks | None = None
    scaled: bool = False
    keypoints: KeypointTable | None = None
    captions: CaptionTable | None = None
    panoptic: PanopticTable | None = None
    masks: Strings | None = None  # M run-length masks of COCO, '' where a box has none
    warnings: tuple[str, ...] = ()
    folder: Path | None = None  # where it is stored, if it is

    def __len__(self) -> int:
        return len(self.files)

    def rows(self, index: int) -> slice:
        """Where the boxes of an image stand."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def __reduce__(self) -> Any:
        from unified.data.formats.store import read_table

        return super().__reduce__() if self.folder is None else (read_table, (self.folder,))


@dataclass
class Boxes:
    """Boxes as a reader finds them, in any order of images; :meth:`columns` sorts and checks them."""

    images: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    corners: list[tuple[float, float, float, float]] = field(default_factory=list)
    ignore: list[bool] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    identities: list[int] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    in_order: list[list[Place]] = field(default_factory=list)  # of the boxes kept, by image

    def add(
        self,
        image: int,
        label: int,
        corners: tuple[float, float, float, float],
        place: Place,
        *,
        ignore: bool = False,
        crowd: bool = False,
        identity: int = -1,
    ) -> None:
        """One box, its corners x0, y0, x1, y1 in pixels or shares."""
        self.images.append(image)
        self.labels.append(label)
        self.corners.append(corners)
        self.ignore.append(ignore or crowd)
        self.crowd.append(crowd)
        self.identities.append(identity)
        self.places.append(place)

    def columns(
        self, sizes: NDArray[np.int32], *, scaled: bool = False, faults: Faults = REFUSE
    ) -> tuple[dict[str, Any], list[str]]:
        """The box columns of a :class:`Table`, and a remark where boxes had to be left out."""
        image = np.array(self.images, dtype=np.int64)
        given = np.array(self.corners, dtype=np.float64).reshape(-1, 4)
        limits = np.ones((len(sizes), 2)) if scaled else sizes
        corners, keep = clipped(given, limits[image])
        kept, offsets = in_order(image, keep, len(sizes))
        crowd = np.array(self.crowd, dtype=np.bool_)[kept]
        columns = {
            "offsets": offsets,
            "boxes_xyxy": corners[kept],
            "labels": np.array(self.labels, dtype=np.int32)[kept],
            "ignore": np.array(self.ignore, dtype=np.bool_)[kept],
            "crowd": crowd,
            "areas": (corners[kept, 2:] - corners[kept, :2]).prod(axis=1),
            "box_identities": np.where(crowd, -1, np.array(self.identities, dtype=np.int32)[kept]).astype(np.int32),
            "scaled": scaled,
        }
        lost = np.flatnonzero(~keep)
        if faults.collecting:
            self.in_order = [[self.places[k] for k in kept[low:high]] for low, high in itertools.pairwise(offsets)]
            for k, fault, reason in doubtful(given, limits[image], SLACK if scaled else EDGE):
                faults.doubt(fault, self.places[k], "box", reason)
        if not len(lost) or faults.collecting:
            return columns, []
        reason = "boxes without area inside the picture or with impossible numbers are left out"
        return columns, [f"{len(lost)} {reason}, first {self.places[lost[0]]}"]


def doubtful(corners: NDArray[np.float64], sizes: NDArray[Any], slack: float) -> Iterator[tuple[int, str, str]]:
    """Boxes (M, 4) that can be no box of their pictures (M, 2: height, width; -1 unknown): row, fault and reason.

    ``slack``: what may reach over an edge.
    """
    limit = np.where(sizes > 0, sizes, np.inf)[:, ::-1]
    low, high = corners[:, :2], corners[:, 2:]
    with np.errstate(invalid="ignore"):
        over = np.maximum(-low, high - limit).max(axis=1, initial=-np.inf)
        tests = {
            "box-not-finite": (~np.isfinite(corners).all(axis=1), "holds a number that no picture has room for"),
            "box-swapped": ((high < low).any(axis=1), "ends before it begins"),
            "box-no-area": ((high <= low).any(axis=1), "has no area"),
            "box-outside": (((low >= limit) | (high <= 0)).any(axis=1), "lies outside the image"),
            "box-over-edge": (over > slack, "reaches over the edge"),
        }
    told = np.zeros(len(corners), dtype=np.bool_)
    for fault, (where, reason) in tests.items():
        for k in np.flatnonzero(where & ~told):
            box = ", ".join(f"{x:.6g}" for x in corners[k])
            size = f" of a {limit[k, 0]:g} x {limit[k, 1]:g} image" if sizes[k, 0] > 1 else ""
            yield int(k), fault, f"corners [{box}]{size}: it {reason}"
        told |= where


def clipped(corners: NDArray[np.float64], sizes: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Corners (M, 4) inside their pictures (M, 2: height, width; -1 unknown), and which boxes can be used at all."""
    limit = np.where(sizes > 0, sizes, np.inf)[:, ::-1]
    with np.errstate(invalid="ignore", over="ignore"):
        inside = np.minimum(np.maximum(corners, 0), np.tile(limit, 2)).astype(np.float32)
        usable = np.isfinite(corners).all(axis=1) & (corners[:, 2:] > corners[:, :2]).all(axis=1)
        return inside, usable & (inside[:, 2:] > inside[:, :2]).all(axis=1)


def in_order(
    images: NDArray[np.int64], keep: NDArray[np.bool_], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The kept records sorted by image, in their own order within each, and where each image's begin."""
    order = np.flatnonzero(keep)[np.argsort(images[keep], kind="stable")]
    counts = np.bincount(images[order], minlength=count)
    return order, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def numbered(values: Iterable[str | None]) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Distinct values in first-seen order, and each one's number; -1 for None."""
    index: dict[str, int] = {}
    found = [-1 if value is None else index.setdefault(value, len(index)) for value in values]
    return tuple(index), np.array(found, dtype=np.int32)


class Said(NamedTuple):
    """What an image says in one field: words with their states; ``whole``: and that all other values are absent."""

    states: dict[str, int]
    whole: bool = True


def listed(words: Iterable[str]) -> Said:
    """All that is present, and nothing else is."""
    return Said(dict.fromkeys(words, int(LabelState.POSITIVE)))


def field_tags(rows: Sequence[Sequence[Said | None]], fields: int) -> dict[str, Any]:
    """The tag columns of a :class:`Table` from what each image says in each field; None where it lacks the field."""
    words = tuple(
        tuple(dict.fromkeys(w for row in rows if (said := row[k]) for w in said.states)) for k in range(fields)
    )
    index = {word: k for k, word in enumerate(dict.fromkeys(word for group in words for word in group))}
    known = np.array([[said is not None and said.whole for said in row] for row in rows], dtype=np.bool_)
    return {
        "tags": tuple(index),
        "field_words": words,
        "field_known": known.reshape(len(rows), fields),
        "tag_marks": Marks.of(_marked(row, index) for row in rows),
    }


def _marked(row: Sequence[Said | None], index: dict[str, int]) -> dict[int, int]:
    """The words of all fields of an image; a yes in one field outweighs a no in another."""
    marks: dict[int, int] = {}
    for said in row:
        for word, state in (said.states if said else {}).items():
            marks[index[word]] = max(state, marks.get(index[word], 0))
    return marks
