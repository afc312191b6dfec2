# SPDX-License-Identifier: Apache-2.0
"""Rendering many scenes into a folder, over several processes.

Helpers are started as fresh interpreters (`python -m unified.data.shapes.farm`) rather than through
`multiprocessing`: a fork is unsafe once torch has started threads, and `spawn` runs the caller's main module again,
which breaks notebooks, standard input and scripts without a main guard.  A fresh interpreter has neither trouble.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .scene import Scene, render

Progress = Callable[[int, int], None]
"""Called with (scenes done, scenes in all)."""

_ALONE: Final = 400  # at most this many scenes are rendered here; helpers would take longer to start
_BEAT: Final = 25  # scenes between two signs of life


def _strings(items: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Byte strings end to end, and their lengths."""
    lengths = np.array([len(item) for item in items], dtype=np.int64)
    return np.frombuffer(b"".join(items), dtype=np.uint8), lengths


def _columns(scenes: Sequence[Scene]) -> dict[str, NDArray[Any]]:
    """The annotations of some scenes as flat arrays; counts and lengths stand in for offsets until they are joined."""
    rle, rle_lengths = _strings([mask["counts"] for scene in scenes for mask in scene.masks])
    captions, caption_lengths = _strings(["\n".join(scene.captions).encode() for scene in scenes])
    return {
        "offsets": np.array([len(scene.labels) for scene in scenes], dtype=np.int64),
        "boxes_xyxy": np.concatenate([scene.boxes_xyxy for scene in scenes]),
        "labels": np.concatenate([scene.labels for scene in scenes]),
        "identities": np.concatenate([scene.identities for scene in scenes]),
        "keypoints_xyv": np.concatenate([scene.keypoints_xyv for scene in scenes]),
        "attributes": np.stack([scene.attributes for scene in scenes]),
        "scenes": np.array([scene.scene for scene in scenes], dtype=np.int64),
        "rle": rle,
        "rle_offsets": rle_lengths,
        "captions": captions,
        "caption_offsets": caption_lengths,
    }


def _render_part(folder: Path, what: dict[str, Any], first: int, last: int, beat: Callable[[int], None]) -> None:
    """Render scenes first..last - 1: pictures into their rows of images.npy, annotations into part-<first>.npz."""
    images = np.load(folder / "images.npy", mmap_mode="r+", allow_pickle=False)
    arguments = {name: what[name] for name in ("split", "seed", "level", "size")}
    blank = np.zeros((0, 0, 3), dtype=np.uint8)
    scenes: list[Scene] = []
    for index in range(first, last):
        scene = render(index, **arguments)
        images[index] = scene.image
        scenes.append(Scene(**{**vars(scene), "image": blank}))  # the picture is stored; keep only the rest
        if len(scenes) % _BEAT == 0 or index == last - 1:
            beat(len(scenes))
    images.flush()
    np.savez(folder / f"part-{first}.npz", allow_pickle=False, **_columns(scenes))


def _join(folder: Path, firsts: Sequence[int]) -> None:
    """Turn the parts into one file per column."""
    parts = []
    for first in firsts:
        with np.load(folder / f"part-{first}.npz", allow_pickle=False) as part:
            parts.append({name: part[name] for name in part.files})
        (folder / f"part-{first}.npz").unlink()
    for name in parts[0]:
        column = np.concatenate([part[name] for part in parts])
        if name.endswith("offsets"):
            column = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(column)])
        np.save(folder / f"{name}.npy", column, allow_pickle=False)


def render_all(folder: Path, what: dict[str, Any], processes: int | None, progress: Progress | None) -> None:
    """Fill `folder` with images.npy and the annotation columns of the scenes that `what` describes."""
    count, size = int(what["count"]), int(what["size"])
    workers = max(1, min(processes or os.cpu_count() or 1, count // _ALONE))
    np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=(count, size, size, 3)).flush()
    edges = [count * k // workers for k in range(workers + 1)]
    report = progress or (lambda done, total: None)
    if workers == 1:
        _render_part(folder, what, 0, count, lambda done: report(done, count))
    else:
        _employ(folder, what, list(pairwise(edges)), report)
    _join(folder, edges[:-1])


def _employ(folder: Path, what: dict[str, Any], spans: Sequence[tuple[int, int]], report: Progress) -> None:
    """Run one helper per span and wait for all; the first failure stops the rest."""
    package = Path(__file__).resolve().parents[3]
    paths = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    helpers: list[subprocess.Popen[bytes]] = []
    try:
        for first, last in spans:
            job = json.dumps({"folder": str(folder), "what": what, "first": first, "last": last})
            command = [sys.executable, "-m", __name__, job]
            with (folder / f"log-{first}").open("wb") as log:
                helpers.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=log))
        _wait(folder, helpers, [first for first, _ in spans], spans[-1][1], report)
    finally:
        for helper in helpers:
            if helper.poll() is None:
                helper.kill()
            helper.wait()
    for path in [*folder.glob("log-*"), *folder.glob("beat-*")]:
        path.unlink()


def _wait(
    folder: Path, helpers: Sequence[subprocess.Popen[bytes]], firsts: Sequence[int], total: int, report: Progress
) -> None:
    """Report progress until every helper has ended well."""
    while True:
        codes = [helper.poll() for helper in helpers]
        for code, first in zip(codes, firsts, strict=True):
            if code:
                tail = (folder / f"log-{first}").read_text(errors="replace")[-800:]
                raise RuntimeError(f"a rendering process ended with status {code}: {tail}")
        beats = [folder / f"beat-{first}" for first in firsts]
        report(sum(int(beat.read_text() or 0) for beat in beats if beat.exists()), total)
        if all(code == 0 for code in codes):
            return
        time.sleep(0.2)


def _work(job: dict[str, Any]) -> None:
    """A helper's whole life."""
    folder, first = Path(job["folder"]), int(job["first"])

    def beat(done: int) -> None:
        draft = folder / f"beat-{first}.new"
        draft.write_text(str(done))
        draft.replace(folder / f"beat-{first}")

    _render_part(folder, job["what"], first, int(job["last"]), beat)


if __name__ == "__main__":
    _work(json.loads(sys.argv[1]))
