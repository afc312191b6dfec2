# SPDX-License-Identifier: Apache-2.0
"""Batches in their planned order, made here, in a thread beside, or in worker processes: always the same pixels."""

from __future__ import annotations

import multiprocessing
import queue
import threading
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from unified.contracts.config import AugmentConfig
from unified.contracts.errors import DataError, UnifiedError
from unified.contracts.protocols import Turn
from unified.contracts.structures import Batch
from unified.data.collate import PackedBatch, pack
from unified.data.schedule import CountingSchedule

if TYPE_CHECKING:
    from unified.data.mixing import Mixture

TIMEOUT: Final = 300.0  # seconds without a batch after which workers are given up; torch would wait for ever
GLANCE: Final = 5.0  # seconds after which a silent worker is looked at: a dead one does not report itself
_AHEAD: Final = 3  # batches made before they are asked for, by each worker or by the thread


@dataclass(frozen=True)
class Order:
    """The address of a batch: which images of which dataset, each in which of its epochs."""

    dataset: str
    tasks: tuple[str, ...]
    items: tuple[tuple[int, int], ...]  # (index, epoch)
    augment: AugmentConfig | None = None


@dataclass(frozen=True)
class Failure:
    """A person's mistake found in a worker, sent home as its one line instead of a worker's traceback."""

    message: str


class Kitchen(Dataset[PackedBatch | Failure]):
    """Turns orders into packed batches, in whatever process it stands."""

    def __init__(self, mixture: Mixture, seed: int) -> None:
        self.mixture, self.seed = mixture, seed

    def __getitem__(self, order: Order) -> PackedBatch | Failure:
        try:
            return self.make(order)
        except UnifiedError as error:
            return Failure(str(error))

    def make(self, order: Order) -> PackedBatch:
        sample, seed = self.mixture.sample, self.seed
        groups = [sample(order.dataset, index, epoch, order.augment, seed=seed) for index, epoch in order.items]
        return pack([each for group in groups for each in group], order.dataset, order.tasks)


class TrainLoader:
    """The training batches of one rank, from ``start_step`` to the run's end at ``steps``.

    Every dataset is an endless stream: one permutation of its images after the other, each a new epoch. The n-th turn
    of a dataset takes the n-th ``batch`` images of its stream; a rank takes its even share of them. So the batches of
    all ranks together, and of any number of workers, are those of one process, and a run resumes from its step alone.
    A dataset whose identities are views takes half as many images and gives two of each.

    Args:
        batch: images of a step, over all ranks.
        size: side of the network's input in pixels.
        augment: chances and strengths; its last ``close`` share of ``steps`` is without mosaic.
        workers: processes; with 0 a thread of this process works ahead (``ahead=False``: not even that).
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        schedule: CountingSchedule,
        batch: int,
        size: int,
        augment: AugmentConfig,
        seed: int,
        steps: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        start_step: int = 0,
        ahead: bool = True,
    ) -> None:
        if batch < world:
            raise DataError(f"a batch of {batch} images cannot be shared by {world} ranks; choose {world} or more")
        self.mixture, self.schedule = mixture.at(size), schedule
        self.batch, self.augment, self.seed = batch, augment, seed
        self.rank, self.world = rank, world
        self.start_step, self.steps = start_step, steps
        self._line = Line(Kitchen(self.mixture, seed), workers, ahead)

    def __len__(self) -> int:
        return max(self.steps - self.start_step, 0)

    def __iter__(self) -> Iterator[Batch]:
        return self._line.serve(self.orders())

    def orders(self) -> Iterator[Order]:
        """The addresses of this rank's batches."""
        served = self.schedule.dataset_steps(self.start_step)
        plain = self.augment.model_copy(update={"mosaic": 0.0})
        for step in range(self.start_step, self.steps):
            turn = self.schedule.turn(step)
            closing = step >= (1 - self.augment.close) * self.steps
            yield self._order(turn, served[turn.dataset], plain if closing else self.augment)
            served[turn.dataset] += 1

    def _order(self, turn: Turn, nth: int, augment: AugmentConfig) -> Order:
        source = self.mixture.sources[turn.dataset]
        many = max(self.world, self.batch // 2) if source.views else self.batch
        first, last = (nth * many + part * many // self.world for part in (self.rank, self.rank + 1))
        key = zlib.crc32(turn.dataset.encode())
        places = (divmod(position, len(source)) for position in range(first, last))
        items = tuple((int(permutation(self.seed, key, epoch, len(source))[k]), epoch) for epoch, k in places)
        return Order(turn.dataset, turn.tasks, items, augment)


class EvalLoader:
    """The images of a mixture once, dataset by dataset in their own order, letterboxed. May be iterated again.

    ``limit``: at most so many images of each dataset. A batch holds one dataset and names its tasks.
    """

    def __init__(
        self, mixture: Mixture, *, batch: int, size: int | None = None, workers: int = 0, limit: int | None = None
    ) -> None:
        self.mixture, self.batch, self.limit = mixture.at(size or mixture.size), batch, limit
        self._line = Line(Kitchen(self.mixture, 0), workers, ahead=True)

    def __len__(self) -> int:
        return sum(-(-self._many(name) // self.batch) for name in self.mixture.sources)

    def __iter__(self) -> Iterator[Batch]:
        return self._line.serve(self.orders())

    def _many(self, name: str) -> int:
        count = len(self.mixture.sources[name])
        return count if self.limit is None else min(count, self.limit)

    def orders(self) -> Iterator[Order]:
        """The addresses of all batches."""
        for name, tasks in self.mixture.serves.items():
            count = self._many(name)
            for first in range(0, count, self.batch):
                items = tuple((k, 0) for k in range(first, min(first + self.batch, count)))
                yield Order(name, tasks, items)


@lru_cache(maxsize=32)
def permutation(seed: int, key: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of a dataset's ``count`` images in one of its epochs."""
    return np.random.default_rng(np.random.SeedSequence([seed, key, epoch])).permutation(count)


class Line:
    """Carries orders to where the work is done and batches back, in the orders' order."""

    def __init__(self, kitchen: Kitchen, workers: int, ahead: bool) -> None:
        self.kitchen, self.workers, self.ahead = kitchen, workers, ahead

    def serve(self, orders: Iterable[Order]) -> Iterator[Batch]:
        with closing(self._made(orders)) as made:  # at once, whoever still holds this generator
            for each in made:
                if isinstance(each, Failure):
                    raise DataError(each.message)
                yield each.unpack()

    def _made(self, orders: Iterable[Order]) -> Generator[PackedBatch | Failure, None, None]:
        if self.workers:
            return self._by_workers(orders)
        return _in_thread(self.kitchen, orders) if self.ahead else (self.kitchen[order] for order in orders)

    def _by_workers(self, orders: Iterable[Order]) -> Generator[PackedBatch | Failure, None, None]:
        loader = DataLoader(
            self.kitchen,
            sampler=orders,
            batch_size=None,
            num_workers=self.workers,
            collate_fn=_as_is,  # type: ignore[arg-type]
            timeout=GLANCE,
            prefetch_factor=_AHEAD,
            multiprocessing_context=_context(),
            pin_memory=torch.cuda.is_available(),
        )
        made, waited = iter(loader), 0.0
        while True:
            try:
                item = next(made)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                waited += GLANCE
                if _late(error) and waited < TIMEOUT:
                    continue
                raise _of_workers(error) from error
            waited = 0.0
            yield item


def _late(error: Exception) -> bool:
    return "timed out" in str(error)


def _of_workers(error: Exception) -> Exception:
    """One line for workers that died or hang; an error that a worker reported itself as it is."""
    reason = (str(error).splitlines() or ["one ended while it sent a batch"])[0]
    broken = isinstance(error, OSError | EOFError) and not reason.startswith("Caught ")
    if not (broken or _late(error) or "exited unexpectedly" in reason):
        return error
    return DataError(
        f"the data workers failed: {reason}; memory may be short, or a script has no __main__ guard: "
        "try fewer workers, or workers: 0"
    )


def _as_is(made: PackedBatch | Failure) -> PackedBatch | Failure:
    return made


def _context() -> BaseContext:
    """A fork after torch has started threads may hang and fresh interpreters are slow: a server forks clean ones."""
    methods: Sequence[str] = multiprocessing.get_all_start_methods()
    if "forkserver" not in methods:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["unified", "unified.data.mixing"])
    return context


def _in_thread(kitchen: Kitchen, orders: Iterable[Order]) -> Generator[PackedBatch | Failure, None, None]:
    """Batches made ahead by a thread; it ends with the iteration, however that ends."""
    made: queue.Queue[PackedBatch | Failure | BaseException | None] = queue.Queue(maxsize=_AHEAD)
    stopped = threading.Event()

    def put(item: PackedBatch | Failure | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return made.put(item, timeout=0.2)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for order in orders:
                if stopped.is_set():
                    return
                put(kitchen[order])
            put(None)
        except BaseException as error:  # whatever it is belongs to the one who waits
            put(error)

    thread = threading.Thread(target=work, name="unified-data", daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join(timeout=5)
