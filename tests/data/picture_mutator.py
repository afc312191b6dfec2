# SPDX-License-Identifier: Apache-2.0
"""Damages picture files in a seeded way and reads them. Run as a program: ``picture_mutator.py FOLDER FIRST LAST``.

Mutation k damages one of some twenty whole pictures of all formats: bits, bytes, blocks and lengths, cut and doubled
pieces, numbers of the header; of PNG also with checksums set right again, so that the damage gets past them.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import sys
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

EDGES = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 40000, 65500)


def whole_pictures() -> list[bytes]:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((48, 36), Image.Resampling.BICUBIC)
    grey, deep = noise.convert("L"), Image.fromarray(np.asarray(noise.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6

    def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    return [
        saved(noise, "JPEG", exif=exif),
        saved(noise, "JPEG", progressive=True, quality=60),
        saved(noise.convert("CMYK"), "JPEG"),
        saved(grey, "JPEG", restart_marker_blocks=2),
        saved(noise, "PNG"),
        saved(noise.quantize(32), "PNG", transparency=3),
        saved(noise.convert("RGBA"), "PNG", exif=exif),
        saved(deep, "PNG"),
        saved(noise.convert("1"), "PNG"),
        saved(noise, "WEBP", quality=70, exif=exif),
        saved(noise.convert("RGBA"), "WEBP", lossless=True),
        saved(noise, "WEBP", save_all=True, append_images=[noise.rotate(90), noise.rotate(180)]),
        saved(noise, "BMP"),
        saved(noise.quantize(16), "BMP"),
        saved(noise, "TIFF"),
        saved(noise, "TIFF", compression="tiff_lzw", exif=exif),
        saved(noise, "TIFF", compression="tiff_adobe_deflate"),
        saved(noise, "TIFF", compression="jpeg"),
        saved(noise, "TIFF", compression="packbits"),
        saved(noise.convert("1"), "TIFF", compression="group4"),
        saved(deep, "TIFF"),
        saved(noise.convert("CMYK"), "TIFF", compression="tiff_lzw"),
        saved(noise.convert("F").point(lambda v: v / 255), "TIFF"),
    ]


def mutated(pictures: list[bytes], k: int) -> bytes:
    """Picture file number ``k``: damaged in one way or some."""
    rng = np.random.default_rng([8, k])
    data = bytearray(pictures[int(rng.integers(len(pictures)))])
    for _ in range(min(int(rng.geometric(0.5)), 8)):
        _damage(data, rng, pictures)
    return _mend(bytes(data)) if data.startswith(b"\x89PNG") and rng.random() < 0.7 else bytes(data)


def _damage(data: bytearray, rng: np.random.Generator, pictures: list[bytes]) -> None:
    length = max(len(data), 8)
    place = int(rng.integers(64 if rng.random() < 0.5 else length)) % length  # headers are worth half of the effort
    kind, run = int(rng.integers(9)), int(rng.integers(1, 65))
    if kind == 0 and place < len(data):
        data[place] ^= 1 << int(rng.integers(8))
    elif kind == 1 and place < len(data):
        data[place] = int(rng.integers(256))
    elif kind == 2:
        form = ("<H", ">H", "<I", ">I")[int(rng.integers(4))]
        number = int(rng.choice(EDGES)) % (1 << 8 * struct.calcsize(form))
        data[place : place + struct.calcsize(form)] = struct.pack(form, number)
    elif kind == 3:
        del data[place:]
    elif kind == 4:
        del data[place : place + run]
    elif kind == 5:
        data[place:place] = data[place : place + run] * int(rng.integers(1, 9))
    elif kind == 6:
        data[place : place + run] = bytes([int(rng.choice((0, 255)))]) * run
    elif kind == 7:
        data[place : place + run] = rng.integers(0, 256, run, dtype=np.uint8).tobytes()
    else:
        other = pictures[int(rng.integers(len(pictures)))]
        data[place : place + run] = other[place : place + run]


def _mend(data: bytes) -> bytes:
    """A PNG with the checksums that its chunks ought to have."""
    parts, place = [data[:8]], 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        body = data[place + 4 : place + 8 + length]
        if len(body) < 4 + length:
            break
        parts.append(data[place : place + 4] + body + struct.pack(">I", zlib.crc32(body)))
        place += 12 + length
    return b"".join(parts) + data[place:]


def run(folder: Path, first: int, last: int) -> dict[str, Any]:
    """Reads the mutations first..last - 1: how many were pictures, how many not, what went wrong, the longest time."""
    from unified.contracts.errors import DataError
    from unified.data.picture import read_within

    warnings.simplefilter("ignore")
    pictures, found = whole_pictures(), {"read": 0, "refused": 0, "slowest": 0.0, "faults": [], "last": first}
    now = (folder / f"{first}.now").open("wb", buffering=0)  # written in place: to cut a file short waits for the disk
    for k in range(first, last):
        name = f"{first}-{k}.jpg"
        (folder / name).write_bytes(mutated(pictures, k))
        os.pwrite(now.fileno(), b"%012d" % k, 0)
        start = time.process_time()
        try:
            pixels, size = read_within(name, 32 if k % 3 == 0 else None, folder)
            found["read"] += 1
            if pixels.shape[0] != 3 or str(pixels.dtype) != "torch.uint8" or min(size) < 1:
                found["faults"].append(f"{k}: {pixels.shape} {pixels.dtype} {size}")
        except DataError as error:
            found["refused"] += 1
            if "\n" in str(error) or len(str(error)) > 600:
                found["faults"].append(f"{k}: no line: {error}")
        except BaseException as error:
            found["faults"].append(f"{k}: {type(error).__name__}: {error}")
        taken = time.process_time() - start
        (folder / name).unlink()
        if taken > found["slowest"]:
            found["slowest"], found["last"] = taken, k
    found["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
