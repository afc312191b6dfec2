# SPDX-License-Identifier: Apache-2.0
"""What other tasks say draws itself, led to the pixels of the picture that is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from unified.contracts.answer import Answer, captions
from unified.contracts.structures import Frame, Prediction
from unified.inference.drawing import LEAST_SIDE, draw


@dataclass(frozen=True)
class Spot(Answer):
    """A red square at a place."""

    x: float
    y: float

    def in_frame(self, frame: Frame) -> Spot:
        return replace(self, x=self.x / frame.scale[0], y=self.y / frame.scale[1])

    def caption(self) -> str:
        return f"at {self.x:.0f}"

    def drawn_on(self, picture: Image.Image) -> Image.Image:
        drawn = picture.copy()
        drawn.paste((255, 0, 0), (round(self.x) - 4, round(self.y) - 4, round(self.x) + 4, round(self.y) + 4))
        return drawn


class Still:
    """Draws, but cannot be led anywhere."""

    def drawn_on(self, picture: Image.Image) -> Image.Image:
        return Image.new("RGB", picture.size, (0, 0, 255))


def red(picture: Image.Image) -> tuple[float, float, int]:
    """The middle of what is red, x and y, and how many pixels it has."""
    pixels = np.asarray(picture)
    rows, columns = np.nonzero((pixels[..., 0] > 200) & (pixels[..., 1] < 60))
    return float(columns.mean()), float(rows.mean()), len(rows)


def test_a_small_picture_is_enlarged_before_others_draw() -> None:
    prediction = Prediction((60, 120), extras={"mine": Spot(30, 20)})
    drawn = draw(np.zeros((60, 120, 3), dtype=np.uint8), prediction)
    zoom = LEAST_SIDE / 120
    x, y, count = red(drawn)
    assert abs(x - 30 * zoom) < 1.5 and abs(y - 20 * zoom) < 1.5
    assert 50 < count < 80  # 8 x 8 pixels of the large picture, not of the small one


def test_a_large_picture_is_drawn_on_as_it_is() -> None:
    x, y, _ = red(draw(np.zeros((600, 900, 3), dtype=np.uint8), Prediction((600, 900), extras={"mine": Spot(30, 20)})))
    assert abs(x - 29.5) < 1 and abs(y - 19.5) < 1


def test_what_cannot_be_led_draws_first_on_the_picture_itself() -> None:
    drawn = draw(
        np.zeros((60, 120, 3), dtype=np.uint8), Prediction((60, 120), extras={"a": Spot(30, 20), "b": Still()})
    )
    assert red(drawn)[2] > 50 and np.asarray(drawn)[-1, -1].tolist() == [0, 0, 255]


def test_extras_say_themselves_in_words() -> None:
    assert captions(Prediction((1, 1), extras={"mine": Spot(3, 4), "still": Still()})) == {"mine": "at 3"}
