# SPDX-License-Identifier: Apache-2.0
"""The embedded data set as a format: scenes rendered from a seed, kept in a cache, read from its memory map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
import torch
from pycocotools import mask as coco_mask

from unified.contracts.config import DatasetConfig
from unified.contracts.errors import DataError
from unified.contracts.extras import Keypoints, Masks
from unified.contracts.structures import Annotations, Frame, LabelState, Sample, Vocabulary
from unified.data.masks import Rle
from unified.data.shapes import ATTRIBUTES, CLASSES, IDENTITIES, KEYPOINTS, SCENES, ShapesStore
from unified.data.source import Source, Split, check_options

_DEFAULTS: Final[dict[str, Any]] = {"level": "medium", "train": 4000, "val": 500, "seed": 0, "size": None}
_SIZES: Final = (48, 320)  # a larger input is fed enlarged scenes: their cache would take gigabytes
_USUAL: Final = 160


class ShapesDataset(Source):
    """Scenes: boxes, each with an identity and two key points; tags (attributes, classes present); ground; captions.

    Options: ``level`` (easy, medium, hard), ``train`` and ``val`` (scenes), ``seed``, ``size`` (pixels; by default the
    network's input, within 48..320). The first opening renders the split, in about a minute for thousands of scenes.
    """

    renders: ClassVar[bool] = True

    def __init__(self, name: str, config: DatasetConfig, split: Split, base: Path, size: int | None = None) -> None:
        check_options(name, config, tuple(_DEFAULTS))
        options = {**_DEFAULTS, **config.options}
        self.name = name
        self.views = config.identity.image == "views"
        self.warnings, self.masks = [], True
        self.split = split
        _check(name, {**options, "size": options["size"] or _USUAL})
        side = options["size"] or min(max(size or _USUAL, _SIZES[0]), _SIZES[1])
        try:
            self.store = ShapesStore.open(
                split, count=options[split], seed=options["seed"], level=options["level"], size=side
            )
        except (ValueError, TypeError, OSError) as error:
            raise DataError(f"dataset '{name}': {error}") from error
        # scene by scene: pycocotools counts masks in a byte there
        areas = [coco_mask.area(list(self.store[k].masks)) for k in range(len(self.store))]
        self._areas = np.concatenate(areas).astype(np.float32)
        self.vocabulary = Vocabulary(
            boxes=tuple(CLASSES),
            tags=tuple(ATTRIBUTES) + tuple(CLASSES),
            identities=tuple(identity.name for identity in IDENTITIES),
            image_identities=tuple(ground.phrase for ground in SCENES),
        )
        self.tag_classes = (-1,) * len(ATTRIBUTES) + tuple(range(len(CLASSES)))

    @classmethod
    def offers(cls, config: DatasetConfig, split: Split) -> bool:
        return True

    def __len__(self) -> int:
        return len(self.store)

    def image_id(self, index: int) -> str:
        return f"{self.split}-{index}"

    def size(self, index: int) -> tuple[int, int] | None:
        side = int(self.store.images.shape[1])
        return side, side

    def identities(self, index: int, of: Literal["boxes", "image"]) -> Sequence[int]:
        store = self.store
        rows = slice(int(store.offsets[index]), int(store.offsets[index + 1]))
        return sorted({*store.identities[rows].tolist()}) if of == "boxes" else [int(store.scenes[index])]

    def read(self, index: int) -> Sample:
        store, scene = self.store, self.store[index]
        image = torch.from_numpy(np.array(store.images[index])).permute(2, 0, 1)
        side = int(image.shape[1])
        rows = slice(int(store.offsets[index]), int(store.offsets[index + 1]))
        objects = rows.stop - rows.start
        tags = np.full(len(self.vocabulary.tags), LabelState.NEGATIVE, dtype=np.int8)
        tags[: len(ATTRIBUTES)][store.attributes[index]] = LabelState.POSITIVE
        annotations = Annotations(
            boxes_xyxy=torch.from_numpy(store.boxes_xyxy[rows].copy()),
            box_labels=torch.from_numpy(store.labels[rows].copy()),
            box_states=torch.full((objects,), int(LabelState.POSITIVE), dtype=torch.int8),
            box_identities=torch.from_numpy(store.identities[rows].copy()),
            box_areas=torch.from_numpy(self._areas[rows].copy()),
            box_crowd=torch.zeros(objects, dtype=torch.bool),
            identity=int(store.scenes[index]),
            states={"tags": torch.from_numpy(tags)},
            extras={
                "masks": Masks((side, side), tuple(map(Rle.of, scene.masks))),
                "keypoints": Keypoints(torch.from_numpy(store.keypoints_xyv[rows].copy()), KEYPOINTS, ((0, 1),)),
                "captions": scene.captions,
            },
        )
        return Sample(image, annotations, Frame(self.image_id(index), (int(image.shape[1]), int(image.shape[2]))))


def _check(name: str, options: Mapping[str, Any]) -> None:
    """Numbers out of range, before any renderer starts."""
    for option, least in (("train", 1), ("val", 1), ("seed", 0), ("size", _SIZES[0])):
        value = options[option]
        if not isinstance(value, int) or value < least:
            raise DataError(f"dataset '{name}': option '{option}' must be a whole number from {least}, got {value!r}")
