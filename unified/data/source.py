# SPDX-License-Identifier: Apache-2.0
"""One split of one dataset, in its own words and its own pixels: what every format makes of its files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from unified.contracts.config import DatasetConfig
from unified.contracts.errors import DataError, suggestion
from unified.contracts.protocols import datasets
from unified.contracts.recognition import Recognised
from unified.contracts.structures import Frame, Sample, Vocabulary
from unified.data.picture import read_within

if TYPE_CHECKING:
    from unified.data.formats.flaw import Collector

Split = Literal["train", "val"]

Reader = Callable[[str, int | None, Path], tuple[Tensor, tuple[int, int]]]
"""Reads a picture by name, within a reach, below a folder, as :func:`unified.data.picture.read_within` does."""


class Source(ABC):
    """A format of the registry ``unified.datasets``. Built as ``cls(name, config, split, base)``.

    ``base`` is the folder that ``config.path`` is relative to. A source is sent to worker processes, so it pickles
    small and opens big files by path.

    ``vocabulary`` holds the dataset's own words. ``tag_classes`` has, for each of its tags, the index of the box class
    that the tag is the presence of, or -1 for a tag of the whole image. ``category_ids`` are the files' own ids of
    the box classes, as texts, with the class each one is. ``views`` says that two augmented views of one image are its
    identity, ``masks`` that boxes have masks. ``warnings`` are one-line remarks for the person who opens the dataset.
    """

    renders: ClassVar[bool] = False
    """True: pictures are drawn at any size, and the constructor also takes ``size``, the network's input in pixels."""

    collects: ClassVar[bool] = False
    """True: the constructor also takes ``faults``, and with a collector it tells every fault of its files to that."""

    from_files: ClassVar[bool] = False
    """True: every image is a picture file, and :meth:`read_within` reads it with the reader it is given."""

    name: str
    vocabulary: Vocabulary
    tag_classes: Sequence[int] = ()
    category_ids: Sequence[tuple[str, str]] = ()
    views: bool = False
    masks: bool = False
    warnings: list[str]

    @classmethod
    def offers(cls, config: DatasetConfig, split: Split) -> bool:
        """Whether the dataset has this split at all."""
        return getattr(config, split) is not None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image_id(self, index: int) -> str: ...

    @classmethod
    def recognise(cls, path: Path) -> Recognised | None:
        """The dataset at ``path`` as a data file would hold it, where the path looks like one of this format."""
        return None

    def size(self, index: int) -> tuple[int, int] | None:
        """(height, width) in pixels where it is known without decoding the picture."""
        return None

    def identities(self, index: int, of: Literal["boxes", "image"]) -> Sequence[int]:
        """The different identities of an image's boxes, or its own. Formats that need no picture override this."""
        found = self.read(index).annotations
        told = found.box_identities.tolist() if of == "boxes" else [found.identity]
        return sorted({identity for identity in told if identity >= 0})

    @abstractmethod
    def read(self, index: int) -> Sample:
        """The image as it is stored, with indices into this source's own vocabulary.

        ``annotations.states["tags"]`` is (A,) int8 over the own tags; entries that are the presence of a box class
        may be left at any value. ``annotations.states["boxes"]``, where there is one, is (K,) int8 over the own box
        classes and narrows the dataset's claim for this image: UNLABELLED, nobody looked; IGNORE, nobody can say;
        NEGATIVE, all that is there has a box; POSITIVE, it is there, if perhaps without a box. Classes of the image's
        boxes are positive whatever it says, unless it says IGNORE. ``annotations.identity`` is -1 where unknown. Other
        states are not read.

        Raises:
            DataError: the picture is missing or damaged.
        """

    def read_within(self, index: int, reach: int, reader: Reader = read_within) -> Sample:
        """Like :meth:`read`, of a picture that is not needed larger than ``reach`` pixels wide and high.

        Boxes are in pixels of the picture that is given; the frame's scale says how much smaller it is.

        Raises:
            DataError: the picture is missing or damaged.
        """
        return self.read(index)


def shrunk(sample: Sample) -> Sample:
    """A sample whose picture is smaller than its frame's size says, with everything else made as small."""
    (height, width), (true_height, true_width) = sample.image.shape[1:], sample.frame.size
    if (height, width) == (true_height, true_width):
        return sample
    frame = Frame(sample.frame.image_id, sample.frame.size, (width / true_width, height / true_height))
    matrix = np.diag([*frame.scale, 1.0])[:2]
    found = sample.annotations
    extras = {
        key: extra.moved(matrix, (height, width)) if hasattr(extra, "moved") else extra
        for key, extra in found.extras.items()
    }
    found = replace(found, boxes_xyxy=frame.to_input(found.boxes_xyxy), extras=extras)
    return Sample(sample.image, found, frame)


def open_source(
    name: str,
    config: DatasetConfig,
    split: Split,
    base: Path,
    size: int | None = None,
    faults: Collector | None = None,
) -> Source:
    """The split of one configured dataset, by the format's registered name.

    With ``faults`` a format that can do so goes on after a fault of its files and leaves out what is at fault.

    Raises:
        DataError: the format does not know the dataset, or is not a :class:`Source`.
        RegistryError: unknown format.
    """
    cls = datasets.get(config.format)
    if not issubclass(cls, Source):
        raise DataError(
            f"dataset format '{config.format}' is {cls.__qualname__}, which is not a unified.data.source.Source"
        )
    told: dict[str, Any] = {"size": size} if cls.renders and size is not None else {}
    told |= {"faults": faults} if cls.collects and faults is not None else {}
    make: Callable[..., Source] = cls
    return make(name, config, split, base, **told)


def check_options(name: str, config: DatasetConfig, known: Sequence[str]) -> None:
    """Refuse an option that the dataset's format does not take."""
    for option in config.options:
        if option not in known:
            raise DataError(
                f"dataset '{name}': format '{config.format}' has no option '{option}'{suggestion(option, known)}"
            )
