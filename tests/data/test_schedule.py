# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import numpy as np
import pytest

from unified.contracts.config import PartConfig
from unified.contracts.errors import ConfigError
from unified.data.schedule import Proportional, RoundRobin, make_schedule

SERVES = {"a": ("det",), "b": ("det", "cls"), "c": ("emb",)}


@pytest.mark.parametrize("seed", range(8))
def test_planned_shares_hold_within_one_batch_after_every_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    many = int(rng.integers(2, 7))
    sizes = {f"d{k}": int(v) for k, v in enumerate(np.exp(rng.uniform(0, 8, many)).astype(int) + 1)}
    schedule, total = Proportional(sizes, dict.fromkeys(sizes, ("t",)), seed), sum(sizes.values())
    counts: Counter[str] = Counter()
    for step in range(2500):
        counts[schedule.turn(step).dataset] += 1
        worst = max(abs(counts[name] - (step + 1) * size / total) for name, size in sizes.items())
        assert worst < 1, (step, sizes)


def test_epochs_hold_their_shares() -> None:
    sizes = {"a": 700, "b": 200, "c": 100}
    schedule = Proportional(sizes, SERVES, 3)
    for epoch in range(30):
        served = Counter(schedule.turn(step).dataset for step in range(100 * epoch, 100 * epoch + 100))
        assert all(abs(served[name] - size / 10) <= 1 for name, size in sizes.items())


@pytest.mark.parametrize(
    "make", [lambda: Proportional({"a": 5, "b": 3, "c": 1}, SERVES, 1), lambda: RoundRobin(SERVES, 1)]
)
def test_a_schedule_is_a_function_of_the_step(make) -> None:  # type: ignore[no-untyped-def]
    straight, jumping = make(), make()
    turns = [straight.turn(step) for step in range(200)]
    assert jumping.turn(150) == turns[150] and jumping.turn(3) == turns[3]
    assert all(turn.tasks == SERVES[turn.dataset] for turn in turns)
    for step in (0, 1, 7, 120, 200):
        counted = Counter(turn.dataset for turn in turns[:step])
        assert make().dataset_steps(step) == {name: counted[name] for name in SERVES}


def test_round_robin_serves_all_alike() -> None:
    counts = Counter(RoundRobin(SERVES).turn(step).dataset for step in range(30))
    assert set(counts.values()) == {10}


def test_configured_schedules() -> None:
    sizes = {"a": 900, "b": 90, "c": 10}
    flat = make_schedule(PartConfig(name="proportional", options={"temperature": 1e9}), sizes, SERVES, 0)
    assert max(flat.dataset_steps(300).values()) - min(flat.dataset_steps(300).values()) <= 1
    ratio = make_schedule(PartConfig(name="proportional", options={"ratios": {"a": 1, "b": 3}}), sizes, SERVES, 0)
    assert ratio.dataset_steps(400) == {"a": 100, "b": 300, "c": 0}
    assert isinstance(make_schedule(PartConfig(name="round-robin"), sizes, SERVES, 0), RoundRobin)
    for part, word in (
        (PartConfig(name="propotional"), "did you mean 'proportional'"),
        (PartConfig(name="proportional", options={"ratio": {}}), "did you mean 'ratios'"),
        (PartConfig(name="proportional", options={"ratios": {"d": 1}}), "known: a, b, c"),
        (PartConfig(name="proportional", options={"temperature": 0}), "temperature"),
        (PartConfig(name="proportional", options={"ratios": {"a": 0}}), "positive weight"),
    ):
        with pytest.raises(ConfigError, match=word.replace("(", r"\(")):
            make_schedule(part, sizes, SERVES, 0)
