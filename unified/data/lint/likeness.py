# SPDX-License-Identifier: Apache-2.0
"""Pictures that look the same: a 64-bit difference hash finds candidates, their fine detail confirms them.

dHash (Krawetz 2013): the picture is shrunk to 9 x 8 grey values, and each bit says whether a value is brighter than its
neighbour on the right. Copies, rescaled and recompressed ones differ in few bits; so do strangers on one plain ground,
whose detail (32 x 32 grey values less their surroundings) does not correlate as that of copies does.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from unified.data.picture import FORMATS, MOST_PIXELS

NEAR: Final = 10  # bits
SAME: Final = 0.7  # correlation of fine detail: copies have 0.9 and more, strangers on one ground 0.5 and less
BUDGET: Final = 6_000  # pictures decoded unless all are asked for: some seconds
_FLAT: Final = 1.0  # grey levels: a picture with less contrast has nothing to tell it by
_CHUNK: Final = 1 << 22  # pairs compared at a time

Hashes = NDArray[np.uint64]
Details = NDArray[np.float16]


@dataclass(frozen=True)
class Twin:
    """Two pictures that look the same."""

    train: int  # position among the training pictures
    val: int
    bits: int  # that differ, of 64


@dataclass(frozen=True, eq=False)
class Prints:
    """Some pictures in short. P of them could be read."""

    rows: NDArray[np.int64]  # (P,) positions in the list that was given
    hashes: Hashes  # (P,)
    details: Details  # (P, 1024) unit length
    asked: int  # pictures that were looked at
    total: int


def fingerprints(paths: Sequence[Path], most: int | None) -> Prints:
    """Hashes of the pictures, or of ``most`` of them, evenly spread. Damaged and flat ones have none."""
    chosen = np.arange(len(paths))
    if most is not None and len(paths) > most:
        chosen = np.linspace(0, len(paths) - 1, most).astype(np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the decoders
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            found = list(pool.map(lambda k: fingerprint(paths[k]), chosen))
    kept = [(k, *value) for k, value in zip(chosen, found, strict=True) if value is not None]
    rows = np.array([k for k, _, _ in kept], dtype=np.int64)
    hashes = np.array([bits for _, bits, _ in kept], dtype=np.uint64)
    details = np.array([detail for _, _, detail in kept], dtype=np.float16).reshape(len(kept), -1)
    return Prints(rows, hashes, details, len(chosen), len(paths))


def fingerprint(path: Path) -> tuple[int, Details] | None:
    """The dHash of a picture and its fine detail; None where it cannot be read or has nothing to tell it by."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                return None
            image.draft("L", (36, 36))  # a JPEG is decoded at an eighth of its size where that is enough
            grey = image.convert("L")
    except Exception:  # told by the check of the picture itself
        return None
    small = np.asarray(grey.resize((9, 8), Image.Resampling.BOX))
    fine = grey.resize((32, 32), Image.Resampling.BOX)
    detail = np.asarray(fine, dtype=np.float32) - np.asarray(fine.filter(ImageFilter.BoxBlur(2)), dtype=np.float32)
    detail -= detail.mean()
    if detail.std() < _FLAT:
        return None
    bits = (small[:, :-1] > small[:, 1:]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big"), (detail / np.linalg.norm(detail)).astype(
        np.float16
    ).ravel()


def twins(train: Prints, val: Prints) -> list[Twin]:
    """For every validation picture that has one, the training picture most like it."""
    if not len(train.hashes) or not len(val.hashes):
        return []
    step = max(1, _CHUNK // len(train.hashes))
    found = []
    for start in range(0, len(val.hashes), step):
        bits = ones(val.hashes[start : start + step, None] ^ train.hashes[None])
        for j in np.flatnonzero(bits.min(axis=1) <= NEAR):
            near = np.flatnonzero(bits[j] <= NEAR)
            alike = train.details[near].astype(np.float32) @ val.details[start + j].astype(np.float32)
            best = int(alike.argmax())
            if alike[best] >= SAME:
                found.append(Twin(int(train.rows[near[best]]), int(val.rows[start + j]), int(bits[j, near[best]])))
    return found


def ones(words: Hashes) -> NDArray[np.uint8]:
    """How many bits are set in each word."""
    low, pairs, nibbles, product = (
        np.uint64(x) for x in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x0101010101010101)
    )
    words = words - ((words >> np.uint64(1)) & low)
    words = (words & pairs) + ((words >> np.uint64(2)) & pairs)
    words = (words + (words >> np.uint64(4))) & nibbles
    return ((words * product) >> np.uint64(56)).astype(np.uint8)
