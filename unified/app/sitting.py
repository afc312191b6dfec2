# SPDX-License-Identifier: Apache-2.0
"""What one call of the command shows: its model, index and pictures, loaded once for all visits of the page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from unified.contracts.errors import ConfigError
from unified.index.protocol import Hit, VectorIndex
from unified.inference.model import UnifiedModel
from unified.inference.results import Result
from unified.inference.source import as_pixels


@dataclass(frozen=True)
class Sitting:
    """The things the page works with."""

    name: str  # of the model
    model: UnifiedModel
    index: VectorIndex | None = None
    pictures: tuple[Path, ...] = ()  # to choose from


@dataclass(frozen=True)
class Seen:
    """A picture that was looked at, and how long that took."""

    result: Result
    drawn: Image.Image
    reading: float  # seconds to decode it
    passing: float  # seconds of the pass, with fitting and decoding its boxes
    hits: Sequence[Sequence[Hit]] = ()  # nearest rows: of the picture, or of each box
    asked: Sequence[str] = field(default_factory=tuple)  # what each list of hits is like
    searching: float = 0.0  # seconds


def look(sitting: Sitting, picture: bytes | Path, confidence: float, nearest: int) -> Seen:
    """Everything the page shows of one picture.

    Args:
        sitting: the model and, if any, the index.
        picture: an encoded file's bytes, or its path.
        confidence: least score of a box.
        nearest: rows of the index to find.

    Raises:
        DataError: the picture cannot be read.
    """
    start = time.perf_counter()
    pixels = as_pixels(picture)
    reading = time.perf_counter() - start
    start = time.perf_counter()
    result = sitting.model.predict(pixels, confidence=confidence)
    passing = time.perf_counter() - start
    drawn = replace(result, tag_scores=None).plot(pixels)  # tags have a panel of their own
    if sitting.index is None or not nearest:
        return Seen(result, drawn, reading, passing)
    start = time.perf_counter()
    query = picture if isinstance(picture, Path) else pixels
    asked, hits = _neighbours(sitting, sitting.index, query, result, confidence, nearest)
    return Seen(result, drawn, reading, passing, hits, asked, time.perf_counter() - start)


def _neighbours(
    sitting: Sitting, index: VectorIndex, query: Path | Tensor, said: Result, confidence: float, nearest: int
) -> tuple[list[str], list[list[Hit]]]:
    """From the same pass, unless the index was made of pictures of another size."""
    from unified.index.query import ask, ask_of

    if index.layout.side in (None, sitting.model.size):
        found = ask_of(index, sitting.model, said, query, nearest, itself=False)
    else:
        found = ask(index, sitting.model, query, k=nearest, confidence=confidence, itself=False)
    return [answer.name or "this picture" for answer in found], [answer.hits for answer in found]


_held: list[Sitting] = []


def hold(sitting: Sitting) -> None:
    """Keeps what the page is going to show."""
    _held[:] = [sitting]


def held() -> Sitting:
    """What is shown.

    Raises:
        ConfigError: the page was not opened by its command.
    """
    if not _held:
        raise ConfigError("nothing to show: open this page with unified-app MODEL")
    return _held[0]
