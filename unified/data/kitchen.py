# SPDX-License-Identifier: Apache-2.0
"""Where batches are made: here, in a thread beside, or in worker processes; always the same pixels in one order."""

from __future__ import annotations

import multiprocessing
import queue
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.utils.data import DataLoader, Dataset

from unified.contracts.config import AugmentConfig
from unified.contracts.errors import DataError, UnifiedError
from unified.contracts.structures import Batch, Sample
from unified.data.collate import PackedBatch, pack
from unified.data.larder import Larder
from unified.data.spoilage import Spoilage, Spoiled
from unified.data.watch import Watch, sheltered, stand_by

if TYPE_CHECKING:
    from unified.data.mixing import Mixture

TIMEOUT: Final = 300.0  # seconds without a batch after which workers are given up; torch would wait for ever
GLANCE: Final = 3.0  # seconds after which a silent worker is looked at: a dead one does not report itself
AHEAD: Final = 3  # batches made before they are asked for, by each worker or by the thread


@dataclass(frozen=True)
class Order:
    """The address of a batch: which images of which dataset, each in which of its epochs."""

    dataset: str
    tasks: tuple[str, ...]
    items: tuple[tuple[int, int], ...]  # (index, epoch)
    augment: AugmentConfig | None = None
    shape: tuple[int, int] | None = None  # (height, width) pixels, where it is not the usual square
    second: bool = False  # the second views of images by which they are to be recognised


@dataclass(frozen=True)
class Failure:
    """A person's mistake found in a worker, sent home as its one line instead of a worker's traceback."""

    message: str


class Kitchen(Dataset[PackedBatch | Failure]):
    """Turns orders into packed batches, in whatever process it stands."""

    def __init__(self, mixture: Mixture, seed: int, reach: int | None = None, larder: Larder | None = None) -> None:
        self.mixture, self.seed = mixture.stocked(reach, larder), seed
        self.watch: Watch | None = None  # of the worker processes, where there are some

    def __getitem__(self, order: Order) -> PackedBatch | Failure:
        try:
            return self.make(order)
        except UnifiedError as error:
            return Failure(str(error))

    def make(self, order: Order) -> PackedBatch:
        """The batch of an order. In training it is always full; in evaluation unreadable pictures are missing."""
        start, spoiled = time.thread_time(), self.mixture.spoiled
        samples: list[Sample] = []
        for index, epoch in order.items:
            if self.watch:
                self.watch.hold(list(self.mixture.sources).index(order.dataset), index)
            samples += self._samples(order, index, epoch)
        packed = pack(samples, order.dataset, order.tasks)
        if self.watch:
            self.watch.rest()
        met = tuple(spoiled)
        spoiled.clear()
        return replace(packed, spoiled=met, seconds=time.thread_time() - start)

    def _samples(self, order: Order, index: int, epoch: int) -> Sequence[Sample]:
        given: dict[str, Any] = {"seed": self.seed, "tasks": order.tasks, "shape": order.shape}
        try:
            if order.second:
                return [self.mixture.second_view(order.dataset, index)]
            return self.mixture.sample(order.dataset, index, epoch, order.augment, **given)
        except DataError as error:
            if order.augment is not None:
                raise
            self.mixture.spoiled.append(Spoiled(order.dataset, index, str(error)))
            return []


class Line:
    """Carries orders to where the work is done and batches back, in the orders' order."""

    def __init__(
        self, kitchen: Kitchen, workers: int, ahead: bool, spoilage: Spoilage, timeout: float = TIMEOUT
    ) -> None:
        self.kitchen, self.workers, self.ahead, self.spoilage = kitchen, workers, ahead, spoilage
        self.timeout = timeout
        self.seconds = 0.0

    def serve(self, orders: Iterable[Order]) -> Iterator[Batch]:
        with closing(self._made(orders)) as made:  # at once, whoever still holds this generator
            for each in made:
                if isinstance(each, Failure):
                    raise DataError(each.message)
                self.seconds += each.seconds
                self.spoilage.add(each.spoiled)
                if each.counts:
                    yield each.unpack()

    def _made(self, orders: Iterable[Order]) -> Generator[PackedBatch | Failure, None, None]:
        if self.workers:
            return self._by_workers(orders)
        return _in_thread(self.kitchen, orders) if self.ahead else (self.kitchen[order] for order in orders)

    def _by_workers(self, orders: Iterable[Order]) -> Generator[PackedBatch | Failure, None, None]:
        context, sources = process_context(), self.kitchen.mixture.sources
        self.kitchen.watch = watch = Watch(self.workers, context)
        glance = min(GLANCE, self.timeout)
        loader = DataLoader(
            self.kitchen,
            sampler=orders,
            batch_size=None,
            num_workers=self.workers,
            collate_fn=_as_is,  # type: ignore[arg-type]
            timeout=glance,
            prefetch_factor=AHEAD,
            multiprocessing_context=context,
            worker_init_fn=stand_by,
            generator=torch.Generator(),  # for the workers' seeds: the run's own dice stay untouched
            pin_memory=torch.cuda.is_available(),
        )
        with sheltered():
            start_server(context)
            made, waited = iter(loader), 0.0
        with watch.alarm(lambda: self.timeout + 2 * glance) as waiting:
            while True:
                try:
                    waiting(time.monotonic() - waited)
                    item = next(made)
                    waiting(None)
                except StopIteration:
                    return
                except (RuntimeError, OSError, EOFError) as error:
                    waited += glance
                    if _late(error) and waited < self.timeout:
                        continue
                    if _late(error) or watch.rang:
                        raise watch.hangs(waited, sources) from error
                    raise (watch.died(error, sources) if _ended(error) else error) from error
                waited = 0.0
                yield item


def _late(error: Exception) -> bool:
    return "timed out" in str(error)


def _ended(error: Exception) -> bool:
    """Whether workers died; an error that a worker reported itself is none of that."""
    reason = (str(error).splitlines() or [""])[0]
    broken = isinstance(error, OSError | EOFError) and not reason.startswith("Caught ")
    return broken or "exited unexpectedly" in reason or "killed by signal" in reason


def _as_is(made: PackedBatch | Failure) -> PackedBatch | Failure:
    return made


def process_context() -> BaseContext:
    """A fork after torch has started threads may hang and fresh interpreters are slow: a server forks clean ones."""
    methods: Sequence[str] = multiprocessing.get_all_start_methods()
    if "forkserver" not in methods:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["unified", "unified.data.mixing"])
    return context


def start_server(context: BaseContext) -> None:
    """Starts the server that forks workers, where there is one: they inherit the signals that are blocked here."""
    if context.get_start_method() == "forkserver":
        from multiprocessing import forkserver

        forkserver.ensure_running()


def _in_thread(kitchen: Kitchen, orders: Iterable[Order]) -> Generator[PackedBatch | Failure, None, None]:
    """Batches made ahead by a thread; it ends with the iteration, however that ends."""
    made: queue.Queue[PackedBatch | Failure | BaseException | None] = queue.Queue(maxsize=AHEAD)
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
