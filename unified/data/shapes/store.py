# SPDX-License-Identifier: Apache-2.0
"""A split rendered once into a cache folder and memory-mapped from there."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from unified.data.home import cache_home

from .farm import Progress, render_all
from .level import level_named
from .scene import SPLITS, VERSION, Rle, Scene

COLUMNS: Final[tuple[str, ...]] = (
    "offsets",
    "boxes_xyxy",
    "labels",
    "identities",
    "keypoints_xyv",
    "attributes",
    "scenes",
    "rle",
    "rle_offsets",
    "captions",
    "caption_offsets",
)
"""The annotation files, `<column>.npy` each, beside `images.npy` and `meta.json`."""


class ShapesStore:
    """One rendered split, read from its cache folder without loading it.

    With N pictures of side S and M objects in all: `images` uint8 (N, S, S, 3) memory map; `offsets` int64 (N + 1,),
    picture `i` has objects `offsets[i]:offsets[i + 1]`; `boxes_xyxy` float32 (M, 4) in pixels; `labels` and
    `identities` int64 (M,); `keypoints_xyv` float32 (M, 2, 3); `attributes` bool (N, A) in the order of
    `ATTRIBUTES`; `scenes` int64 (N,).  Indexing gives a `Scene`; masks and captions are only decoded there.
    Pickling sends the folder's name, so a store is cheap to hand to data-loader processes.
    """

    images: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    identities: NDArray[np.int64]
    keypoints_xyv: NDArray[np.float32]
    attributes: NDArray[np.bool_]
    scenes: NDArray[np.int64]

    def __init__(self, folder: Path) -> None:
        """Map an intact cache folder; most callers want `ShapesStore.open`."""
        self.folder = folder
        self.images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        for name in ("offsets", "boxes_xyxy", "labels", "identities", "keypoints_xyv", "attributes", "scenes"):
            setattr(self, name, np.load(folder / f"{name}.npy", allow_pickle=False))
        self._rle = _Strings(folder, "rle", "rle_offsets")
        self._captions = _Strings(folder, "captions", "caption_offsets")

    @classmethod
    def open(
        cls,
        split: str,
        *,
        count: int,
        seed: int = 0,
        level: str = "medium",
        size: int = 160,
        root: str | os.PathLike[str] | None = None,
        processes: int | None = None,
        progress: Progress | None = None,
    ) -> ShapesStore:
        """Open a split's first `count` scenes, rendering them into the cache when they are not there yet.

        `root` is the cache folder (default: `cache_home()`), `processes` how many render at once (default: every
        core), `progress` is called with (done, total) from time to time.  The cache does not depend on `processes`.
        A damaged or partial cache is rendered again.  Raises OSError when the cache folder cannot be written, and
        ValueError for a bad argument.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        what = {"split": split, "count": count, "seed": seed, "level": level_named(level).name, "size": size}
        base = Path(root).expanduser().absolute() if root is not None else cache_home()
        folder = base / f"shapes-{split}-{level}-{size}-{count}-{_digest(what)}"
        for _ in range(3):
            if not intact(folder, what):
                _publish(base, folder, what, lambda draft: render_all(draft, what, processes, progress))
            with contextlib.suppress(FileNotFoundError):  # a process mending the same cache may have it in hand
                return cls(folder)
        raise OSError(f"the shapes cache {folder} keeps disappearing")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Scene:
        """Scene `index`; its image is a read-only view of the memory map."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        index %= len(self)
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        side = int(self.images.shape[1])
        return Scene(
            image=self.images[index],
            boxes_xyxy=self.boxes_xyxy[start:stop],
            labels=self.labels[start:stop],
            identities=self.identities[start:stop],
            masks=tuple(Rle(size=[side, side], counts=self._rle[k]) for k in range(start, stop)),
            keypoints_xyv=self.keypoints_xyv[start:stop],
            attributes=self.attributes[index],
            scene=int(self.scenes[index]),
            captions=tuple(self._captions[index].decode().split("\n")),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return ShapesStore, (self.folder,)


class _Strings:
    """Byte strings laid end to end in one .npy file, mapped and cut on demand."""

    def __init__(self, folder: Path, data: str, offsets: str) -> None:
        self._data = np.load(folder / f"{data}.npy", mmap_mode="r", allow_pickle=False)
        self._offsets = np.load(folder / f"{offsets}.npy", allow_pickle=False)

    def __getitem__(self, index: int) -> bytes:
        part: bytes = self._data[self._offsets[index] : self._offsets[index + 1]].tobytes()
        return part


def _digest(what: dict[str, Any]) -> str:
    """A short key over the renderer's version, every parameter and every number of the level."""
    numbers = dataclasses.asdict(level_named(what["level"]))
    text = json.dumps({"version": VERSION, **what, "numbers": numbers}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _checksum(folder: Path) -> dict[str, int]:
    """File sizes and CRCs: whole for the annotations, 64 spread frames for the pictures, which may be gigabytes."""
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    picked = np.unique(np.linspace(0, len(images) - 1, 64).astype(np.int64))
    sums = {"images.npy": (folder / "images.npy").stat().st_size, "frames": zlib.crc32(images[picked].tobytes())}
    for name in COLUMNS:
        sums[name] = zlib.crc32((folder / f"{name}.npy").read_bytes())
    return sums


def intact(folder: Path, what: dict[str, Any]) -> bool:
    """Whether the folder holds a whole, undamaged rendering of `what`."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        return bool(meta["what"] == what and meta["sums"] == _checksum(folder))
    except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError):
        return False


def _publish(base: Path, folder: Path, what: dict[str, Any], fill: Callable[[Path], None]) -> None:
    """Render into a draft beside the folder, then move it into place in one step.

    Of two processes that race, the slower finds the folder taken, checks it and throws its own draft away.
    """
    try:
        base.mkdir(parents=True, exist_ok=True)
        _sweep(base)
        _check_space(base, what)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=base))
    except OSError as error:
        raise OSError(f"cannot write the shapes cache folder {base}: {error.strerror or error}") from error
    try:
        fill(draft)
        meta = {"version": VERSION, "what": what, "sums": _checksum(draft)}
        (draft / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        _swap(draft, folder, what)
    except OSError as error:
        raise OSError(f"cannot write the shapes cache folder {base}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _sweep(base: Path) -> None:
    """Remove drafts that a killed process left behind more than a day ago."""
    for path in [*base.glob(".draft-*"), *base.glob(".damaged-*")]:
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 86400:
                shutil.rmtree(path, ignore_errors=True)


def _check_space(base: Path, what: dict[str, Any]) -> None:
    """Fail early: writing to a memory map on a full disk would kill the process without a word."""
    need = int(1.05 * what["count"] * (3 * what["size"] ** 2 + 2048))
    free = shutil.disk_usage(base).free
    if free < need:
        raise OSError(f"{need / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free")


def _swap(draft: Path, folder: Path, what: dict[str, Any]) -> None:
    """Move the draft to `folder`; a damaged folder in the way is first set aside and removed."""
    for _ in range(8):
        try:
            draft.replace(folder)
            return
        except OSError:
            if not folder.exists():
                raise
        if intact(folder, what):
            return
        aside = Path(tempfile.mkdtemp(prefix=".damaged-", dir=folder.parent))
        with contextlib.suppress(FileNotFoundError):  # another process may have set it aside first
            folder.replace(aside / folder.name)
        shutil.rmtree(aside, ignore_errors=True)
    raise OSError(f"{folder} is in the way and cannot be replaced")
