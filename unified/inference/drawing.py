# SPDX-License-Identifier: Apache-2.0
"""Predictions drawn onto their pictures: boxes with labels, and tags in a strip below.

Lines are drawn at twice the size and averaged down, so that edges are smooth. Colours come from a palette that stays
apart for colour-blind eyes (Okabe and Ito 2008, Color Universal Design) and belong to a class by its name.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from unified.contracts.structures import Frame, Prediction

Color = tuple[int, int, int]
Rect = tuple[float, float, float, float]  # xyxy

PALETTE: tuple[Color, ...] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (0, 114, 178),  # blue
    (213, 94, 0),  # vermilion
    (204, 121, 167),  # reddish purple
    (148, 203, 236),  # pale blue
    (126, 41, 84),  # wine
    (159, 208, 60),  # lime
)
TRUTH: Color = (255, 255, 255)
INK, PAPER, SOFT = (24, 26, 30), (250, 250, 250), (206, 210, 216)
RIGHT, WRONG = (122, 204, 178), (236, 150, 104)  # tints of the palette's green and vermilion
LEAST_SIDE = 480  # smaller pictures are enlarged, else no label can be read
FINE = 2  # drawn at this scale, then averaged
COARSE_SIDE = 2400  # pixels: larger pictures are drawn as they are, nobody sees their steps
TAG_SHOWN = 0.5


@dataclass(frozen=True)
class _Chip:
    """A label on a coloured ground; coordinates in drawn pixels."""

    text: str
    color: Color
    width: float
    height: float
    hollow: bool = False


@dataclass(frozen=True)
class Marks:
    """The tracks of a video's frame: each has its own number and colour."""

    tracks: tuple[int, ...]  # (N,) of the boxes
    trails: tuple[tuple[int, tuple[tuple[float, float], ...]], ...] = ()  # tracks and where they were: x, y in pixels


def track_color(number: int) -> Color:
    """The colour of a track."""
    return PALETTE[number % len(PALETTE)]


def class_color(name: str, names: tuple[str, ...] = ()) -> Color:
    """The colour of a class: by its place among ``names``, so that neighbours differ; without them by its name."""
    index = names.index(name) if name in names else zlib.crc32(name.encode())
    return PALETTE[index % len(PALETTE)]


def draw(
    image: NDArray[np.uint8] | Image.Image,
    prediction: Prediction,
    truth: Prediction | None = None,
    tag_threshold: float = TAG_SHOWN,
    marks: Marks | None = None,
) -> Image.Image:
    """A picture of what the network says.

    Args:
        image: uint8 (H, W, 3) RGB, or a Pillow image. A small one is enlarged to at least 480 px.
        prediction: boxes in pixels of ``image``; fields that are None are not drawn. Extras that have
            ``drawn_on(picture)`` draw themselves, beneath the boxes.
        truth: its boxes are drawn beneath in white, broken lines; its tags colour the strip: green where the network
            agrees, red where it does not, and a red frame round a tag it missed.
        tag_threshold: least score of a tag in the strip.
        marks: of a video's frame: boxes are then named and coloured by their tracks.
    """
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    picture = picture.convert("RGB")
    zoom = max(1.0, LEAST_SIDE / max(picture.size))
    fine = FINE if max(picture.size) <= COARSE_SIDE else 1
    width, height = (max(1, round(side * zoom)) for side in picture.size)
    spoken = _with_extras(picture, prediction, (width, height))
    canvas = spoken.resize((width * fine, height * fine), Image.Resampling.BICUBIC)
    pen = _Pen(canvas, zoom * fine, fine)
    if truth is not None:
        pen.truth(truth)
    pen.trails(marks)
    pen.boxes(prediction, marks)
    drawn = canvas.resize((width, height), Image.Resampling.BOX)
    if prediction.tag_scores is None:
        return drawn
    return _with_tags(drawn, prediction, truth, tag_threshold)


def _with_extras(picture: Image.Image, prediction: Prediction, size: tuple[int, int]) -> Image.Image:
    """The picture with what other tasks draw: at ``size`` (width, height), where they can be led there."""
    drawing = [said for said in prediction.extras.values() if hasattr(said, "drawn_on")]
    for said in (said for said in drawing if not hasattr(said, "in_frame")):
        picture = said.drawn_on(picture)
    led = [said for said in drawing if hasattr(said, "in_frame")]
    if led and size != picture.size:
        scale = (picture.width / size[0], picture.height / size[1])
        led = [said.in_frame(Frame("", (size[1], size[0]), scale)) for said in led]
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    for said in led:
        picture = said.drawn_on(picture)
    return picture


class _Pen:
    """Draws on a fine canvas; ``scale`` leads from the picture's pixels to the canvas's."""

    def __init__(self, canvas: Image.Image, scale: float, fine: int) -> None:
        self.canvas, self.scale = canvas, scale
        self.ink = ImageDraw.Draw(canvas)
        side = max(canvas.size)
        self.line = max(2 * fine, round(side / 320))
        self.font = _font(max(12 * fine, round(side / 46)))
        self.taken: list[Rect] = []  # where labels stand

    def truth(self, truth: Prediction) -> None:
        for box in _rows(truth):
            self._dashed(self._scaled(box))

    def trails(self, marks: Marks | None) -> None:
        for number, points in marks.trails if marks else ():
            line = [(x * self.scale, y * self.scale) for x, y in points]
            if len(line) > 1:
                self.ink.line(line, fill=INK, width=self.line + self.line // 2, joint="curve")
                self.ink.line(line, fill=track_color(number), width=self.line, joint="curve")

    def boxes(self, prediction: Prediction, marks: Marks | None = None) -> None:
        names, scores = _labels(prediction)
        texts = [f"{name} {score:.2f}".strip() for name, score in zip(names, scores, strict=True)]
        colors = [class_color(name, prediction.box_names) for name in names]
        if marks is not None:
            texts = [f"{name} {number}".strip() for name, number in zip(names, marks.tracks, strict=True)]
            colors = [track_color(number) for number in marks.tracks]
        frames = [self._scaled(box) for box in _rows(prediction)]
        for frame, color in reversed(list(zip(frames, colors, strict=True))):  # the best score on top
            self._frame(frame, color)
        for frame, text, color in zip(frames, texts, colors, strict=True):
            self._label(frame, text, color, frames)

    def _scaled(self, box: list[float]) -> Rect:
        width, height = self.canvas.size
        x0, y0, x1, y1 = (
            min(max(v * self.scale, 0.0), side - 1.0) for v, side in zip(box, (width, height) * 2, strict=True)
        )
        return x0, y0, max(x1, x0), max(y1, y0)

    def _frame(self, frame: Rect, color: Color) -> None:
        halo = self.line // 2
        radius = min(3 * self.line, *(max(0.0, (frame[i + 2] - frame[i]) / 2) for i in (0, 1)))
        around = (frame[0] - halo, frame[1] - halo, frame[2] + halo, frame[3] + halo)
        self.ink.rounded_rectangle(around, radius + halo, outline=INK, width=self.line + 2 * halo)
        self.ink.rounded_rectangle(frame, radius, outline=color, width=self.line)

    def _dashed(self, frame: Rect) -> None:
        x0, y0, x1, y1 = frame
        step = 5 * self.line
        for a, b in (((x0, y0), (x1, y0)), ((x1, y0), (x1, y1)), ((x1, y1), (x0, y1)), ((x0, y1), (x0, y0))):
            length = abs(b[0] - a[0]) + abs(b[1] - a[1])
            for start in np.arange(0, length, 2 * step):
                ends = [start / length, min(start + step, length) / length]
                points = [(a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t) for t in ends]
                self.ink.line(points, fill=INK, width=self.line + 2)
                self.ink.line(points, fill=TRUTH, width=max(self.line - 2, 1))

    def _label(self, frame: Rect, text: str, color: Color, frames: list[Rect]) -> None:
        chip = _chip(text, color, self.font)
        x, y = self._place(chip, frame, frames)
        self.taken.append((x, y, x + chip.width, y + chip.height))
        _stamp(self.ink, chip, (x, y), self.font)

    def _place(self, chip: _Chip, frame: Rect, frames: list[Rect]) -> tuple[float, float]:
        """Above the box if there is room, else below, beside or inside: where it hides least."""
        x0, y0, x1, y1 = frame
        width, height = self.canvas.size
        gap = self.line // 2
        spots = [
            (x0, y0 - chip.height - gap),
            (x1 - chip.width, y0 - chip.height - gap),
            (x0, y1 + gap),
            (x1 - chip.width, y1 + gap),
            (x1 + gap, y0),
            (x0 - chip.width - gap, y0),
            (x0 + self.line, y0 + self.line),
            (x0 + self.line, y1 - chip.height - self.line),
        ]
        inside = [(min(max(x, 0.0), width - chip.width), min(max(y, 0.0), height - chip.height)) for x, y in spots]
        costs = [self._hidden(chip, spot, frames) + 1e-3 * i for i, spot in enumerate(inside)]
        return inside[costs.index(min(costs))]

    def _hidden(self, chip: _Chip, spot: tuple[float, float], frames: list[Rect]) -> float:
        """How much a label would hide: shares of itself over other labels, which count most, and over boxes."""
        here = (spot[0], spot[1], spot[0] + chip.width, spot[1] + chip.height)
        area = chip.width * chip.height
        labels = sum(_overlap(here, other) for other in self.taken) / area
        boxes = sum(_overlap(here, other) for other in frames) / area
        return 8 * labels + boxes


def _with_tags(drawn: Image.Image, prediction: Prediction, truth: Prediction | None, threshold: float) -> Image.Image:
    """The picture with its tags as chips in a strip below."""
    font = _font(max(12, round(max(drawn.size) / 46)) * FINE)
    chips = _tag_chips(prediction, truth, threshold, font) or [_chip("no tags", PAPER, font)]
    gap = chips[0].height / 3
    spots = _flow(chips, drawn.width * FINE, gap)
    strip = Image.new("RGB", (drawn.width * FINE, _even(spots[-1][1] + chips[-1].height + gap)), PAPER)
    ink = ImageDraw.Draw(strip)
    for chip, spot in zip(chips, spots, strict=True):
        _stamp(ink, chip, spot, font)
    strip = strip.resize((drawn.width, strip.height // FINE), Image.Resampling.BOX)
    whole = Image.new("RGB", (drawn.width, drawn.height + strip.height), PAPER)
    whole.paste(drawn, (0, 0))
    whole.paste(strip, (0, drawn.height))
    return whole


def _tag_chips(
    prediction: Prediction, truth: Prediction | None, threshold: float, font: ImageFont.FreeTypeFont
) -> list[_Chip]:
    said = {name: score for name, score in prediction.tags.items() if score >= threshold}
    if truth is None or truth.tag_scores is None:
        return [_chip(f"{name} {score:.2f}", SOFT, font) for name, score in said.items()]
    holds = {name for name, score in truth.tags.items() if score >= 0.5}
    chips = [_chip(f"{name} {score:.2f}", RIGHT if name in holds else WRONG, font) for name, score in said.items()]
    missed = sorted(holds - set(said))
    return chips + [replace(_chip(name, WRONG, font), hollow=True) for name in missed]


def _flow(chips: list[_Chip], width: float, gap: float) -> list[tuple[float, float]]:
    """Top left corners of chips set in lines like words."""
    spots, x, y = [], gap, gap
    for chip in chips:
        if x > gap and x + chip.width + gap > width:
            x, y = gap, y + chip.height + gap
        spots.append((x, y))
        x += chip.width + gap
    return spots


def _chip(text: str, color: Color, font: ImageFont.FreeTypeFont) -> _Chip:
    size = font.size
    return _Chip(text, color, font.getlength(text) + 0.8 * size, 1.45 * size)


def _stamp(ink: ImageDraw.ImageDraw, chip: _Chip, spot: tuple[float, float], font: ImageFont.FreeTypeFont) -> None:
    x, y = spot
    ground = PAPER if chip.hollow else chip.color
    shape = (x, y, x + chip.width, y + chip.height)
    ink.rounded_rectangle(shape, chip.height / 4, fill=ground, outline=chip.color, width=2 * FINE)
    ink.text((x + chip.width / 2, y + chip.height / 2), chip.text, fill=_readable(ground), font=font, anchor="mm")


def _readable(ground: Color) -> Color:
    """Dark or light ink, whichever stands out more (relative luminance, WCAG 2.1)."""
    linear = [(c / 12.92) if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in ground)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return INK if luminance > 0.2 else PAPER


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise OSError("this Pillow was built without FreeType and cannot write labels")
    return font


def _rows(prediction: Prediction) -> list[list[float]]:
    return [] if prediction.boxes_xyxy is None else prediction.boxes_xyxy.tolist()


def _labels(prediction: Prediction) -> tuple[list[str], list[float]]:
    """Names and scores of the boxes; empty text and 1 where there are none."""
    count = len(_rows(prediction))
    labels = prediction.labels.tolist() if prediction.labels is not None else []
    names = [prediction.box_names[i] if i < len(prediction.box_names) else f"class {i}" for i in labels]
    scores = prediction.scores.tolist() if prediction.scores is not None else [1.0] * count
    return names or [""] * count, scores


def _overlap(a: Rect, b: Rect) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _even(value: float) -> int:
    return FINE * -(-round(value) // FINE)
