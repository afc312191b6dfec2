# SPDX-License-Identifier: Apache-2.0
"""Data workers that die or stand still: an error in one line that names the image, and soon."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing import forkserver

import pytest
import torch
from sitting import small_config
from tally import Tally
from torch.utils.data import DataLoader, Dataset

from unified.contracts.config import AugmentConfig, PartConfig
from unified.contracts.errors import DataError
from unified.data.kitchen import process_context
from unified.data.loader import TrainLoader
from unified.data.mixing import Mixture
from unified.data.schedule import make_schedule
from unified.data.watch import sheltered, stand_by
from unified.training.run import open_splits

LIMIT = 10.0  # seconds


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    return open_splits(*small_config(tmp_path_factory.mktemp("workers"))).train


def loader(mixture: Mixture) -> TrainLoader:
    schedule = make_schedule(PartConfig(name="proportional"), {"shapes": 24.0}, mixture.serves, 0)
    augment = AugmentConfig(mosaic=1.0)
    return TrainLoader(
        mixture, schedule=schedule, batch=4, size=64, augment=augment, seed=0, steps=100_000, workers=2, timeout=120
    )


def wounded(mixture: Mixture, number: int, timeout: float) -> tuple[str, float]:
    """What is said after a worker got a signal, and after how many seconds."""
    before, made = {child.pid for child in multiprocessing.active_children()}, loader(mixture)
    stream = iter(made)
    next(stream)
    made._line.timeout = timeout  # only now: starting two interpreters takes a while
    workers = sorted(c.pid for c in multiprocessing.active_children() if c.pid not in before and c.pid)
    os.kill(workers[0], number)
    start = time.monotonic()
    try:
        for _ in stream:
            pass
    except DataError as error:
        return str(error), time.monotonic() - start
    return "", time.monotonic() - start


class Endless(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.zeros(4)


def says_nothing(number: int, seconds: float) -> bool:
    """Whether torch's plain loader is silent for so long, or names no image."""
    before = {child.pid for child in multiprocessing.active_children()}
    plain = DataLoader(Endless(), batch_size=4, num_workers=1, timeout=120, multiprocessing_context=process_context())
    stream = iter(plain)
    next(stream)
    stream._timeout = seconds  # type: ignore[attr-defined]  # only now: starting an interpreter takes a while
    (worker,) = [c.pid for c in multiprocessing.active_children() if c.pid not in before and c.pid]
    os.kill(worker, number)
    rescue = threading.Timer(3 * seconds, os.kill, (worker, signal.SIGKILL))  # its own limit leaves out shared memory
    rescue.start()
    try:
        for _ in range(100):
            next(stream)
    except (RuntimeError, OSError, EOFError) as error:
        return "image" not in str(error)
    finally:
        rescue.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    return False


def test_killed_workers(tally: Tally, mixture: Mixture) -> None:
    tally.begin("data workers killed", "one of two; an error in 10 s that says where it was")
    slowest = 0.0
    for trial in range(tally.count(20, share=1)):
        said, seconds = wounded(mixture, signal.SIGKILL, timeout=60)
        slowest = max(slowest, seconds)
        named = ("at image 'train-" in said or "between two batches" in said) and "\n" not in said
        tally.add(named and seconds <= LIMIT, f"trial {trial}: {seconds:.1f} s, {said!r}")
    tally.note(f"slowest {slowest:.1f} s")
    tally.control(1, int(says_nothing(signal.SIGKILL, 1.0)), "torch's own loader names no image")
    tally.verdict()


def test_stopped_workers(tally: Tally, mixture: Mixture) -> None:
    tally.begin("data workers stopped by SIGSTOP", "worker_timeout=2; an error in 10 s, and nobody is left behind")
    for trial in range(tally.count(10, share=1)):
        said, seconds = wounded(mixture, signal.SIGSTOP, timeout=2)
        good = "gave no batch for" in said and "worker_timeout" in said and seconds <= LIMIT
        tally.add(good, f"trial {trial}: {seconds:.1f} s, {said!r}")
    tally.control(1, int(says_nothing(signal.SIGSTOP, 1.0)), "torch's own loader names no image")
    tally.verdict()


def late(worker: int) -> None:
    """A worker that takes a while to begin."""
    time.sleep(0.5)
    stand_by(worker)


def survives(mixture: Mixture, moment: float) -> bool:
    """Whether batches still come after all workers got Ctrl-C and SIGTERM, so many seconds after they were born."""
    before, stream = {child.pid for child in multiprocessing.active_children()}, iter(loader(mixture))
    told: list[int] = []

    def tell() -> None:
        while len(told) < 2:
            new = [c.pid for c in multiprocessing.active_children() if c.pid not in {*before, *told} and c.pid]
            time.sleep(moment)
            for pid in new:
                os.kill(pid, signal.SIGINT)
                os.kill(pid, signal.SIGTERM)
            told.extend(new)

    bearer = threading.Thread(target=tell)
    bearer.start()
    try:
        for _ in range(2):
            next(stream)
        bearer.join()
        for _ in range(30):
            next(stream)
    except DataError:
        return False
    finally:
        stream.close()  # type: ignore[attr-defined]
        told += [0, 0]
        bearer.join()
    return True


def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next workers are forked by a server that starts only then, and take a while to begin."""
    monkeypatch.setattr("unified.data.kitchen.stand_by", late)
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


@pytest.mark.parametrize("moment", [0.0, pytest.param(0.1, marks=pytest.mark.reliability), 0.3])
def test_signals_to_the_group_are_for_the_trainer(
    mixture: Mixture, monkeypatch: pytest.MonkeyPatch, moment: float
) -> None:
    """Ctrl-C and a first SIGTERM leave workers at work, from their birth on: a step needs its data to be finished."""
    anew(monkeypatch)
    assert survives(mixture, moment)


def test_workers_that_are_not_sheltered_die_of_early_signals(mixture: Mixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    anew(monkeypatch)
    monkeypatch.setattr("unified.data.kitchen.sheltered", contextlib.nullcontext)
    assert not survives(mixture, 0.1)
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


def test_the_trainer_itself_hears_signals_again() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with sheltered():
        assert {signal.SIGINT, signal.SIGTERM} <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
