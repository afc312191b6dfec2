# SPDX-License-Identifier: Apache-2.0
"""Ground textures: each family paints one square tile from a random generator and a palette."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .identity import Rgb

TILE: Final = 448
"""Side of a tile in pixels; one tile pixel is about one picture pixel at the reference size."""

Plane = NDArray[np.float64]
Palette = tuple[Rgb, ...]
Family = Callable[[np.random.Generator, Palette], Plane]

_Y, _X = (axis.astype(np.int64) for axis in np.mgrid[0:TILE, 0:TILE])


def fractal(rng: np.random.Generator, beta: float, across: float = 1.0, along: float = 1.0) -> Plane:
    """Noise of unit deviation with a 1/f**beta spectrum, stretched `across` times in x and `along` times in y."""
    fy = np.fft.fftfreq(TILE)[:, None] * along
    fx = np.fft.rfftfreq(TILE)[None, :] * across
    gain = (np.hypot(fy, fx) + 1.0 / TILE) ** -beta
    gain[0, 0] = 0
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((TILE, TILE))) * gain, s=(TILE, TILE))
    return np.asarray(field / field.std(), dtype=np.float64)


def tinted(palette: Palette, tone: Plane) -> Plane:
    """Map a field in [0, 1] through evenly spaced palette colours to (TILE, TILE, 3), 0..255."""
    stops = np.linspace(0, 1, len(palette))
    return np.stack([np.interp(tone, stops, [colour[c] for colour in palette]) for c in range(3)], axis=-1)


def _joint(position: NDArray[np.int64], pitch: int, width: float) -> Plane:
    """1 on the joints of a grid of the given pitch, 0 between, soft by one pixel."""
    offset = position % pitch
    return np.clip(width / 2 + 0.5 - np.minimum(offset, pitch - offset), 0, 1)


def _relief(height: Plane, strength: float) -> Plane:
    """Brightness gain of a height field lit from the top left."""
    slope = np.roll(height, 1, (0, 1)) - height
    return np.clip(1 - strength * slope, 0.4, 1.6)


def planks(rng: np.random.Generator, palette: Palette) -> Plane:
    """Floorboards: long grain, a tone for each board, dark seams."""
    row = _Y // 56
    ends = rng.integers(0, TILE, 8)
    board = (_X + ends[row]) // 224 % 2
    shift, lift = rng.integers(0, TILE, (8, 2)), rng.integers(0, TILE, (8, 2))
    rows, columns = (_Y + lift[row, board]) % TILE, (_X + shift[row, board]) % TILE
    grain = fractal(rng, 1.0, across=14)[rows, columns]
    figure = np.sin(fractal(rng, 1.8, across=6)[rows, columns] * 5)
    tone = 0.5 + 0.13 * grain + 0.14 * figure + rng.uniform(-0.22, 0.22, (8, 2))[row, board]
    seam = np.maximum(_joint(_Y, 56, 2.4), _joint(_X + ends[row], 224, 2.0))
    return tinted(palette, tone) * (1 - 0.62 * seam)[..., None]


def parquet(rng: np.random.Generator, palette: Palette) -> Plane:
    """Basket-weave blocks of four slats that change direction from block to block."""
    turned = (_Y // 56 + _X // 56) % 2 == 1
    along, over = np.where(turned, _Y, _X), np.where(turned, _X, _Y)
    slat = over // 14 % 32
    block = along // 56 % 8
    tone = 0.5 + rng.uniform(-0.3, 0.3, (32, 8))[slat, block]
    grain = fractal(rng, 1.0, across=10)
    tone = tone + 0.13 * np.where(turned, grain.T, grain)
    seam = np.maximum(_joint(over, 14, 1.2), _joint(along, 56, 1.6))
    return tinted(palette, tone) * (1 - 0.5 * seam)[..., None]


def brick(rng: np.random.Generator, palette: Palette) -> Plane:
    """Bricks in running bond; the palette's last colour is the mortar."""
    row = _Y // 28
    column = (_X + 28 * (row % 2)) % TILE
    tone = 0.5 + rng.uniform(-0.4, 0.4, (16, 8))[row, column // 56] + 0.1 * fractal(rng, 0.7)
    edge = np.maximum(_joint(_Y, 28, 4.0), _joint(column, 56, 4.0))
    bevel = np.clip(np.minimum(_Y % 28, column % 56) / 5, 0, 1) * 0.25 + 0.8
    face = tinted(palette[:-1], tone) * bevel[..., None]
    mortar = np.array(palette[-1]) * (1 + 0.09 * fractal(rng, 0.5))[..., None]
    result: Plane = face + edge[..., None] * (mortar - face)
    return result


def tiles(rng: np.random.Generator, palette: Palette) -> Plane:
    """Glazed square tiles in two alternating colours; the palette's last colour is the grout."""
    across, down = _X // 56, _Y // 56
    glaze = 0.05 * fractal(rng, 1.6) + rng.uniform(-0.05, 0.05, (8, 8))[down, across]
    shine = 0.10 * ((_X % 56) + (_Y % 56) - 56) / 56
    odd = (across + down) % 2
    face = np.stack([np.where(odd, palette[0][c], palette[1][c]) for c in range(3)], axis=-1)
    face = face * (1 + glaze - shine)[..., None]
    grout = np.maximum(_joint(_Y, 56, 3.4), _joint(_X, 56, 3.4))
    result: Plane = face + grout[..., None] * (np.array(palette[-1]) - face)
    return result


def grass(rng: np.random.Generator, palette: Palette) -> Plane:
    """Turf: many thin blades over uneven soil."""
    base = tinted(palette, 0.3 + 0.12 * fractal(rng, 1.4))
    picture = Image.fromarray(base.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(9000):
        x, y = rng.uniform(-8, TILE + 8, 2)
        angle, length = rng.normal(-1.57, 0.6), rng.uniform(6, 17)
        tone = rng.uniform(0.1, 1.0) ** 1.3 * (len(palette) - 1)
        low = min(int(tone), len(palette) - 2)
        mix = [round(a + (tone - low) * (b - a)) for a, b in zip(palette[low], palette[low + 1], strict=True)]
        draw.line((x, y, x + length * np.cos(angle), y + length * np.sin(angle)), fill=(mix[0], mix[1], mix[2]))
    return np.asarray(picture, dtype=np.float64)


def leaves(rng: np.random.Generator, palette: Palette) -> Plane:
    """A carpet of fallen or growing leaves, each a pointed oval with a midrib."""
    picture = Image.new("RGB", (TILE, TILE), palette[0])
    draw = ImageDraw.Draw(picture)
    arc = np.linspace(0, np.pi, 7)
    for _ in range(1300):
        x, y = rng.uniform(-10, TILE + 10, 2)
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(9, 17)
        side = np.sin(arc) * length * 0.42
        run = -np.cos(arc) * length
        outline = np.concatenate([np.stack([run, side], 1), np.stack([run, -side], 1)[::-1]])
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        points = [(float(px), float(py)) for px, py in outline @ turn + (x, y)]
        gain = rng.uniform(0.6, 1.1)
        red, green, blue = (round(min(255, gain * c)) for c in palette[int(rng.integers(len(palette)))])
        draw.polygon(points, fill=(red, green, blue))
        draw.line((points[0], points[6]), fill=(red * 3 // 4, green * 3 // 4, blue * 3 // 4))
    return np.asarray(picture, dtype=np.float64)


def _weave(rng: np.random.Generator) -> Plane:
    """Brightness gain of a plain weave, three pixels a thread."""
    over = ((_X // 3 + _Y // 3) % 2).astype(np.float64)
    thread = 0.05 * fractal(rng, 0.4, across=8) * over + 0.05 * fractal(rng, 0.4, along=8) * (1 - over)
    result: Plane = 0.93 + 0.10 * over + thread
    return result


def plaid(rng: np.random.Generator, palette: Palette) -> Plane:
    """Tartan: the same bands in both directions, woven together."""
    cloth = np.broadcast_to(np.array(palette[0], dtype=np.float64), (TILE, TILE, 3)).copy()
    bands = ((palette[1], 0, 30), (palette[2], 44, 8), (palette[2], 58, 8), (palette[1], 80, 6))
    for position in (_X, _Y):
        for colour, start, width in bands:
            on = (position % 112 >= start) & (position % 112 < start + width)
            cloth[on] += 0.48 * (np.array(colour) - cloth[on])
    fold = 1 + 0.05 * fractal(rng, 2.0)
    return cloth * (_weave(rng) * fold)[..., None]


def stripes(rng: np.random.Generator, palette: Palette) -> Plane:
    """Striped cloth with soft folds."""
    position = _X % 64
    tone = np.where(position < 26, 0, np.where(position < 34, 2, np.where(position < 54, 1, 2)))
    cloth = np.array(palette, dtype=np.float64)[tone]
    return cloth * (_weave(rng) * _relief(fractal(rng, 3.0), 5.0))[..., None]


def sand(rng: np.random.Generator, palette: Palette) -> Plane:
    """Wind ripples, grains and a few dark specks."""
    ripple = np.sin(2 * np.pi * _Y / 28 + 1.6 * fractal(rng, 2.0)) * 0.5
    grain = rng.standard_normal((TILE, TILE))
    tone = 0.5 + 0.10 * ripple + 0.10 * fractal(rng, 1.0) + 0.09 * grain
    speck = 1 - 0.35 * (fractal(rng, 0.5) > 3.0)
    return tinted(palette, tone) * speck[..., None]


def water(rng: np.random.Generator, palette: Palette) -> Plane:
    """A shallow pool: bright caustic lines over slow changes of depth."""
    first, second = fractal(rng, 2.1), fractal(rng, 2.1)
    caustic = np.exp(-np.abs(np.sin(first * 2.2)) * 4) + np.exp(-np.abs(np.sin(second * 2.2)) * 4)
    tone = 0.32 + 0.12 * fractal(rng, 2.0) + 0.34 * caustic
    return tinted(palette, tone)


def marble(rng: np.random.Generator, palette: Palette) -> Plane:
    """Polished stone with branching veins."""
    warp = fractal(rng, 1.7)
    vein = np.exp(-np.abs(warp) * 16) + 0.6 * np.exp(-np.abs(fractal(rng, 1.5) + 0.4) * 22)
    tone = 0.62 + 0.14 * fractal(rng, 1.5) - 0.5 * vein
    return tinted(palette, tone)


def paper(rng: np.random.Generator, palette: Palette) -> Plane:
    """Crumpled paper: flat facets between creases, from the nearest of random points."""
    seeds = rng.uniform(0, TILE, (70, 2))
    slopes = rng.uniform(-1, 1, 70)
    best = np.full((TILE, TILE), np.inf)
    tilt, fall = np.zeros((TILE, TILE)), np.zeros((TILE, TILE))
    for (row, column), slope in zip(seeds, slopes, strict=True):
        down = _Y - row
        reach = np.abs(down) + np.hypot(_X - column, down)
        nearer = reach < best
        best = np.where(nearer, reach, best)
        tilt, fall = np.where(nearer, slope, tilt), np.where(nearer, slope * down / 60, fall)
    tone = 0.55 + 0.13 * tilt + 0.12 * fall + 0.05 * fractal(rng, 0.7)
    return tinted(palette, tone)


FAMILIES: Final[dict[str, Family]] = {
    "planks": planks,
    "parquet": parquet,
    "brick": brick,
    "tiles": tiles,
    "grass": grass,
    "leaves": leaves,
    "plaid": plaid,
    "stripes": stripes,
    "sand": sand,
    "water": water,
    "marble": marble,
    "paper": paper,
}
"""Every texture family, by name."""
