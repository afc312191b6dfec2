# SPDX-License-Identifier: Apache-2.0
"""Pictures kept ready, decoded and shrunk, in memory or on disk within a budget.

One file of raw pixels in which every image has a place of its own, known beforehand. So processes need no agreement:
whoever reads a picture first puts it there, and two who do so write the same bytes. A place says of which file, of
which size and time, its pixels are; what says something else is read anew. In memory the file has no name and goes
with the last process that uses it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unified.contracts.errors import DataError
from unified.data.home import cache_home
from unified.data.picture import contained, fitting, read_within
from unified.data.source import Source

Where = Literal["none", "ram", "disk"]

VERSION: Final = 1  # of what pictures look like; a change makes every kept picture anew
_HEAD: Final = struct.Struct("<QIIIIIxxxx")  # key, true height and width, kept height and width, checksum
_SPARE: Final = 0.8  # the most of the free memory or disk that is taken


class Larder:
    """A store of the pictures of some datasets within ``reach``. May be sent to child processes while they start.

    Args:
        file: descriptor of the file, which is then the larder's.
        places: for every dataset (N + 1,) int64, where each image's place begins and the last one ends; images beyond
            are not kept.
        checked: pixels carry a checksum, since they may outlive a crash.
    """

    def __init__(self, file: int, places: Mapping[str, NDArray[np.int64]], checked: bool) -> None:
        self._file, self._places, self._checked = file, dict(places), checked
        self._full = False
        self.hits = self.misses = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": DupFd(self._file)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _file=state["_file"].detach(), hits=0, misses=0)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._file)

    @property
    def kept(self) -> dict[str, int]:
        """How many images of each dataset have a place."""
        return {name: len(places) - 1 for name, places in self._places.items()}

    def read(
        self, dataset: str, index: int, path: str | Path, reach: int | None, root: str | Path | None = None
    ) -> tuple[Tensor, tuple[int, int]]:
        """Like :func:`unified.data.picture.read_within`, from the larder if it is there.

        Raises:
            DataError: as there.
        """
        places = self._places.get(dataset)
        if places is None or index + 1 >= len(places) or reach is None:
            return read_within(path, reach, root)
        key = _key(Path(path) if root is None else contained(path, root), reach)
        found = self._get(int(places[index]), key) if key else None
        if found is not None:
            self.hits += 1
            return found
        self.misses += 1
        pixels, size = read_within(path, reach, root)
        if key and not self._full:
            self._put(int(places[index]), int(places[index + 1]), key, pixels, size)
        return pixels, size

    def _get(self, start: int, key: int) -> tuple[Tensor, tuple[int, int]] | None:
        head = os.pread(self._file, _HEAD.size, start)
        if len(head) < _HEAD.size:
            return None
        stored, true_height, true_width, height, width, checksum = _HEAD.unpack(head)
        if stored != key:
            return None
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        whole = os.preadv(self._file, [pixels.data], start + _HEAD.size) == pixels.nbytes
        if not whole or (self._checked and zlib.crc32(pixels.data) != checksum):
            return None
        return torch.from_numpy(pixels).permute(2, 0, 1), (true_height, true_width)

    def _put(self, start: int, end: int, key: int, pixels: Tensor, size: tuple[int, int]) -> None:
        data = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
        if _HEAD.size + data.nbytes > end - start:  # a record told another size
            return
        checksum = zlib.crc32(data.data) if self._checked else 0
        head = _HEAD.pack(key, *size, *data.shape[:2], checksum)
        try:
            if os.pwrite(self._file, data.data, start + _HEAD.size) == data.nbytes:
                os.pwrite(self._file, head, start)  # last: a place without a head is empty
        except OSError:
            self._full = True


def stock(sources: Mapping[str, Source], reach: int, where: Where, budget: float) -> Larder | None:
    """A larder for datasets whose pictures are files, as far as ``budget`` bytes go; None if there is nothing to keep.

    The same share of every dataset is kept. In memory and on disk at most four fifths of what is free is taken.

    Raises:
        DataError: the cache folder cannot be written, or the system has no such files.
    """
    if where == "none":
        return None
    if not hasattr(os, "preadv"):
        raise DataError(f"cache: {where} is not possible on this system; set cache: none")
    folder = _folder() if where == "disk" else None
    budget = min(budget, _SPARE * _free(folder))
    places = _planned(sources, reach, budget)
    if not places:
        return None
    total = int(max(each[-1] for each in places.values()))
    if folder is None:
        return Larder(_in_memory(total), places, checked=False)
    return Larder(_on_disk(folder, _name(sources, places, reach), total, budget), places, checked=True)


def _planned(sources: Mapping[str, Source], reach: int, budget: float) -> dict[str, NDArray[np.int64]]:
    """Where every image that fits the budget has its place."""
    needs = {name: _needs(source, reach) for name, source in sources.items() if source.from_files}
    total = sum(int(need.sum()) for need in needs.values())
    places, start = {}, 0
    for name, need in needs.items():
        ends = np.cumsum(need)
        many = int(np.searchsorted(ends, ends[-1] * min(1.0, budget / total), side="right")) if len(ends) else 0
        if many:
            places[name] = start + np.concatenate([np.zeros(1, dtype=np.int64), ends[:many]])
            start = int(places[name][-1])
    return places


def _needs(source: Source, reach: int) -> NDArray[np.int64]:
    """Bytes of every image of a source; where its size is not told, as many as it can need."""
    sizes = [source.size(k) or (reach, reach) for k in range(len(source))]
    return np.array([_HEAD.size + 3 * _area(size, reach) for size in sizes], dtype=np.int64)


def _area(size: tuple[int, int], reach: int) -> int:
    """Pixels of an image of ``size`` (height, width) within ``reach``."""
    width, height = fitting((size[1], size[0]), reach)
    return width * height


def _key(path: Path, reach: int) -> int:
    """What tells one state of one picture file from every other; 0 where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return 0
    words = (VERSION, reach, os.path.abspath(path), status.st_size, status.st_mtime_ns)  # noqa: PTH100
    return int.from_bytes(hashlib.blake2b(repr(words).encode(), digest_size=8).digest(), "little") | 1


def _in_memory(size: int) -> int:
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("unified-pictures")
    else:
        with tempfile.TemporaryFile() as unnamed:
            file = os.dup(unnamed.fileno())
    os.ftruncate(file, size)
    return file


def _folder() -> Path:
    folder = cache_home() / "pictures"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write the cache folder {folder}: {error.strerror or error}") from error
    return folder


def _name(sources: Mapping[str, Source], places: Mapping[str, NDArray[np.int64]], reach: int) -> str:
    digest = hashlib.blake2b(repr((VERSION, reach)).encode(), digest_size=12)
    for name, each in places.items():
        digest.update(repr((name, len(sources[name]), sources[name].image_id(0))).encode())
        digest.update(each.tobytes())
    return f"{digest.hexdigest()}.pixels"


def _on_disk(folder: Path, name: str, size: int, budget: float) -> int:
    """The named file, marked as in use, after others that nobody uses made room for it."""
    import fcntl

    try:
        file = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(file, fcntl.LOCK_SH)
        os.ftruncate(file, size)
        os.utime(file)
    except OSError as error:
        raise DataError(f"cannot write the cache folder {folder}: {error.strerror or error}") from error
    others = [path for path in folder.glob("*.pixels") if path.name != name]
    _make_room(others, budget - size)
    return file


def _make_room(files: Sequence[Path], room: float) -> None:
    """Removes files, the oldest first, until the rest fits ``room`` bytes; those in use stay."""
    import fcntl

    with contextlib.suppress(OSError):
        states = sorted((path.stat().st_mtime, path.stat().st_blocks * 512, path) for path in files)
        taken = sum(size for _, size, _ in states)
        for _, size, path in states:
            if taken <= room:
                return
            file = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                taken -= size
            except BlockingIOError:
                continue
            finally:
                os.close(file)


def _free(folder: Path | None) -> float:
    """Bytes that are free on the folder's disk, or in memory."""
    if folder is not None:
        taken = sum(path.stat().st_blocks * 512 for path in folder.glob("*.pixels"))
        return shutil.disk_usage(folder).free + taken
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024.0 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    return float("inf")
