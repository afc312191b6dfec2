# SPDX-License-Identifier: Apache-2.0
"""What a task says of an image beside boxes, tags and vectors: an entry of ``Prediction.extras``.

Any value may stand there. One that extends :class:`Answer` also follows the image to its own pixels and its boxes when
some are left out, says itself in JSON and in a line, and draws itself. Fields that are tensors arrive as float32 or
integers on the CPU; fields must be those of the constructor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from unified.contracts.structures import Frame, Prediction

if TYPE_CHECKING:
    from PIL import Image


class Answer:
    """A frozen dataclass that stands in ``Prediction.extras`` under its task's name extends this."""

    def in_frame(self, frame: Frame) -> Self:
        """The same in the original pixels of ``frame``."""
        return self

    def select(self, index: Tensor) -> Self:
        """The same with only some of the image's boxes, where it has a row for each. index: (M,) int64 or (N,) bool."""
        return self

    def caption(self) -> str:
        """A few words for a person; empty where there is nothing to say."""
        return ""

    def drawn_on(self, picture: Image.Image) -> Image.Image:
        """The picture, RGB and of the size that the answer's pixels are of, with the answer drawn onto it."""
        return picture


def captions(prediction: Prediction) -> dict[str, str]:
    """What the tasks say of an image in their own words, by task; empty words where there is nothing to say."""
    return {name: said.caption() for name, said in prediction.extras.items() if hasattr(said, "caption")}


def selected(extras: Mapping[str, Any], index: Tensor) -> dict[str, Any]:
    """Extras with only some of the image's boxes. index: (M,) int64 or (N,) bool."""
    return {name: said.select(index) if hasattr(said, "select") else said for name, said in extras.items()}
