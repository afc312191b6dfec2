# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math

import pytest
from pydantic import ValidationError

from unified.contracts.protocols import Curve
from unified.contracts.section import (
    Chart,
    Column,
    Explains,
    Gallery,
    Histogram,
    Line,
    Mark,
    Matrix,
    Point,
    Scatter,
    Section,
    Series,
    Table,
    View,
)


def whole() -> Section:
    """One of every part."""
    view = View(image_id="7", crop=(0, 0, 9, 9), marks=(Mark(box=(1, 2, 3, 4), text="cat", kind="wrong", score=0.5),))
    return Section(
        title="t",
        text="x",
        parts=(
            Table(columns=(Column(name="a"), Column(name="b", kind="share", bar=True)), rows=(("x", 0.5), ("y", None))),
            Chart(title="c", x_name="x", y_name="y", lines=(Line(label="l", x=(0, 1), y=(1, 0), mark=(0, 1, "m")),)),
            Histogram(title="h", x_name="x", edges=(0, 1, 2), series=(Series(label="s", counts=(3, 4)),)),
            Matrix(title="m", row_name="r", column_name="c", rows=("a",), columns=("a",), counts=((3,),)),
            Scatter(title="s", points=(Point(x=0, y=1, group="g", text="t"),)),
            Gallery(title="g", rows=((view,),), strip=True),
        ),
    )


def test_every_part_survives_json() -> None:
    assert Section.model_validate_json(whole().model_dump_json()) == whole()


def test_what_is_no_number_becomes_a_gap_and_strict_json() -> None:
    curve = Curve([0.0, 1.0], [math.nan, math.inf], "l", "x", "y")
    line = Line.of(curve)
    assert line.y == (None, None)
    assert json.loads(line.model_dump_json())["y"] == [None, None]
    table = Table(columns=(Column(name="a"),), rows=((math.nan,),))
    assert table.rows == ((None,),)


@pytest.mark.parametrize(
    "damage", ['{"title": "t", "parts": [{"kind": "script"}]}', '{"title": "t", "html": "<b>"}', '{"title": 3}']
)
def test_nothing_else_is_let_in(damage: str) -> None:
    with pytest.raises(ValidationError):
        Section.model_validate_json(damage)


def test_a_metric_explains_itself_by_having_sections() -> None:
    class Talks:
        def sections(self) -> list[Section]:
            return []

    assert isinstance(Talks(), Explains)
    assert not isinstance(object(), Explains)
