# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from unified.serve.batcher import Batcher


class Work:
    """Doubles numbers and remembers the batches; 13 cannot be doubled."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[tuple[Any, list[int]]] = []
        self.seconds = seconds
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, key: Any, items: Sequence[int]) -> list[int]:
        self.gate.wait(10)
        time.sleep(self.seconds)
        self.batches.append((key, list(items)))
        if 13 in items:
            raise ValueError("13")
        return [2 * item for item in items]


@contextmanager
def batcher(work: Work, most: int = 4, wait: float = 0.0) -> Iterator[Batcher[str, int, int]]:
    made = Batcher(work, most, wait)
    try:
        yield made
    finally:
        work.gate.set()
        made.close()


def held_back(made: Batcher[str, int, int], work: Work) -> None:
    """Lets a first item into a pass that does not end, so that those to come gather."""
    work.gate.clear()
    made.submit("first", 0)
    while len(made):
        time.sleep(0.001)


def test_what_comes_during_a_pass_shares_the_next_one() -> None:
    work = Work()
    with batcher(work) as made:
        held_back(made, work)
        futures = [made.submit("a", k) for k in range(6)]
        work.gate.set()
        assert [future.result(5).answer for future in futures] == [0, 2, 4, 6, 8, 10]
        assert [future.result().batch for future in futures] == [4, 4, 4, 4, 2, 2]
    assert work.batches[1:] == [("a", [0, 1, 2, 3]), ("a", [4, 5])]


def test_items_of_different_keys_never_share_a_pass() -> None:
    work = Work()
    with batcher(work) as made:
        held_back(made, work)
        futures = [made.submit("ab"[k % 2], k) for k in range(6)]
        work.gate.set()
        assert [future.result(5).answer for future in futures] == [0, 2, 4, 6, 8, 10]
    assert work.batches[1:] == [("a", [0, 2, 4]), ("b", [1, 3, 5])]


def test_the_first_waits_for_others_and_a_full_batch_waits_no_longer() -> None:
    work = Work()
    with batcher(work, most=2, wait=0.3) as made:
        alone = made.submit("a", 1).result(5)
        assert 0.29 < alone.waited < 2
        both = [made.submit("a", k) for k in (2, 3)]
        assert [each.result(5).batch for each in both] == [2, 2]
        assert both[0].result().waited < 0.29


def test_without_waiting_one_goes_at_once() -> None:
    with batcher(Work()) as made:
        assert made.submit("a", 1).result(5).waited < 0.2


def test_a_cancelled_item_costs_no_pass() -> None:
    work = Work()
    with batcher(work) as made:
        held_back(made, work)
        futures = [made.submit("a", k) for k in range(3)]
        assert futures[1].cancel()
        work.gate.set()
        assert futures[2].result(5).batch == 2
    assert work.batches[1:] == [("a", [0, 2])]


def test_a_bad_item_does_not_cost_its_neighbours_their_answers() -> None:
    work = Work()
    with batcher(work) as made:
        held_back(made, work)
        futures = [made.submit("a", k) for k in (1, 13, 2)]
        work.gate.set()
        assert [futures[0].result(5).answer, futures[2].result(5).answer] == [2, 4]
        with pytest.raises(ValueError, match="13"):
            futures[1].result(5)
        assert made.submit("a", 5).result(5).answer == 10  # and the thread lives


def test_closing_answers_what_was_taken_and_takes_no_more() -> None:
    work = Work(seconds=0.01)
    made = Batcher(work, most=2, wait=5.0)
    futures = [made.submit("a", k) for k in range(5)]
    made.close()
    assert [future.result(0).answer for future in futures] == [0, 2, 4, 6, 8]
    assert not made.alive
    with pytest.raises(RuntimeError, match="closed"):
        made.submit("a", 1)


def test_many_threads_each_get_their_own() -> None:
    work = Work()

    def look(seed: int) -> bool:
        rng = random.Random(seed)
        items = [rng.randrange(14, 1000) for _ in range(100)]
        futures = [made.submit(rng.choice("abc"), item) for item in items]
        return [future.result(20).answer for future in futures] == [2 * item for item in items]

    with batcher(work, most=7, wait=0.0005) as made, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(look, range(8)))
    assert sum(len(items) for _, items in work.batches) == 800
    assert max(len(items) for _, items in work.batches) <= 7
