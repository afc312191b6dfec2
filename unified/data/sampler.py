# SPDX-License-Identifier: Apache-2.0
"""Which image of a dataset comes next: an endless stream whose every place is a pure function of (seed, place).

A place holds an address (index, epoch): the image, and a number that no other place of this image has, from which its
random numbers come.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from unified.contracts.config import PartConfig
from unified.contracts.errors import ConfigError, DataError, suggestion
from unified.data.source import Source

Address = tuple[int, int]
Of = Literal["boxes", "image"]
_KNOWN: Mapping[str, tuple[str, ...]] = {"shuffle": (), "pk": ("p", "k", "of")}


class Sampler(Protocol):
    """An endless stream of addresses."""

    def at(self, place: int) -> Address: ...


@lru_cache(maxsize=256)
def permutation(seed: int, key: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of ``count`` things in one of their epochs."""
    return np.random.default_rng(np.random.SeedSequence([seed, key, epoch])).permutation(count)


class Shuffled:
    """One permutation of all images after the other."""

    def __init__(self, name: str, count: int, seed: int) -> None:
        self.key, self.count, self.seed = zlib.crc32(name.encode()), count, seed

    def at(self, place: int) -> Address:
        epoch, k = divmod(place, self.count)
        return int(permutation(self.seed, self.key, epoch, self.count)[k]), epoch


class IdentityBalanced:
    """Batches of P different identities with K images each (Hermans et al. 2017, In Defense of the Triplet Loss).

    Identities come one permutation after the other, the last of which that fill no batch wait for the next; so do the
    images of each identity. One with fewer than K images shows some twice, differently transformed. Images that show
    no identity are never drawn. The images of an identity stand together, so that ranks share whole ones where they
    divide P.

    Args:
        name: the dataset's name.
        groups: the images of each identity, (n,) indices each, none empty.
        p, k: identities of a batch, and images of each.
        seed: of the run.
    """

    def __init__(self, name: str, groups: list[NDArray[np.int64]], p: int, k: int, seed: int) -> None:
        if len(groups) < p:
            raise DataError(
                f"dataset '{name}': sampler pk asks for {p} identities in a batch, but its images show {len(groups)}; "
                f"set p to {len(groups)} or less"
            )
        self.name, self.groups, self.p, self.k, self.seed = name, groups, p, k, seed
        self.key = zlib.crc32(f"{name}/identities".encode())

    def at(self, place: int) -> Address:
        batch, slot = divmod(place, self.p * self.k)
        epoch, nth = divmod(batch, len(self.groups) // self.p)
        order = permutation(self.seed, self.key, epoch, len(self.groups))
        return self._image(int(order[nth * self.p + slot // self.k]), epoch, slot % self.k)

    def _image(self, identity: int, turn: int, j: int) -> Address:
        """The ``j``-th image that an identity shows in its ``turn``."""
        group = self.groups[identity]
        turns = len(group) // self.k  # of one permutation; its rest waits, so that no image meets itself
        cycle, place = (turn // turns, turn % turns * self.k + j) if turns else divmod(turn * self.k + j, len(group))
        key = zlib.crc32(f"{self.name}/identities/{identity}".encode())
        index = int(group[permutation(self.seed, key, cycle, len(group))[place]])
        return index, cycle * len(self.groups) + identity


def make_sampler(config: PartConfig, source: Source, batch: int, seed: int) -> Sampler:
    """The sampler of a dataset.

    ``shuffle`` takes nothing. ``pk`` takes ``k`` (images an identity, 2), ``p`` (identities a batch; by default as many
    as fill it) and ``of`` (``boxes`` or ``image``: whose identities; by default the boxes', if they have any).

    Raises:
        ConfigError: an unknown sampler or option.
        DataError: the dataset's identities or the batch do not allow it.
    """
    where = f"dataset '{source.name}': sampler"
    if config.name not in _KNOWN:
        raise ConfigError(f"{where} '{config.name}' is unknown{suggestion(config.name, _KNOWN)}")
    for option in config.options:
        if option not in _KNOWN[config.name]:
            known = suggestion(option, _KNOWN[config.name])
            raise ConfigError(f"{where} '{config.name}' has no option '{option}'{known}")
    if config.name == "shuffle":
        return Shuffled(source.name, len(source), seed)
    k = _whole(config.options, "k", 2, where)
    p = _whole(config.options, "p", max(batch // k, 1), where)
    if p * k != batch:
        raise ConfigError(f"{where} pk: p {p} times k {k} is {p * k}, but a batch has {batch} images; make them equal")
    return IdentityBalanced(source.name, _groups(source, config.options.get("of"), where), p, k, seed)


def _whole(options: Mapping[str, Any], name: str, default: int, where: str) -> int:
    value = options.get(name, default)
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"{where} pk: {name} must be a whole number from 1, got {value!r}")
    return value


def _groups(source: Source, of: Of | None, where: str) -> list[NDArray[np.int64]]:
    """The images of every identity that is shown at all."""
    named = {"boxes": source.vocabulary.identities, "image": source.vocabulary.image_identities}
    chosen: Of = of if of is not None else "boxes" if named["boxes"] else "image"
    if chosen not in get_args(Of):
        raise ConfigError(f"{where} pk: of must be 'boxes' or 'image', got {of!r}")
    if source.views or not named[chosen]:
        reason = "its views are their own pairs" if source.views else f"its {chosen} have no identities"
        raise DataError(f"{where} pk does not fit: {reason}; use sampler: shuffle, or set identity")
    images: list[list[int]] = [[] for _ in named[chosen]]
    for index in range(len(source)):
        for identity in source.identities(index, chosen):
            images[identity].append(index)
    return [np.array(group, dtype=np.int64) for group in images if group]
