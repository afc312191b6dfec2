# SPDX-License-Identifier: Apache-2.0
"""Pixels for the looks that tasks ask for, read again from the data: what they are is only known in the end."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from functools import cached_property

from PIL import Image

from unified.contracts.errors import UnifiedError
from unified.contracts.section import Box, Gallery, Part, Picture, Section, View, readable
from unified.contracts.structures import Sample
from unified.data.mixing import Mixture

SIDES = {"crop": 208, "strip": 96, "whole": 352}  # pixels of a picture's longer side
FARTHEST = 1280  # pixels: an original is never read larger
QUALITY = 78
PICTURES = 240  # at most, of all sections together


class Album:
    """Finds images of a mixture by dataset and id."""

    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture
        self.room = PICTURES

    def filled(self, section: Section) -> Section:
        """The section with pixels in its galleries; looks at images that cannot be read are left out."""
        parts = tuple(self.gallery(part) if isinstance(part, Gallery) else part for part in section.parts)
        return section.model_copy(update={"parts": _worth(parts)})

    def gallery(self, gallery: Gallery) -> Gallery:
        """The gallery with pixels."""
        rows = []
        for row in gallery.rows:
            found = [self.view(view, gallery.strip) for view in row]
            if not (gallery.strip and found and found[0] is None):  # without its query a row says nothing
                rows.append(tuple(view for view in found if view is not None))
        return gallery.model_copy(update={"rows": tuple(row for row in rows if row)})

    def view(self, view: View, strip: bool = False) -> View | None:
        """The look with its pixels; None where they cannot be had."""
        side = SIDES["strip" if strip else "crop" if view.crop else "whole"]
        place = self._places.get((view.dataset, view.image_id)) or self._places.get(("", view.image_id))
        if place is None or self.room <= 0:
            return None
        self.room -= 1
        try:
            picture = self._picture(*place, view.crop, side)
        except (UnifiedError, OSError, ValueError):
            return None
        return view.model_copy(update={"picture": picture})

    @cached_property
    def _places(self) -> dict[tuple[str, str], tuple[str, int]]:
        """Dataset and index by (dataset, id), and by ("", id) of the first dataset that has it."""
        found: dict[tuple[str, str], tuple[str, int]] = {}
        for name, source in self.mixture.sources.items():
            for index in range(len(source)):
                image_id = readable(source.image_id(index))
                found.setdefault(("", image_id), (name, index))
                found[name, image_id] = (name, index)
        return found

    def _picture(self, dataset: str, index: int, crop: Box | None, side: int) -> Picture:
        source = self.mixture.sources[dataset]
        sample = source.read_within(index, self._reach(source.size(index), crop, side))
        return developed(sample, crop, side)

    def _reach(self, size: tuple[int, int] | None, crop: Box | None, side: int) -> int:
        """How large the whole must be read for the part to be sharp."""
        if size is None or crop is None:
            return FARTHEST if crop else side
        part = max(crop[2] - crop[0], crop[3] - crop[1], 1.0)
        return min(FARTHEST, max(side, math.ceil(side * max(size) / part)))


def developed(sample: Sample, crop: Box | None, side: int) -> Picture:
    """A part of an image (all of it by default) as JPEG, its longer side ``side`` pixels; enlarged four times at most.

    ``crop``: in original pixels; what lies outside the image is left away.
    """
    pixels = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
    scale, offset = sample.frame.scale, sample.frame.offset
    corners = [0.0, 0.0, float(pixels.width), float(pixels.height)]
    if crop is not None:
        asked = [crop[k] * scale[k % 2] + offset[k % 2] for k in range(4)]
        low = [max(math.floor(asked[k]), 0) for k in (0, 1)]
        high = [min(math.ceil(asked[k]), size) for k, size in ((2, pixels.width), (3, pixels.height))]
        if min(high[0] - low[0], high[1] - low[1]) < 2:
            raise ValueError("nothing of the image is asked for")
        corners = [*map(float, low), *map(float, high)]
    pixels = pixels.crop((int(corners[0]), int(corners[1]), int(corners[2]), int(corners[3])))
    zoom = min(side / max(pixels.size), 4.0)
    size = (max(1, round(pixels.width * zoom)), max(1, round(pixels.height * zoom)))
    x, y = size[0] / pixels.width, size[1] / pixels.height
    pixels = pixels.resize(size, Image.Resampling.BICUBIC if zoom > 1 else Image.Resampling.LANCZOS).convert("RGB")
    held = io.BytesIO()
    pixels.save(held, "JPEG", quality=QUALITY, optimize=True)
    return Picture(
        jpeg=base64.b64encode(held.getvalue()).decode(),
        width=size[0],
        height=size[1],
        scale=(scale[0] * x, scale[1] * y),
        offset=((offset[0] - corners[0]) * x, (offset[1] - corners[1]) * y),
    )


def _worth(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Parts without galleries that have nothing to show."""
    return tuple(part for part in parts if not (isinstance(part, Gallery) and not part.rows))
