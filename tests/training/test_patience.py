# SPDX-License-Identifier: Apache-2.0
"""When a run stops early, and that a resumed one counts on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

from unified.training.evaluator import Evaluation
from unified.training.folder import RunFolder
from unified.training.monitor import EvaluationRecord, Monitor
from unified.training.patience import Patience
from unified.training.run import train


def stops_at(scores: list[float], patience: Patience) -> int | None:
    """The evaluation, counted from 1, after which it was over."""
    for number, score in enumerate(scores, 1):
        patience.tell(score)
        if patience.over:
            return number
    return None


@pytest.mark.parametrize(
    ("scores", "evaluations", "gain", "stop"),
    [
        ([0.1, 0.2, 0.3, 0.4], 1, 0.0, None),
        ([0.1, 0.2, 0.2, 0.3], 1, 0.0, 3),
        ([0.1, 0.2, 0.2, 0.3, 0.3, 0.2], 2, 0.0, 6),
        ([0.5, 0.1, 0.1, 0.1], 3, 0.0, 4),
        ([0.5, 0.1, 0.1, 0.6, 0.1, 0.1], 3, 0.0, None),
        ([0.10, 0.14, 0.18, 0.22], 2, 0.05, None),  # better by more than 0.05 than 0.10, the last that counted
        ([0.10, 0.12, 0.14, 0.15], 3, 0.05, 4),
        ([0.0, 0.0], 1, 0.0, 2),
        ([0.1] * 100, None, 0.0, None),
    ],
)
def test_it_is_over_exactly_when_it_should_be(
    scores: list[float], evaluations: int | None, gain: float, stop: int | None
) -> None:
    assert stops_at(scores, Patience(evaluations, gain)) == stop


def test_a_checkpoint_keeps_the_count() -> None:
    scores = [0.3, 0.2, 0.31, 0.3, 0.29, 0.28]
    whole = Patience(3)
    assert stops_at(scores, whole) == 6
    for cut in range(len(scores)):
        first, second = Patience(3), Patience(3)
        assert stops_at(scores[:cut], first) is None
        second.restore(json.loads(json.dumps(first.state())))
        assert stops_at(scores[cut:], second) == 6 - cut
    Patience(3).restore({})


def test_the_reason_names_the_best_score() -> None:
    patience = Patience(2, 0.01)
    stops_at([0.25, 0.25, 0.25], patience)
    assert patience.reason() == "stopped early: no score better than 0.2500 by more than 0.01 in 2 evaluations"


class Ear(Monitor):
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.messages: list[str] = []

    def evaluation(self, record: EvaluationRecord) -> None:
        self.steps.append(record.step)

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Scores of the evaluations to come."""
    given: list[float] = []
    monkeypatch.setattr(Evaluation, "score", lambda self, tasks: given.pop(0))
    yield given


def test_a_run_ends_early_and_stays_ended(tmp_path: Path, scores: list[float]) -> None:
    """Evaluated after each of eight steps; the fourth is the second in a row that is not better."""
    tiny.cache_at(tmp_path)
    words = ("max_steps=8", "evaluate_every=0.125", "patience=2", "val_images=2")
    config, base = tiny.config(tmp_path, *words, tasks=("cls",))
    scores += [0.1, 0.3, 0.3, 0.2, 0.9]
    ear = Ear()
    summary = train(config, base, out=tmp_path / "run", monitor=ear)
    assert (summary.steps, summary.interrupted, ear.steps) == (4, False, [1, 2, 3, 4])
    assert ear.messages == ["stopped early: no score better than 0.3000 in 2 evaluations"]
    folder = RunFolder.open(tmp_path / "run")
    assert [folder.load(name, parts=()).state["progress"]["step"] for name in ("last", "best")] == [4, 2]
    again = Ear()
    assert train(folder.read_config(), base, resume=folder.path, monitor=again).steps == 4
    assert again.steps == []
