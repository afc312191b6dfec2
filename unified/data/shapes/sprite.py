# SPDX-License-Identifier: Apache-2.0
"""One object, painted on a small patch: outline, surface, bevel, and the eye that marks its head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .canvas import Patch, Picture, darken, paste
from .identity import Identity
from .light import Light
from .outline import HEADS, OUTLINES, Field
from .surface import PATTERNS

_EYE: Final = 0.19  # outer radius of the eye, in object radii
_GREY: Final = np.float32(120)  # what a faded object's colours approach


@dataclass(frozen=True)
class Sprite:
    """A painted object.  `alpha` (h, h) and `colour` (3, h, h) share a frame whose middle pixel is (half, half).

    `distance` is the signed distance to the outline in pixels, `solid` where the object is taken to be,
    `area` its pixel count, `centre` and `head` the key points' (x, y) within the patch, in pixels.
    """

    identity: Identity
    radius: float
    half: int
    alpha: Patch
    colour: Patch
    distance: Field
    solid: NDArray[np.bool_]
    area: int
    centre: tuple[float, float]
    head: tuple[float, float]

    def paint(self, picture: Picture, x: int, y: int, light: Light) -> None:
        """Put the object with its soft shadow on the picture, its middle pixel at (x, y)."""
        reach = light.shadow * self.radius
        dx = round(-np.cos(light.azimuth) * reach)
        dy = round(-np.sin(light.azimuth) * reach)
        shade = np.clip(np.float32(0.6) - self.distance / np.float32(1.5 + 0.8 * reach), 0, 1) * np.float32(0.45)
        darken(picture, shade, x - self.half + dx, y - self.half + dy)
        paste(picture, self.colour, self.alpha, x - self.half, y - self.half)


def _bevel(distance: Field, radius: float, light: Light) -> Field:
    """Brightness gain of rounded edges and of a gentle dome, lit from the light's azimuth."""
    towards = np.zeros_like(distance)  # the slope towards the light; the frame is far from the outline and stays flat
    half_cos, half_sin = np.float32(0.5 * np.cos(light.azimuth)), np.float32(0.5 * np.sin(light.azimuth))
    towards[:, 1:-1] = half_cos * (distance[:, 2:] - distance[:, :-2])
    towards[1:-1] += half_sin * (distance[2:] - distance[:-2])
    edge = np.clip(1 + distance / np.float32(0.32 * radius + 1), 0, 1)
    line = np.clip(1 + distance / np.float32(0.07 * radius + 0.6), 0, 1)
    result: Field = (1 + np.float32(0.30) * towards * edge * edge) * (1 - np.float32(0.32) * line)
    return result


def _surface(identity: Identity, u: Field, v: Field, d: Field, radius: float, fade: float) -> Patch:
    """The identity's pattern: (3, h, h), 0..255."""
    first, second = (np.array(colour, dtype=np.float32).reshape(3, 1, 1) for colour in identity.colours)
    if fade:
        first, second = (colour + np.float32(fade) * (_GREY - colour) for colour in (first, second))
    return first + PATTERNS[identity.pattern](u, v, d, radius) * (second - first)


def _add_eye(colour: Patch, x: float, y: float, radius: float) -> None:
    """Paint the white pupil in a black ring at (x, y), in patch pixels; `radius` is the object's."""
    outer = _EYE * radius
    x0, y0, span = int(x - outer - 1), int(y - outer - 1), int(2 * outer + 4)
    window = colour[:, y0 : y0 + span, x0 : x0 + span]
    line = np.arange(span, dtype=np.float32)
    away = np.hypot(line[None, :] + np.float32(x0 + 0.5 - x), line[:, None] + np.float32(y0 + 0.5 - y))
    black = np.clip(np.float32(outer + 0.5) - away[: window.shape[1], : window.shape[2]], 0, 1)
    window += black * (np.float32(20) - window)
    white = np.clip(np.float32(0.55 * outer + 0.5) - away[: window.shape[1], : window.shape[2]], 0, 1)
    window += white * (np.float32(250) - window)


def draw(
    identity: Identity, radius: float, angle: float, shift: tuple[float, float], light: Light, fade: float
) -> Sprite:
    """Paint an object of `radius` pixels turned by `angle`, `shift` (x, y) in -0.5..0.5 pixels off the middle."""
    half = int(np.ceil(radius * (1 + 0.48 * light.shadow) + 2))
    line = np.arange(-half, half + 1, dtype=np.float32)
    x, y = (line - np.float32(shift[0]))[None, :], (line - np.float32(shift[1]))[:, None]
    cos, sin = np.float32(np.cos(angle) / radius), np.float32(np.sin(angle) / radius)
    u, v = x * cos + y * sin, y * cos - x * sin
    d = OUTLINES[identity.shape](u, v).astype(np.float32, copy=False)
    distance = d * np.float32(radius)
    alpha = np.clip(np.float32(0.5) - distance, 0, 1)
    middle = (half + 0.5 + shift[0], half + 0.5 + shift[1])
    reach = HEADS[identity.shape] * radius
    head = (middle[0] + reach * float(np.sin(angle)), middle[1] - reach * float(np.cos(angle)))
    colour = _surface(identity, u, v, d, radius, fade)
    _add_eye(colour, *head, radius)
    colour *= _bevel(distance, radius, light)
    solid = alpha >= 0.5
    return Sprite(identity, radius, half, alpha, colour, distance, solid, int(solid.sum()), middle, head)
