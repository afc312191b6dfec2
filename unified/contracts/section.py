# SPDX-License-Identifier: Apache-2.0
"""What a metric shows a person beside its scores: tables, curves, pictures, as plain data that any page can draw.

A metric that has more to say than numbers offers ``sections()`` (:class:`Explains`); it knows nothing of HTML, and
whoever draws knows nothing of the task. All of it goes to JSON and back: ``Section.model_validate_json(text)``. A
number that is not finite becomes None, a gap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from unified.contracts.protocols import Curve


def _or_gap(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def readable(text: Any) -> Any:
    """The text with a sign in the place of what no file can hold: half characters, as strange file names give them."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) and not text.isascii() else text


Text = Annotated[str, BeforeValidator(readable)]
Number = Annotated[float | None, BeforeValidator(_or_gap)]
Box = tuple[float, float, float, float]
"""xyxy in pixels of the original image."""


class _Plain(BaseModel):
    """Frozen, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Plain):
    """A column of a table. ``share`` is a number in [0, 1] and may have a ``bar`` beside it."""

    name: Text
    kind: Literal["text", "count", "number", "share"] = "text"
    bar: bool = False
    meaning: Text = ""


class Table(_Plain):
    """Rows that a person can sort; the first column names the row."""

    kind: Literal["table"] = "table"
    title: Text = ""
    note: Text = ""
    columns: tuple[Column, ...]
    rows: tuple[tuple[Text | Number, ...], ...]


class Line(_Plain):
    """One line of a chart; x and y are of equal length. ``mark`` is a point worth finding, with its words."""

    label: Text
    x: tuple[Number, ...]
    y: tuple[Number, ...]
    mark: tuple[float, float, Text] | None = None
    chief: bool = False  # stands out among many
    faint: bool = False  # lies behind the others, such as raw values behind smoothed ones

    @staticmethod
    def of(curve: Curve, chief: bool = False) -> Line:
        """A metric's curve as a line."""
        return Line(label=curve.label, x=tuple(curve.x), y=tuple(curve.y), chief=chief)


class Chart(_Plain):
    """Lines over a common axis. With ``pick`` there is one line a class, of which a person picks those to see."""

    kind: Literal["chart"] = "chart"
    title: Text
    note: Text = ""
    x_name: Text
    y_name: Text
    lines: tuple[Line, ...]
    pick: bool = False


class Series(_Plain):
    """The counts of one group in the bins of a histogram."""

    label: Text
    counts: tuple[int, ...]


class Histogram(_Plain):
    """How values are spread: one more edge than counts; groups are drawn over each other, as shares of their own."""

    kind: Literal["histogram"] = "histogram"
    title: Text
    note: Text = ""
    x_name: Text
    edges: tuple[float, ...]
    series: tuple[Series, ...]


class Matrix(_Plain):
    """What was taken for what. ``extra`` names the last row and column where they are no class: background, missed."""

    kind: Literal["matrix"] = "matrix"
    title: Text
    note: Text = ""
    row_name: Text
    column_name: Text
    rows: tuple[Text, ...]
    columns: tuple[Text, ...]
    counts: tuple[tuple[int, ...], ...]


class Point(_Plain):
    """One dot of a map."""

    x: float
    y: float
    group: Text = ""  # empty: of no named group
    text: Text = ""


class Scatter(_Plain):
    """Dots in a plane whose axes mean nothing of their own; groups are coloured in order of first appearance."""

    kind: Literal["scatter"] = "scatter"
    title: Text
    note: Text = ""
    points: tuple[Point, ...]


class Mark(_Plain):
    """A box on a picture. ``missed`` was true and not found; ``wrong`` was said and is not true."""

    box: Box
    text: Text = ""
    kind: Literal["said", "truth", "wrong", "missed"] = "said"
    score: Number = None


class Picture(_Plain):
    """Pixels as a JPEG in base64, and where they lie: pixel = original * scale + offset."""

    jpeg: Text
    width: int
    height: int
    scale: tuple[float, float]
    offset: tuple[float, float]


class View(_Plain):
    """A look at an image of the data, or at a part of it, with boxes drawn on it. Whoever draws finds the pixels."""

    image_id: Text
    dataset: Text = ""  # empty: the first that has such an image
    crop: Box | None = None
    marks: tuple[Mark, ...] = ()
    caption: Text = ""
    verdict: Literal["", "query", "right", "wrong"] = ""
    picture: Picture | None = None  # filled by the engine


class Gallery(_Plain):
    """Pictures in rows of any length. ``strip``: small crops that are compared along their row, such as neighbours."""

    kind: Literal["gallery"] = "gallery"
    title: Text
    note: Text = ""
    rows: tuple[tuple[View, ...], ...]
    strip: bool = False


Part = Annotated[
    Table | Chart | Histogram | Matrix | Scatter | Gallery,
    Field(discriminator="kind"),
]


class Section(_Plain):
    """Parts that belong together, under one heading and some words that say how to read them."""

    title: Text
    text: Text = ""
    parts: tuple[Part, ...] = ()


@runtime_checkable
class Explains(Protocol):
    """A metric that has more to show than its scores."""

    def sections(self) -> Sequence[Section]:
        """What a person should see of the evidence gathered so far; called after ``compute``."""
