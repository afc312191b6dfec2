# SPDX-License-Identifier: Apache-2.0
"""What stands beside a vector in an index, and which rows a search may answer with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from unified.contracts.errors import ConfigError, suggestion

Metric: TypeAlias = Literal["cosine", "ip"]
METRICS: Final = ("cosine", "ip")
BoxXyxy: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True)
class Row:
    """What a vector is of: a picture, or a box in it."""

    id: str  # one of its kind in the index
    path: str | None = None  # of the picture's file
    box: BoxXyxy | None = None  # pixels of the picture; None: the whole picture
    name: str | None = None  # what the box holds
    score: float | None = None  # of the box, 0..1
    tags: tuple[str, ...] = ()  # of the picture
    size: tuple[int, int] | None = None  # (width, height) of the picture, pixels
    stamp: tuple[int, int] | None = None  # bytes of the file and its time in ns when it was looked at

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON knows it, without what it has not; the stamp is left out."""
        size = None if self.size is None else {"width": self.size[0], "height": self.size[1]}
        box = None if self.box is None else [round(value, 2) for value in self.box]
        score = None if self.score is None else round(self.score, 4)
        said = {"id": self.id, "path": self.path, "box_xyxy": box, "name": self.name, "box_score": score}
        return {k: v for k, v in {**said, "tags": list(self.tags) or None, "size": size}.items() if v is not None}


@dataclass(frozen=True)
class Filter:
    """Rows that a search may answer with: those of which everything that is asked holds.

    Raises:
        ConfigError: an unknown level.
    """

    tags: tuple[str, ...] = ()  # all of them
    without: tuple[str, ...] = ()  # none of these tags
    names: tuple[str, ...] = ()  # boxes of one of these
    least_score: float | None = None  # of a box
    least_side: float | None = None  # pixels of a box's shorter side
    level: Literal["image", "box"] | None = None

    def __post_init__(self) -> None:
        if self.level not in (None, "image", "box"):
            raise ConfigError(f"unknown level '{self.level}'{suggestion(str(self.level), ('image', 'box'))}")

    @property
    def asks(self) -> bool:
        """Whether anything is asked."""
        return self != Filter()


def check_metric(word: str) -> None:
    """Refuses an unknown metric.

    Raises:
        ConfigError: it is one.
    """
    if word not in METRICS:
        raise ConfigError(f"unknown metric '{word}'{suggestion(word, METRICS)}")
