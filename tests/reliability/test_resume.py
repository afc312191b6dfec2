# SPDX-License-Identifier: Apache-2.0
"""Exact resume: a run that was stopped or killed ends with the bits of one that was not."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
import torch
from sitting import STEPS, Child, difference, ends_with, sit, small_config
from tally import Tally

from unified.contracts.config import RunConfig
from unified.training import dice
from unified.training.trainer import Trainer

KILLS = 3  # of every run, at least


class Reference:
    """The run that nobody disturbs."""

    def __init__(self, place: Path) -> None:
        self.config, self.base = small_config(place, "save_every=4")
        self.losses: dict[int, str] = {}
        sit(self.config, self.base, place / "whole", told=self.losses.__setitem__)
        self.digest = ends_with(place / "whole")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(tmp_path_factory.mktemp("reference"))


def stopped_at(step: int, reference: Reference, config: RunConfig, out: Path) -> str:
    """What differs from the undisturbed run after a stop at a step; nothing if all is well."""
    losses: dict[int, str] = {}

    def stop(trainer: Trainer, at: int) -> None:
        if at == step:
            trainer.stops.asked = signal.SIGTERM

    sit(config, reference.base, out, losses.__setitem__, stop)
    if [*losses] != [*range(1, step + 1)]:
        return f"step {step}: the first sitting made steps {[*losses]}"
    sit(config, reference.base, out, losses.__setitem__)
    if fault := first_difference(reference.losses, losses):
        return f"stop at step {step}: {fault}"
    return "" if ends_with(out) == reference.digest else f"step {step}: the last checkpoint differs"


def first_difference(reference: dict[int, str], found: dict[int, str]) -> str:
    """The first step of which something else was told, and what; nothing if there is none."""
    for step, text in reference.items():
        if fault := difference(text, found.get(step)):
            return f"other {fault} at step {step} first"
    return ""


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.reliability), 2])
def test_a_stop_at_any_step(
    tally: Tally, memory: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    tally.begin(
        f"stop at each step, {workers} workers", "losses, batches, weights of every step, and the end: to the bit"
    )
    settings = reference.config.train.model_copy(update={"workers": workers})
    config = reference.config.model_copy(update={"train": settings})
    steps = tally.count(STEPS, share=2 if workers == 0 else 1)
    for step in sorted({1 + round(k * (STEPS - 1) / max(steps - 1, 1)) for k in range(steps)}):
        fault = stopped_at(step, reference, config, memory / f"run-{step}")
        tally.add(not fault, fault)
    if workers == 0:
        monkeypatch.setattr("unified.training.state.nested", lambda found, groups, optimizer, _: optimizer.state_dict())
        faults = [
            stopped_at(step, reference, config, memory / f"blind-{step}") for step in ((5, 20) if tally.full else (5,))
        ]
        tally.control(len(faults), sum(map(bool, faults)), "resume without the optimizer's moments")
    else:
        monkeypatch.setattr("unified.training.run.TrainLoader", _from_the_start(workers))
        faults = [stopped_at(7, reference, config, memory / "blind")]
        tally.control(len(faults), sum(map(bool, faults)), "resume with data from the beginning")
    tally.verdict()


def _from_the_start(workers: int) -> object:
    from unified.data.loader import TrainLoader

    def made(*given: object, **words: object) -> TrainLoader:
        return TrainLoader(*given, **{**words, "start_step": 0})  # type: ignore[arg-type]

    return made


def test_dropout_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that draws random numbers in its forward pass; without their state it ends otherwise."""
    config, base = small_config(tmp_path, "max_steps=6", "evaluate_every=1")
    from unified.training.joint import JointModel

    forward = JointModel.forward

    def noisy(model: JointModel, batch: object) -> object:
        terms = forward(model, batch)  # type: ignore[arg-type]
        from dataclasses import replace

        return {t: {n: replace(term, sum=term.sum * torch.rand(())) for n, term in i.items()} for t, i in terms.items()}

    monkeypatch.setattr(JointModel, "forward", noisy)
    sit(config, base, tmp_path / "whole")

    def stop(trainer: Trainer, at: int) -> None:
        if at == 3:
            trainer.stops.asked = signal.SIGTERM

    sit(config, base, tmp_path / "cut", meddle=stop)
    sit(config, base, tmp_path / "cut")
    assert ends_with(tmp_path / "cut") == ends_with(tmp_path / "whole")
    sit(config, base, tmp_path / "blind", meddle=stop)
    monkeypatch.setattr(dice, "laid_down", lambda *_: None)
    sit(config, base, tmp_path / "blind")
    assert ends_with(tmp_path / "blind") != ends_with(tmp_path / "whole")


def killed_run(reference: Reference, out: Path, rng: random.Random) -> tuple[int, str]:
    """A run that is killed at random moments, at least so often; how often, and what differs at its end."""
    kills = 0
    while True:
        child = Child(reference.config, reference.base, out)
        if kills < KILLS and child.until(rng.randint(1, 12)):
            time.sleep(rng.uniform(0, 0.04))
            code = child.end(signal.SIGKILL)
            kills += code == -signal.SIGKILL
        else:
            code = child.end()
        if fault := first_difference({k: reference.losses[k] for k in child.losses}, child.losses):
            return kills, fault
        if code == 0:
            break
        if code != -signal.SIGKILL:
            return kills, f"exit code {code}"
    return kills, "" if ends_with(out) == reference.digest else "the last checkpoint differs"


def test_killed_runs(tally: Tally, memory: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    tally.begin("runs killed by SIGKILL", f"each {KILLS} times or more; every step and the end: to the bit")
    rng, kills = random.Random(0), 0
    for run in range(tally.count(100, share=1)):
        more, fault = killed_run(reference, memory / f"run-{run}", rng)
        kills += more
        tally.add(not fault, f"run {run}: {fault}")
    tally.note(f"{kills} kills")
    monkeypatch.setattr("unified.training.state.nested", lambda found, groups, optimizer, _: optimizer.state_dict())
    blind = [killed_run(reference, memory / f"blind-{run}", rng)[1] for run in range(1)]
    tally.control(len(blind), sum(map(bool, blind)), "resume without the optimizer's moments")
    tally.verdict()
