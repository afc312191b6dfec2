# SPDX-License-Identifier: Apache-2.0
"""What a person may give to be looked at: one door for files, folders, patterns, bytes, arrays, videos and cameras.

Nothing is ever fetched from a network: what looks like a URL is refused.
"""

from __future__ import annotations

import glob
import io
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unified.contracts.errors import DataError
from unified.data.picture import decoded, read_picture, said, to_rgb
from unified.data.transforms import to_pixels
from unified.inference.video import VIDEOS, camera_frames, video_frames

Picture: TypeAlias = str | Path | bytes | Image.Image | NDArray[np.uint8] | Tensor
"""A file; what an encoded file holds; a PIL image; a uint8 array (H, W, 3) in RGB order; or a tensor (3, H, W) in RGB
order, uint8 or floating in 0..1."""

Source: TypeAlias = Picture | int | Sequence[Picture | int]
"""A :data:`Picture`, a folder, a shell pattern, a video file, a camera's number, or a sequence of these."""

PICTURES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""Suffixes by which a folder is searched; a file that is named is opened whatever its suffix."""

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|(?:data|file|javascript):", re.ASCII | re.IGNORECASE)
_PATTERN: Final = re.compile(r"[*?\[]")
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Origin:
    """Where a picture came from."""

    name: str = "picture"  # what a person would call it
    path: Path | None = None  # of its file, where it has one
    frame: int | None = None  # of a video or camera, from 0
    seconds: float | None = None  # since a video's beginning, where the file says so


@dataclass(frozen=True)
class Still:
    """One picture, not yet read. ``read()`` gives uint8 (3, H, W) RGB or raises :class:`DataError`."""

    origin: Origin
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Supply:
    """What a source holds: pictures one after another."""

    stills: Iterator[Still]
    single: bool = False  # the source is one picture, so that one answer is expected and no list
    moving: bool = False  # frames: they are read in order and not kept
    endless: bool = False
    count: int | None = None  # of the pictures, where it is known


def open_source(source: Source) -> Supply:
    """The pictures of a source; that they exist is checked here, what they hold is checked when they are read.

    Raises:
        DataError: nothing there, nothing in it, a URL, or a thing of another kind.
    """
    if isinstance(source, list | tuple):
        return _joined(source)
    if isinstance(source, str | Path):
        return _open_path(str(source))
    if isinstance(source, int) and not isinstance(source, bool):
        return Supply(_frames(f"camera {source}", None, camera_frames(source)), moving=True, endless=True)
    if isinstance(source, bytes | bytearray | memoryview | Image.Image | np.ndarray | Tensor):
        return Supply(iter([_held(source)]), single=True, count=1)  # type: ignore[arg-type]
    raise DataError(
        f"{type(source).__name__} is no picture; give a path, a folder, a pattern, bytes, a PIL image, an array, "
        "a tensor, a video file, a camera's number, or a list of these"
    )


def as_pixels(picture: Picture) -> Tensor:
    """Any picture as uint8 (3, H, W) RGB.

    Raises:
        DataError: an array or tensor of another shape, type or scale, or a file that cannot be read.
    """
    if isinstance(picture, str | Path):
        return read_picture(Path(picture))
    if isinstance(picture, bytes | bytearray | memoryview):
        return decoded(io.BytesIO(picture), f"of {len(picture)} bytes")[0]
    if isinstance(picture, Image.Image):
        return to_pixels(to_rgb(picture))
    return _from_array(picture) if isinstance(picture, np.ndarray) else _from_tensor(picture)


def pictures_in(folder: Path, without: Path | None = None) -> list[Path]:
    """Picture files of a folder and all below it, sorted; not those below ``without``."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    return sorted(path for path in found if without is None or folder == without or without not in path.parents)


def files_at(word: str) -> list[Path]:
    """The files a word names: a file, a folder's pictures, or those that match a shell pattern; sorted.

    Raises:
        DataError: it is a URL, or names nothing.
    """
    refuse_url(word)
    if not word:
        raise DataError("no picture at '': the path is empty")
    path = Path(word)
    try:
        if path.is_dir():
            found = pictures_in(path)
        elif path.is_file():
            found = [path]
        else:
            found = [Path(match) for match in sorted(glob.glob(word, recursive=True)) if Path(match).is_file()]  # noqa: PTH207
    except (OSError, ValueError) as error:
        raise DataError(f"'{said(word)}' cannot be a path: {error}") from None
    if not found:
        raise DataError(_nothing_at(word, path))
    return found


def refuse_url(word: str) -> None:
    """Refuses what looks like a URL.

    Raises:
        DataError: it does.
    """
    if _URL.match(word):
        raise DataError(f"'{said(word)}' is a URL, and nothing is fetched: download it and give the file")


def is_video(path: Path) -> bool:
    """Whether a file's name is that of a video."""
    return path.suffix.lower() in VIDEOS


def boxes_of(boxes: Tensor | Sequence[Tensor], supply: Supply) -> Iterator[Tensor]:
    """Boxes (N, 4) of each picture of a source, one after another.

    Raises:
        DataError: not as many as pictures, or of another shape.
    """
    each = [boxes] if isinstance(boxes, Tensor) else list(boxes)
    if supply.count != len(each):
        raise DataError(
            f"boxes for {len(each)} pictures were given with {supply.count or 'frames instead of'} pictures"
        )
    for one in each:
        if not isinstance(one, Tensor) or one.ndim != 2 or one.shape[1] != 4:
            shape = tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__
            raise DataError(f"boxes of a picture must be a tensor (N, 4) xyxy in pixels; got {shape}")
    return iter(each)


def ahead(items: Iterable[T], work: Callable[[T], R], workers: int, depth: int) -> Iterator[R]:
    """``work`` of every item, in order, done by threads up to ``depth`` items before it is asked for."""
    source = iter(items)
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="unified-read") as pool:
        waiting: deque[Future[R]] = deque(pool.submit(work, item) for item in islice(source, max(1, depth)))
        try:
            while waiting:
                done = waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in islice(source, 1))
                yield done
        finally:  # who stops early, or meets a damaged picture, does not wait for the rest
            for future in waiting:
                future.cancel()


def in_groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items, the last one shorter."""
    source = iter(items)
    while group := list(islice(source, size)):
        yield group


def _joined(parts: Sequence[Any]) -> Supply:
    if not parts:
        raise DataError("no picture was given: the list is empty")
    if any(isinstance(part, list | tuple) for part in parts):
        raise DataError("a list within a list is no source; give one flat list of pictures")
    supplies = [open_source(part) for part in parts]
    counts = [supply.count for supply in supplies]
    return Supply(
        (still for supply in supplies for still in supply.stills),
        moving=any(supply.moving for supply in supplies),
        endless=any(supply.endless for supply in supplies),
        count=None if None in counts else sum(count or 0 for count in counts),
    )


def _open_path(word: str) -> Supply:
    files = files_at(word)
    if any(is_video(path) for path in files):
        return Supply((still for path in files for still in _stills_of(path)), moving=True)
    single = len(files) == 1 and files[0] == Path(word)
    return Supply((still for path in files for still in _stills_of(path)), single=single, count=len(files))


def _stills_of(path: Path) -> Iterator[Still]:
    if is_video(path):
        yield from _frames(said(path), path, video_frames(path))
    else:
        yield Still(Origin(said(path), path), partial(read_picture, path))


def _frames(name: str, path: Path | None, frames: Iterator[tuple[Tensor, float | None]]) -> Iterator[Still]:
    for number, (pixels, seconds) in enumerate(frames):
        yield Still(Origin(f"{name} frame {number}", path, number, seconds), partial(_same, pixels))


def _same(pixels: Tensor) -> Tensor:
    return pixels


def _held(picture: Picture) -> Still:
    kind = {"ndarray": "array"}.get(type(picture).__name__, type(picture).__name__.lower())
    name = str(getattr(picture, "filename", "") or kind)
    return Still(Origin(said(name)), partial(as_pixels, picture))


def _from_array(array: NDArray[Any]) -> Tensor:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise DataError(
            f"an array must be uint8 (H, W, 3) in RGB order; got {array.dtype} of shape {tuple(array.shape)}"
        )
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1).contiguous()


def _from_tensor(tensor: Tensor) -> Tensor:
    floating = tensor.is_floating_point()
    if (not floating and tensor.dtype != torch.uint8) or tensor.ndim != 3 or tensor.shape[0] != 3 or 0 in tensor.shape:
        raise DataError(
            "a tensor must be (3, H, W) in RGB order, uint8 or floating in 0..1; "
            f"got {str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
        )
    pixels = tensor.detach().cpu()
    if not floating:
        return pixels.contiguous()
    low, high = (float(value) for value in pixels.float().aminmax())
    if not (low >= 0 and high <= 1):
        raise DataError(f"a floating tensor must lie in 0..1; got {low:g}..{high:g}; divide by 255, or give uint8")
    return (pixels.float() * 255).round().to(torch.uint8).contiguous()


def _nothing_at(word: str, path: Path) -> str:
    if path.is_dir():
        return f"no picture in folder '{said(word)}'; it is searched for {', '.join(sorted(PICTURES))}"
    if _PATTERN.search(word):
        return f"no picture at '{said(word)}'; give files, folders or patterns such as 'photos/*.jpg'"
    kind = "video" if is_video(path) else "picture"
    return f"{kind} '{said(word)}' is missing; no picture at this path"
