# SPDX-License-Identifier: Apache-2.0
"""What stands between the scene and its picture: light, air, lens and sensor, and the tags they earn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .canvas import Picture
from .level import REFERENCE, Level

MOODS: Final[tuple[str, ...]] = ("", "dark", "foggy", "spotlight")
_MOOD_ENDS: Final = (0.40, 0.60, 0.80)  # where each mood's share of 0..1 ends
_CAST_ENDS: Final = (0.50, 0.75)  # neutral, warm, cool
_NOISE_SIDE: Final = 512


@dataclass(frozen=True)
class Light:
    """One scene's light.

    `azimuth` is the direction the light comes from (radians, image frame), `shadow` the shadow's length and softness
    in object radii, `tint` the colour cast (-1.6 cool .. 1.6 warm), `spot` the cone as (x, y, radius) in picture
    sides, `noise` a deviation on 0..255.  At most one mood holds, so that dark, foggy and spotlight never blur.
    """

    azimuth: float
    shadow: float
    mood: str
    exposure: float
    tint: float
    gradient: float
    fog: float
    spot: tuple[float, float, float]
    spot_floor: float
    noise: float
    noisy: bool
    blur: float

    @property
    def tags(self) -> tuple[str, ...]:
        """The attributes that hold."""
        cast = "warm" if self.tint > 0.3 else "cool" if self.tint < -0.3 else ""
        return tuple(tag for tag in (self.mood, cast, "noisy" if self.noisy else "") if tag)


def sample_light(rng: np.random.Generator, level: Level) -> Light:
    """Draw a light.  Every draw happens whatever the mood, so that each figure has its own place in the stream."""
    mood = MOODS[int(np.searchsorted(_MOOD_ENDS, rng.random(), side="right"))]
    cast = int(np.searchsorted(_CAST_ENDS, rng.random(), side="right"))
    tint = (0.0, 1.0, -1.0)[cast] * rng.uniform(*level.tint) + (cast == 0) * rng.uniform(-1, 1) * level.tint[0] / 6
    noisy = bool(rng.random() < 0.25)
    dark, bright = rng.uniform(*level.dark), rng.uniform(*level.exposure)
    fog, floor = rng.uniform(*level.fog), rng.uniform(*level.spot)
    clean, grainy = rng.uniform(*level.clean), rng.uniform(*level.noisy)
    spot = (float(rng.uniform(0.28, 0.72)), float(rng.uniform(0.28, 0.72)), float(rng.uniform(0.24, 0.34)))
    return Light(
        azimuth=float(rng.uniform(0, 2 * np.pi)),
        shadow=float(rng.uniform(0.12, 0.34)),
        mood=mood,
        exposure=dark if mood == "dark" else bright,
        tint=float(tint),
        gradient=float(rng.uniform(0.2, 1.0) * level.gradient),
        fog=fog if mood == "foggy" else 0.0,
        spot=spot,
        spot_floor=floor if mood == "spotlight" else 1.0,
        noise=(grainy * (0.7 if mood == "dark" else 1.0)) if noisy else clean,
        noisy=noisy,
        blur=float(rng.uniform(0.1, 1.0) * level.blur),
    )


@cache
def _grid(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Pixel centres as (1, S) x and (S, 1) y in 0..1."""
    line = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    return line[None, :], line[:, None]


@cache
def _grain() -> NDArray[np.float32]:
    """A sheet of unit Gaussian noise; pictures take random windows of it, which is far cheaper than fresh draws."""
    return np.random.default_rng(7).standard_normal((3, _NOISE_SIDE, _NOISE_SIDE), dtype=np.float32)


def _illumination(light: Light, size: int) -> NDArray[np.float32]:
    """Brightness gain at every pixel, (S, S)."""
    x, y = _grid(size)
    along = (x - 0.5) * np.float32(np.cos(light.azimuth)) + (y - 0.5) * np.float32(np.sin(light.azimuth))
    gain = np.float32(light.exposure) * (1 + np.float32(2 * light.gradient) * along)
    if light.mood == "spotlight":
        cx, cy, radius = light.spot
        distance = np.sqrt((x - np.float32(cx)) ** 2 + (y - np.float32(cy)) ** 2)
        outside = np.clip((distance - np.float32(radius)) * np.float32(5.0) + np.float32(0.5), 0, 1)
        outside = outside * outside * (3 - 2 * outside)
        gain *= np.float32(1.12) - np.float32(1.12 - light.spot_floor) * outside
    return gain


def _lens(picture: Picture, weight: float) -> Picture:
    """Blur by a three-tap kernel in each direction; `weight` is what each neighbour contributes."""
    if weight < 0.02:
        return picture
    side, middle = np.float32(weight), np.float32(1 - 2 * weight)
    for axis in (1, 2):
        source = np.moveaxis(picture, axis, 0)
        blurred = picture * middle
        target = np.moveaxis(blurred, axis, 0)
        share = source * side
        target[1:] += share[:-1]
        target[:-1] += share[1:]
        target[0] += share[0]
        target[-1] += share[-1]
        picture = blurred
    return picture


def _noise(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """A window of the grain sheet at a random place, tiled where the picture is larger: (3, S, S)."""
    y, x = (int(k) for k in rng.integers(0, _NOISE_SIDE, 2))
    if size <= _NOISE_SIDE:
        y, x = y % (_NOISE_SIDE - size + 1), x % (_NOISE_SIDE - size + 1)
        return _grain()[:, y : y + size, x : x + size]
    rows, columns = (y + np.arange(size)) % _NOISE_SIDE, (x + np.arange(size)) % _NOISE_SIDE
    return _grain()[:, rows[:, None], columns[None, :]]


def _cast(tint: float) -> NDArray[np.float32]:
    """The colour cast as a gain per channel, (3, 1, 1); hues shift but stay recognisable."""
    warm = (1 + 0.16 * tint, 1.0, 1 - 0.22 * tint)
    cool = (1 + 0.24 * tint, 1 + 0.04 * tint, 1 - 0.14 * tint)
    return np.array(warm if tint > 0 else cool, dtype=np.float32).reshape(3, 1, 1)


def expose(rng: np.random.Generator, picture: Picture, light: Light) -> NDArray[np.uint8]:
    """Turn painted surfaces, which are used up, into the picture a camera would take: (S, S, 3) uint8."""
    size = picture.shape[1]
    cast = _cast(light.tint)
    picture *= _illumination(light, size) * np.float32(1 - light.fog)
    picture *= cast
    if light.fog:
        picture += np.float32(light.fog) * np.array([206, 209, 212], dtype=np.float32).reshape(3, 1, 1) * cast
    picture = _lens(picture, light.blur * min(1.0, size / REFERENCE))
    picture += np.float32(light.noise) * _noise(rng, size)
    np.clip(picture, 0, 255, out=picture)
    return np.ascontiguousarray(np.rint(picture, out=picture).astype(np.uint8).transpose(1, 2, 0))
