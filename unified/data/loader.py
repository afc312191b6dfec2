# SPDX-License-Identifier: Apache-2.0
"""Which images make which batch: the order of training and of evaluation."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np

from unified.contracts.config import AugmentConfig
from unified.contracts.errors import DataError
from unified.contracts.protocols import Turn
from unified.contracts.structures import Batch
from unified.data.kitchen import TIMEOUT, Kitchen, Line, Order
from unified.data.larder import Larder
from unified.data.sampler import Address, Shuffled, permutation
from unified.data.schedule import CountingSchedule
from unified.data.source import Source
from unified.data.spoilage import MOST, Spoilage, Spoiled
from unified.data.transforms import closed

if TYPE_CHECKING:
    from unified.data.mixing import Mixture

STRETCH: Final = 16  # batches of a stream that are sorted by shape at a time


class TrainLoader:
    """The training batches of one rank, from ``start_step`` to the run's end at ``steps``.

    Every dataset is an endless stream, in the order its sampler gives. The n-th turn of a dataset takes the n-th
    ``batch`` images of its stream; a rank takes its even share of them. So the batches of all ranks together, and of
    any number of workers, are those of one process, and a run resumes from its step alone. A dataset whose identities
    are views takes half as many images and gives two of each.

    An unreadable picture is replaced by another one, the same for any number of ranks and workers, and told to
    ``spoilage``.

    Args:
        batch: images of a step, over all ranks.
        size: side of the network's input in pixels.
        augment: chances and strengths, closed to mosaics at the end; or a function that gives those of a step.
        workers: processes; with 0 a thread of this process works ahead (``ahead=False``: not even that).
        reach: the longer side in pixels at which pictures are decoded at most, see :func:`reach_of`; None: in full.
        larder: keeps decoded pictures.
        spoilage: counts unreadable pictures, and stops when there are too many.
        stride: of which the sides of multi-scale and rectangular batches are multiples, in pixels.
        timeout: seconds without a batch after which workers are given up.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        schedule: CountingSchedule,
        batch: int,
        size: int,
        augment: AugmentConfig | Callable[[int], AugmentConfig],
        seed: int,
        steps: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        start_step: int = 0,
        ahead: bool = True,
        reach: int | None = None,
        larder: Larder | None = None,
        spoilage: Spoilage | None = None,
        stride: int = 32,
        timeout: float = TIMEOUT,
    ) -> None:
        if batch < world:
            raise DataError(f"a batch of {batch} images cannot be shared by {world} ranks; choose {world} or more")
        self.mixture, self.schedule = mixture.at(size), schedule
        self.batch, self.seed = batch, seed
        self.augment = partial(closed, augment, count=steps) if isinstance(augment, AugmentConfig) else augment
        self.rank, self.world, self.workers = rank, world, workers
        self.start_step, self.steps, self.stride = start_step, steps, stride
        self.samplers = mixture.samplers(batch, seed)
        self.spoilage = spoilage_of(mixture) if spoilage is None else spoilage
        self._line = Line(Kitchen(self.mixture, seed, reach, larder), workers, ahead, self.spoilage, timeout)

    def __len__(self) -> int:
        return max(self.steps - self.start_step, 0)

    def __iter__(self) -> Iterator[Batch]:
        return self._line.serve(self.orders())

    @property
    def seconds(self) -> float:
        """Seconds of one processor that the batches given so far took, wherever they were made."""
        return self._line.seconds

    def orders(self) -> Iterator[Order]:
        """The addresses of this rank's batches."""
        served = self.schedule.dataset_steps(self.start_step)
        for step in range(self.start_step, self.steps):
            turn = self.schedule.turn(step)
            yield self._order(turn, served[turn.dataset], self.augment(step), step)
            served[turn.dataset] += 1

    def _order(self, turn: Turn, nth: int, augment: AugmentConfig, step: int) -> Order:
        many = max(self.world, self.batch // 2) if self.mixture.sources[turn.dataset].views else self.batch
        addresses, shape = self._addresses(turn.dataset, nth, many, augment), self._square(augment, step)
        if augment.rectangular and not self.mixture.allowed(turn.dataset, augment, turn.tasks).mosaic:
            ratios = [self._ratio(turn.dataset, index) for index, _ in addresses]
            shape = rectangle(ratios, shape[0] if shape else self.mixture.size, self.stride)
        first, last = (part * many // self.world for part in (self.rank, self.rank + 1))
        return Order(turn.dataset, turn.tasks, addresses[first:last], augment, shape)

    def _addresses(self, dataset: str, nth: int, many: int, augment: AugmentConfig) -> tuple[Address, ...]:
        """The n-th batch of a dataset over all ranks.

        Rectangular batches are a stretch of the stream sorted by shape and cut, and come in a random order. The stretch
        is at most one pass long, so that no image meets itself.
        """
        sampler = self.samplers[dataset]
        stretch = min(STRETCH, len(self.mixture.sources[dataset]) // many)
        if not augment.rectangular or stretch < 2 or not isinstance(sampler, Shuffled):
            return tuple(map(sampler.at, range(nth * many, (nth + 1) * many)))
        which, place = divmod(nth, stretch)
        found = [sampler.at(k) for k in range(which * stretch * many, (which + 1) * stretch * many)]
        found.sort(key=lambda address: self._ratio(dataset, address[0]))
        batch = int(permutation(self.seed, sampler.key ^ zlib.crc32(b"shape"), which, stretch)[place])
        return tuple(found[batch * many : (batch + 1) * many])

    def _ratio(self, dataset: str, index: int) -> float:
        return ratio_of(self.mixture.sources[dataset], index)

    def _square(self, augment: AugmentConfig, step: int) -> tuple[int, int] | None:
        """The square of one batch, the same on every rank; None for the usual one."""
        if not augment.multi_scale:
            return None
        low, high = ((1 + sign * augment.multi_scale) * self.mixture.size / self.stride for sign in (-1, 1))
        least, most = max(1, math.ceil(low - 1e-9)), max(1, math.floor(high + 1e-9))
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, step, zlib.crc32(b"side")]))
        side = self.stride * int(rng.integers(min(least, most), most, endpoint=True))
        return side, side


class EvalLoader:
    """The images of a mixture once, dataset by dataset in their own order, letterboxed. May be iterated again.

    A batch holds one dataset and names its tasks. Unreadable pictures are left out and told to ``spoilage``. Where two
    views of an image are its identity, second views follow when all images are through, for the tasks alone that learn
    identities: what was seen once can then be found again.

    Args:
        batch: images a batch.
        size: side of the network's input in pixels; the mixture's by default.
        workers: processes.
        limit: at most so many images of each dataset.
        spoilage: counts unreadable pictures, and stops when there are too many.
        rectangular: images of like shape together, in batches as low or narrow as whole strides allow; ``size`` is then
            their longer side.
        stride: of which the sides of rectangles are multiples, in pixels.
        share: (rank, world): of all batches, every ``world``-th from number ``rank`` on.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        batch: int,
        size: int | None = None,
        workers: int = 0,
        limit: int | None = None,
        spoilage: Spoilage | None = None,
        rectangular: bool = False,
        stride: int = 32,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.share = share
        self.mixture, self.batch, self.limit = mixture.at(size or mixture.size), batch, limit
        self.rectangular, self.stride = rectangular, stride
        self.spoilage = spoilage_of(mixture) if spoilage is None else spoilage
        self._line = Line(Kitchen(self.mixture, 0), workers, ahead=True, spoilage=self.spoilage)

    def __len__(self) -> int:
        again = [name for name in self.mixture.sources if self.mixture.recognises(name)]
        whole = sum(-(-self._many(name) // self.batch) for name in (*self.mixture.sources, *again))
        return len(range(self.share[0], whole, self.share[1]))

    def __iter__(self) -> Iterator[Batch]:
        return self._line.serve(self.orders())

    def _many(self, name: str) -> int:
        count = len(self.mixture.sources[name])
        return count if self.limit is None else min(count, self.limit)

    def orders(self) -> Iterator[Order]:
        """The addresses of this rank's batches."""
        return islice(self._all(), self.share[0], None, self.share[1])

    def _all(self) -> Iterator[Order]:
        for name, tasks in self.mixture.serves.items():
            yield from self._batches(name, tasks)
        for name in self.mixture.sources:
            if tasks := self.mixture.recognises(name):
                yield from self._batches(name, tasks, second=True)

    def _batches(self, name: str, tasks: tuple[str, ...], *, second: bool = False) -> Iterator[Order]:
        order: Sequence[int] = range(self._many(name))
        source = self.mixture.sources[name]
        ratios = [ratio_of(source, k) for k in order] if self.rectangular and not second else []
        if ratios:
            order = sorted(order, key=ratios.__getitem__)
        for first in range(0, len(order), self.batch):
            chosen = order[first : first + self.batch]
            shape = rectangle([ratios[k] for k in chosen], self.mixture.size, self.stride) if ratios else None
            yield Order(name, tasks, tuple((k, 0) for k in chosen), shape=shape, second=second)


def ratio_of(source: Source, index: int) -> float:
    """Height over width of an image; 1 where only decoding could tell."""
    height, width = source.size(index) or (1, 1)
    return height / width


def rectangle(ratios: Sequence[float], side: int, stride: int) -> tuple[int, int]:
    """(height, width): the least whole strides that hold images of these ratios with ``side`` for a longer side."""
    shares = max(min(r, 1.0) for r in ratios), max(min(1 / r, 1.0) for r in ratios)
    high, wide = (math.ceil(round(share * side / stride, 6)) for share in shares)
    return stride * high, stride * wide


def reach_of(size: int, augments: Iterable[AugmentConfig]) -> int:
    """The longer side in pixels beyond which training pictures show nothing more in an input of side ``size``."""
    return math.ceil(size * max((1 + augment.scale) * (1 + augment.multi_scale) for augment in augments))


def spoilage_of(mixture: Mixture, most: float = MOST, tell: Callable[[Spoiled], None] | None = None) -> Spoilage:
    """A count of a mixture's unreadable pictures."""
    return Spoilage({name: len(source) for name, source in mixture.sources.items()}, most, tell)
