# SPDX-License-Identifier: Apache-2.0
"""Surface patterns: which of an identity's two colours shows at a point.

A pattern takes `u`, `v` and the outline's distance `d` (float32, object units) with the radius in pixels, and
returns the weight of the second colour in [0, 1].  Features are coarse enough to survive at about 25 pixels, and
their edges are one pixel wide at every radius.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from .outline import Field

Pattern = Callable[[Field, Field, Field, float], Field]


def soften(distance: Field, radius: float) -> Field:
    """Coverage in [0, 1] from a signed distance in object units: one pixel of ramp, 1 where it is positive."""
    result: Field = np.clip(distance * np.float32(radius) + np.float32(0.5), 0, 1)
    return result


def wave(x: Field, period: float) -> Field:
    """A triangle wave that is the signed distance to the edges of bands half a period wide."""
    phase = x / np.float32(period)
    result: Field = (np.abs(phase - np.floor(phase) - np.float32(0.5)) - np.float32(0.25)) * np.float32(period)
    return result


def plain(u: Field, v: Field, d: Field, radius: float) -> Field:
    """The first colour alone."""
    return np.zeros_like(u)


def striped(u: Field, v: Field, d: Field, radius: float) -> Field:
    """Bands along the object's axis."""
    return soften(wave(u + np.float32(0.14), 0.56), radius)


def spotted(u: Field, v: Field, d: Field, radius: float) -> Field:
    """Round spots on a square lattice."""
    pitch = np.float32(0.6)
    x, y = u / pitch, v / pitch
    return soften(np.float32(0.21) - pitch * np.hypot(x - np.rint(x), y - np.rint(y)), radius)


def checked(u: Field, v: Field, d: Field, radius: float) -> Field:
    """A chessboard."""
    a, b = soften(wave(u, 0.84), radius), soften(wave(v, 0.84), radius)
    return a + b - 2 * a * b


def ringed(u: Field, v: Field, d: Field, radius: float) -> Field:
    """Circles about the centre."""
    return soften(wave(np.hypot(u, v), 0.58), radius)


def shaded(u: Field, v: Field, d: Field, radius: float) -> Field:
    """A smooth change from head to tail."""
    result: Field = np.clip(np.float32(0.5) + np.float32(0.75) * v, 0, 1)
    return result


def halved(u: Field, v: Field, d: Field, radius: float) -> Field:
    """One colour on each side of the axis."""
    return soften(u, radius)


def pinwheel(u: Field, v: Field, d: Field, radius: float) -> Field:
    """Six sectors about the centre."""
    third = np.float32(3)
    distance = np.asarray(np.sin(third * np.arctan2(u, v)) * np.hypot(u, v) / third, dtype=np.float32)
    return soften(distance, radius)


def rimmed(u: Field, v: Field, d: Field, radius: float) -> Field:
    """A broad border in the second colour."""
    return soften(d + np.float32(0.2), radius)


PATTERNS: Final[dict[str, Pattern]] = {
    "plain": plain,
    "striped": striped,
    "spotted": spotted,
    "checked": checked,
    "ringed": ringed,
    "shaded": shaded,
    "halved": halved,
    "pinwheel": pinwheel,
    "rimmed": rimmed,
}
"""Every pattern, by the adjective that captions use."""

COVERAGE: Final[dict[str, float]] = {
    "plain": 0.0,
    "striped": 0.5,
    "spotted": 0.38,
    "checked": 0.5,
    "ringed": 0.5,
    "shaded": 0.5,
    "halved": 0.5,
    "pinwheel": 0.5,
    "rimmed": 0.5,
}
"""Roughly what share of the surface the second colour takes; used to keep identities' mean colours apart."""
