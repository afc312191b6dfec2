# SPDX-License-Identifier: Apache-2.0
"""Schedules whose shares change: shares kept, the same everywhere, and replayed from their state."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from unified.contracts.config import AugmentConfig, PartConfig
from unified.contracts.errors import CheckpointError, ConfigError
from unified.data.loader import TrainLoader
from unified.data.plan import Entry, Piece, Plan
from unified.data.sampler import Shuffled
from unified.data.schedule import CountingSchedule, Together, make_schedule
from unified.data.spoilage import Spoilage
from unified.data.steering import LAG, Gaps, SteeredPlan

SERVES = {"a": ("det",), "b": ("det", "cls"), "c": ("emb",)}
SIZES = {"a": 1000.0, "b": 30.0, "c": 1.0}
LENGTH = 5 * 1031
GAP = {"baselines": {"det": 0.4, "emb": 0.8}, "floor": 0.25}


def made(name: str, options: Mapping[str, Any] = {}, **given: Any) -> CountingSchedule:
    at = {"at": lambda share: int(share * LENGTH) if share <= 1 else int(share)}
    return make_schedule(PartConfig(name=name, options=dict(options)), SIZES, SERVES, 3, **{**at, **given})


STRATEGIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "proportional": ("proportional", {}, {}),
    "temperature": ("temperature", {"tau": 3}, {}),
    "ratios": ("ratios", {"ratios": {"a": 1000, "b": 1, "c": 1}}, {}),
    "uniform": ("uniform", {}, {}),
    "annealed": ("annealed", {"before": "uniform", "after": "proportional", "begin": 0.1, "end": 0.7}, {}),
    "short drift": ("annealed", {"before": "proportional", "after": "uniform", "begin": 50, "end": 60}, {}),
    "turns": ("proportional", {}, {"spans": {"emb": (0, 2000), "det": (500, None)}}),
    "gap": ("gap", {**GAP, "base": {"name": "temperature", "tau": 2}}, {}),
    "patience": ("proportional", {}, {"patience": {"emb": 1}}),
    "together": ("proportional", {"accumulate": "all"}, {}),
    "together, turns": ("annealed", {"before": "uniform", "after": "proportional", "accumulate": "all"},
                        {"spans": {"emb": (301, 2000)}}),
}  # fmt: skip


def strategy(name: str) -> CountingSchedule:
    kind, options, given = STRATEGIES[name]
    return made(kind, options, **given)


def evaluated(schedule: Any, until: int = LENGTH) -> CountingSchedule:
    """The schedule after evaluations at every fifth of the run, whose scores move."""
    dice = random.Random(0)
    for step in range(0, until, LENGTH // 5):
        if step and hasattr(schedule, "observe"):
            schedule.observe(step, {"det": dice.random() / 2, "emb": 0.7, "cls": 0.1})
        for ahead in range(step, min(step + LENGTH // 5 + 40, LENGTH)):  # a loader works ahead of the training
            schedule.turn(ahead)
    return schedule  # type: ignore[no-any-return]


def planned(schedule: CountingSchedule, step: int) -> dict[str, float]:
    return {name: share * step for name, share in schedule.shares(step).datasets.items()}


@pytest.mark.parametrize("name", STRATEGIES)
def test_planned_shares_hold_within_a_batch_of_every_epoch(name: str) -> None:
    """At 1000 : 30 : 1, after every step and for every window of 1031 steps, whatever changed in between."""
    schedule = evaluated(strategy(name))
    counts: Counter[str] = Counter()
    behind: list[dict[str, float]] = []
    for step in range(LENGTH):
        counts[schedule.turn(step).dataset] += 1
        if step % 7 == 0 or step > LENGTH - 3:
            plan = planned(schedule, step + 1)
            behind.append({each: counts[each] - plan[each] for each in SERVES})
    assert max(abs(off) for each in behind for off in each.values()) <= 1.0 + 1e-6
    epoch = 1031 // 7
    assert all(abs(behind[k + epoch][n] - behind[k][n]) < 2 for k in range(len(behind) - epoch) for n in SERVES)


@pytest.mark.parametrize("name", STRATEGIES)
def test_turns_follow_from_step_and_state_alone(name: str) -> None:
    first = evaluated(strategy(name), until=3 * LENGTH // 5)
    state = json.loads(json.dumps(first.state()))
    again = strategy(name)
    again.restore(state)
    begin = 3 * LENGTH // 5
    counted = again.dataset_steps(begin)
    turns = [first.turn(step) for step in range(LENGTH)]
    assert [again.turn(step) for step in range(begin, LENGTH)] == turns[begin:]
    assert counted == {n: sum(turn.dataset == n for turn in turns[:begin]) for n in SERVES}
    assert again.state() == state


class Fake:
    """A mixture that only knows how many images it has."""

    class Images:
        views = False

        def __len__(self) -> int:
            return 100

    def __init__(self) -> None:
        self.sources, self.size = {name: self.Images() for name in SERVES}, 96

    def at(self, size: int) -> Fake:
        return self

    def stocked(self, reach: object, larder: object) -> Fake:
        return self

    def samplers(self, batch: int, seed: int) -> dict[str, Shuffled]:
        return {name: Shuffled(name, 100, seed) for name in self.sources}


@pytest.mark.parametrize("name", ["proportional", "annealed", "gap", "together, turns"])
def test_one_two_and_eight_ranks_are_served_alike_also_after_a_resume(name: str) -> None:
    def orders(rank: int, world: int, start: int = 0) -> list[Any]:
        schedule = strategy(name)
        if hasattr(schedule, "observe"):
            schedule.observe(100, {"det": 0.1, "emb": 0.9})
        loader = TrainLoader(
            Fake(), schedule=schedule, batch=8, size=96, augment=AugmentConfig(), seed=1, steps=400, rank=rank,
            world=world, start_step=start, spoilage=Spoilage({}),
        )  # type: ignore[arg-type]  # fmt: skip
        return list(loader.orders())

    alone = orders(0, 1)
    for world in (2, 8):
        ranks = [orders(rank, world) for rank in range(world)]
        for step, order in enumerate(alone):
            parts = [rank[step] for rank in ranks]
            assert {(part.dataset, part.tasks) for part in parts} == {(order.dataset, order.tasks)}
            assert sum((part.items for part in parts), ()) == order.items
    assert orders(1, 2, start=237) == orders(1, 2)[237:]


def test_random_plans_stay_within_a_batch() -> None:
    dice = random.Random(5)
    for _ in range(12):
        names = [f"d{k}" for k in range(dice.randint(2, 6))]
        firsts = sorted({0, *(dice.randint(1, 900) for _ in range(8))})
        pieces = [Piece(f, {n: dice.random() ** 4 + 1e-3 for n in names}, frozenset("t")) for f in firsts]
        plan = Plan(dict.fromkeys(names, ("t",)), lambda _, pieces=pieces: pieces, dice.randint(0, 9))
        counts: Counter[str] = Counter()
        for step in range(1200):
            counts[plan.turn(step).dataset] += 1
            due = plan.shares(step + 1).datasets
            assert max(abs(counts[n] - due[n] * (step + 1)) for n in names) < 1 + 1e-6


def test_a_drift_has_its_area_and_its_ends() -> None:
    schedule = made("annealed", {"before": "uniform", "after": {"name": "ratios", "ratios": {"a": 1}}})
    shares = schedule.shares(LENGTH).datasets
    assert shares["b"] == pytest.approx(1 / 6, abs=1e-4)  # from 1/3 down to 0
    early, late = (Counter(schedule.turn(s).dataset for s in range(f, f + 300)) for f in (0, LENGTH - 300))
    assert early["b"] in range(94, 102)
    assert late["a"] in range(293, 297)  # 300 less twice the area of a triangle


def test_a_stopped_task_has_no_turn_and_its_dataset_no_batch() -> None:
    schedule = made("uniform", spans={"cls": (100, 200), "emb": (0, 150)})
    turns = [schedule.turn(step) for step in range(400)]
    assert {s for s, turn in enumerate(turns) if "cls" in turn.tasks} <= set(range(100, 200))
    assert max(s for s, turn in enumerate(turns) if turn.dataset == "c") in range(145, 150)
    assert Counter(turn.dataset for turn in turns[200:])["a"] == 100
    assert schedule.resting(99) == {"cls"}
    assert schedule.resting(150) == {"emb"}
    assert schedule.resting(200) == {"cls", "emb"}


def test_the_task_farthest_from_its_baseline_gets_more_from_a_stated_step_on() -> None:
    """By hand: det at half its baseline weighs 1.25 / 0.75, emb at its own 1; b serves det and a task without one."""
    schedule = made("gap", {**GAP, "base": "uniform"})
    other = made("gap", {**GAP, "base": "uniform"})
    plain = [other.turn(step) for step in range(600)]
    entry = schedule.observe(500, {"det": 0.2, "emb": 0.9})
    assert entry.first == 500 + LAG
    assert entry.factors == pytest.approx({"a": 5 / 3, "b": 5 / 3, "c": 1.0})
    turns = [schedule.turn(step) for step in range(600 + 1300)]
    assert turns[:600] == plain
    assert Counter(turn.dataset for turn in turns[600:]) == pytest.approx({"a": 500, "b": 500, "c": 300}, abs=1)
    assert schedule.observe(700, {"det": 0.2, "emb": 1.5}) is None  # nothing new


def test_scores_by_name_and_the_limits_of_a_weight() -> None:
    gaps = Gaps({"det/AP50": 0.5, "emb": 0.4}, power=2.0, floor=0.1)
    scores = {"det": 0.5, "det/AP50": 0.25, "emb": 0.0}
    assert gaps.weight("det", scores) == pytest.approx(1.1 / 0.35)
    assert gaps.weight("emb", scores) == pytest.approx(11)
    assert gaps.weight("cls", scores) is None
    assert gaps.factors(scores, SERVES)["b"] == pytest.approx(1.1 / 0.35)


def test_a_change_that_the_loader_has_overtaken_is_refused() -> None:
    schedule = made("gap", {**GAP, "lag": 5})
    for step in range(40):
        schedule.turn(step)
    with pytest.raises(ConfigError, match="from forward pass 35 comes too late, 40 are handed out"):
        schedule.observe(30, {"det": 0.2, "emb": 0.9})


def test_a_converged_task_stops_when_its_patience_ends() -> None:
    schedule = made("proportional", patience={"cls": 2, "emb": 1})
    assert isinstance(schedule, SteeredPlan)
    for step, cls, emb in ((100, 0.5, 0.1), (200, 0.4, 0.2), (300, 0.5, 0.3)):
        entry = schedule.observe(step, {"det": 0.1, "cls": cls, "emb": emb})
    assert entry == Entry(300 + LAG, {}, ("cls",))
    assert "cls" in schedule.resting(300 + LAG)
    assert not schedule.resting(299 + LAG)
    assert all("cls" not in schedule.turn(step).tasks for step in range(400, 1500))


def test_the_last_task_is_never_stopped() -> None:
    schedule = made("proportional", patience={"det": 1, "cls": 1, "emb": 1})
    for step in range(100, 900, 100):
        schedule.observe(step, {"det": 0.1, "cls": 0.1, "emb": 0.1})
    assert len(schedule.resting(2000)) == 2


def test_every_step_has_every_dataset_and_gradients_their_weights() -> None:
    schedule = made("ratios", {"ratios": {"a": 6, "b": 3, "c": 1}, "accumulate": "all"}, spans={"emb": (0, 30)})
    assert isinstance(schedule, Together)
    for step in (0, 3, 27):
        turns = [schedule.turn(step + k) for k in range(3)]
        assert {turn.dataset: turn.weight / 3 for turn in turns} == pytest.approx({"a": 0.6, "b": 0.3, "c": 0.1})
    late = [schedule.turn(30 + k) for k in range(3)]
    assert [turn.dataset for turn in late] == ["a", "b", "a"]
    assert [turn.weight / 3 for turn in late] == pytest.approx([1 / 3, 1 / 3, 1 / 3])  # a: twice a third of it
    assert schedule.dataset_steps(34) == {"a": 10 + 2 + 1, "b": 11, "c": 10}
    shares = schedule.shares(60)
    assert shares.datasets == pytest.approx({"a": 30 / 60, "b": 20 / 60, "c": 10 / 60})
    assert shares.weights["c"] == pytest.approx(0.05)
    assert shares.tasks["det"] == pytest.approx(50 / 60)


def test_a_state_of_other_datasets_is_not_taken() -> None:
    schedule = made("gap", GAP)
    with pytest.raises(CheckpointError, match="dataset 'x'"):
        schedule.restore({"entries": [{"first": 5, "factors": {"x": 1.0}, "stopped": []}]})


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("temprature", {}, "did you mean 'temperature'"),
        ("temperature", {"tua": 2}, "has no option 'tua'; known: accumulate, lag, tau"),
        ("temperature", {"tau": 0}, "tau must be a positive number, got 0"),
        ("ratios", {}, "ratios is missing"),
        ("ratios", {"ratios": {"aa": 1}}, "ratios name the dataset 'aa'; known: a, b, c"),
        ("ratios", {"ratios": {"a": 0, "b": 0}}, "all of its weights are 0"),
        ("ratios", {"ratios": {"a": float("inf")}}, "weights of 0 or more"),
        ("annealed", {"before": "uniform"}, "after is missing"),
        ("annealed", {"before": "gap", "after": "uniform"}, "must be a schedule that stands still, got 'gap'"),
        ("annealed", {"before": "unifrom", "after": "uniform"}, "did you mean 'uniform'"),
        ("annealed", {"before": "uniform", "after": "uniform", "begin": 0.6, "end": 0.4}, "before it has begun"),
        ("gap", {}, "baselines is missing"),
        ("gap", {"baselines": {"dte": 0.4}}, "did you mean 'det'"),
        ("gap", {"baselines": {"det": 0}}, "baseline of det must be a score above 0"),
        ("gap", {"baselines": {"det": 0.4}, "lag": 0}, "lag must be a whole number"),
        ("proportional", {"accumulate": "some"}, "accumulate can only be 'all'"),
    ],
)
def test_bad_words_are_refused_in_one_line(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(name, options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_in_which_nobody_has_a_turn_is_refused() -> None:
    with pytest.raises(ConfigError, match="from forward pass 50 no dataset with a positive weight serves a task"):
        made("ratios", {"ratios": {"c": 1}}, spans={"emb": (0, 50)})
