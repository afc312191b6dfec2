# SPDX-License-Identifier: Apache-2.0
"""How boxes move: a Kalman filter of constant velocity for many boxes at once.

Legend: T tracks, N boxes. A box is (centre x, centre y, width, height) in pixels, time is in frames.

Noise grows with the size of a box, as in DeepSORT (Wojke et al. 2017, Simple Online and Realtime Tracking with a Deep
Association Metric); width and height are followed instead of area and aspect, as in BoT-SORT (Aharon et al. 2022,
sec. 3.1). The first velocity is left less certain than there, for videos of few frames a second. Since the noise is
independent for each coordinate, the filter of eight states is four filters of two, position and velocity, which need
no matrix: the same numbers, in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

POSITION: float = 1 / 20  # standard deviation of a measured or predicted position, in sizes of the box
VELOCITY: float = 1 / 160  # by which a velocity changes from frame to frame, in sizes of the box
HIDDEN: float = 1 / 40  # the same of a box that nobody sees: it may stop or turn round there
UNKNOWN: float = 1 / 4  # standard deviation of the velocity of a box just seen, in sizes of the box a frame
GATE: float = 9.4877  # 95 % quantile of chi-squared with 4 degrees of freedom


def to_cxcywh(boxes_xyxy: ArrayLike) -> Floats:
    """(..., 4) corners -> (..., 4) centre, width, height."""
    boxes = np.asarray(boxes_xyxy, dtype=np.float64)
    return np.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], axis=-1)


@dataclass(frozen=True, eq=False)
class Motion:
    """Where T boxes are and how they move, with how sure that is."""

    position: Floats  # (T, 4) pixels: centre x, centre y, width, height
    velocity: Floats  # (T, 4) pixels a frame
    variance: Floats  # (T, 4) of the position
    covariance: Floats  # (T, 4) of position and velocity
    drift: Floats  # (T, 4) variance of the velocity

    @classmethod
    def begin(cls, boxes_xyxy: ArrayLike) -> Motion:
        """Boxes (T, 4) seen for the first time, of unknown velocity."""
        position = to_cxcywh(boxes_xyxy)
        size = _sizes(position)
        zero = np.zeros_like(position)
        return cls(position, zero, (2 * POSITION * size) ** 2, zero, (UNKNOWN * size) ** 2)

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, rows: ArrayLike) -> Motion:
        """Some of the boxes. rows: (M,) int or (T,) bool."""
        index = np.asarray(rows)
        index = index if index.dtype == np.bool_ else index.astype(np.int64)
        return Motion(*(getattr(self, each.name)[index] for each in fields(self)))

    def joined(self, other: Motion) -> Motion:
        """These boxes, then those."""
        return Motion(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))

    def with_rows(self, rows: NDArray[np.int64], others: Motion) -> Motion:
        """These boxes with ``others`` in the place of some. rows: (M,)."""
        changed = {each.name: getattr(self, each.name).copy() for each in fields(self)}
        for name, column in changed.items():
            column[rows] = getattr(others, name)
        return Motion(**changed)

    @property
    def boxes_xyxy(self) -> Floats:
        """(T, 4) pixels; sides of at least one pixel."""
        half = np.maximum(self.position[:, 2:], 1.0) / 2
        return np.concatenate([self.position[:, :2] - half, self.position[:, :2] + half], axis=1)

    def predicted(self, resting: NDArray[np.bool_] | None = None) -> Motion:
        """One frame later. ``resting`` (T,): boxes not seen last: their size stays, their speed is less sure."""
        velocity, size = self.velocity.copy(), _sizes(self.position)
        change = np.full((len(self), 1), VELOCITY)
        if resting is not None:
            velocity[resting, 2:] = 0.0
            change[resting] = HIDDEN
        return Motion(
            self.position + velocity,
            velocity,
            self.variance + 2 * self.covariance + self.drift + (POSITION * size) ** 2,
            self.covariance + self.drift,
            self.drift + (change * size) ** 2,
        )

    def corrected(self, boxes_xyxy: ArrayLike) -> Motion:
        """The state after boxes (T, 4) were seen, one for each."""
        noise = (POSITION * _sizes(self.position)) ** 2
        surprise = to_cxcywh(boxes_xyxy) - self.position
        gain, push = self.variance / (self.variance + noise), self.covariance / (self.variance + noise)
        return Motion(
            self.position + gain * surprise,
            self.velocity + push * surprise,
            self.variance * (1 - gain),
            self.covariance * (1 - gain),
            self.drift - push * self.covariance,
        )

    def distances(self, boxes_xyxy: ArrayLike) -> Floats:
        """Squared Mahalanobis distances (T, N) of boxes (N, 4); below :data:`GATE` for 95 % of a track's own boxes."""
        expected = self.variance + (POSITION * _sizes(self.position)) ** 2
        surprise: Floats = to_cxcywh(boxes_xyxy)[None] - self.position[:, None]
        found: Floats = np.sum(surprise**2 / expected[:, None], axis=-1)
        return found


def _sizes(position: Floats) -> Floats:
    """(T, 4): width, height, width, height: what the noise of each coordinate is measured in; at least one pixel."""
    sizes: Floats = np.maximum(np.concatenate([position[:, 2:], position[:, 2:]], axis=1), 1.0)
    return sizes
