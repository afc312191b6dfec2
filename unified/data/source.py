# SPDX-License-Identifier: Apache-2.0
"""One split of one dataset, in its own words and its own pixels: what every format makes of its files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from unified.contracts.config import DatasetConfig
from unified.contracts.errors import DataError, suggestion
from unified.contracts.protocols import datasets
from unified.contracts.structures import Sample, Vocabulary

Split = Literal["train", "val"]


class Source(ABC):
    """A format of the registry ``unified.datasets``. Built as ``cls(name, config, split, base)``.

    ``base`` is the folder that ``config.path`` is relative to. A source is sent to worker processes, so it pickles
    small and opens big files by path.

    ``vocabulary`` holds the dataset's own words. ``tag_classes`` has, for each of its tags, the index of the box class
    that the tag is the presence of, or -1 for a tag of the whole image. ``views`` says that two augmented views of one
    image are its identity. ``warnings`` are one-line remarks for the person who opens the dataset.
    """

    renders: ClassVar[bool] = False
    """True: pictures are drawn at any size, and the constructor also takes ``size``, the network's input in pixels."""

    name: str
    vocabulary: Vocabulary
    tag_classes: Sequence[int] = ()
    views: bool = False
    warnings: list[str]

    @classmethod
    def offers(cls, config: DatasetConfig, split: Split) -> bool:
        """Whether the dataset has this split at all."""
        return getattr(config, split) is not None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image_id(self, index: int) -> str: ...

    def size(self, index: int) -> tuple[int, int] | None:
        """(height, width) in pixels where it is known without decoding the picture."""
        return None

    @abstractmethod
    def read(self, index: int) -> Sample:
        """The image as it is stored, with indices into this source's own vocabulary.

        ``annotations.states["tags"]`` is (A,) int8 over the own tags; entries that are the presence of a box class
        may be left at any value. ``annotations.identity`` is -1 where unknown. Other states are not read.

        Raises:
            DataError: the picture is missing or damaged.
        """


def open_source(name: str, config: DatasetConfig, split: Split, base: Path, size: int | None = None) -> Source:
    """The split of one configured dataset, by the format's registered name.

    Raises:
        DataError: the format does not know the dataset, or is not a :class:`Source`.
        RegistryError: unknown format.
    """
    cls = datasets.get(config.format)
    if not issubclass(cls, Source):
        raise DataError(
            f"dataset format '{config.format}' is {cls.__qualname__}, which is not a unified.data.source.Source"
        )
    told = {"size": size} if cls.renders and size is not None else {}
    return cls(name, config, split, base, **told)  # type: ignore[call-arg]


def check_options(name: str, config: DatasetConfig, known: Sequence[str]) -> None:
    """Refuse an option that the dataset's format does not take."""
    for option in config.options:
        if option not in known:
            raise DataError(
                f"dataset '{name}': format '{config.format}' has no option '{option}'{suggestion(option, known)}"
            )
