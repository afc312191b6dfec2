# SPDX-License-Identifier: Apache-2.0
"""The courses of a learning rate against closed forms and against torch's own schedulers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.optim import SGD, lr_scheduler

from unified.contracts.config import PhaseConfig, TrainConfig
from unified.contracts.document import load_run_config
from unified.contracts.errors import ConfigError
from unified.training.course import Course
from unified.training.curves import CURVES, height

STEPS = 200


def config(**words: Any) -> TrainConfig:
    return TrainConfig(**{"lr": 0.5, "warmup": 0.0, "epochs": 1.0, "batch": 1, **words})


def rates(settings: TrainConfig, steps: int = STEPS) -> list[float]:
    course = Course(settings, steps)
    assert course.steps == steps
    return [course.at(course.begins(step)).lr for step in range(steps)]


def by_torch(make: Callable[[torch.optim.Optimizer], Any], steps: int = STEPS) -> list[float]:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.5, momentum=0.9)
    scheduler, found = make(optimizer), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return found


def test_the_cosine_is_torchs() -> None:
    mine = rates(config(course="cosine", lr_final=0.1))
    assert mine == pytest.approx(
        by_torch(lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.05)), rel=1e-6, abs=1e-9
    )


def test_the_line_is_torchs() -> None:
    mine = rates(config(course="linear", lr_final=0.1))
    theirs = by_torch(lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.1, total_iters=STEPS))
    assert mine == pytest.approx(theirs, rel=1e-6)


def test_a_held_line_is_torchs() -> None:
    """Level for three quarters, then down within the last one."""
    mine = rates(config(course="linear", lr_hold=0.75, lr_final=0.2))

    def torchs(optimizer: torch.optim.Optimizer) -> Any:
        parts = [
            lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=150),
            lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.2, total_iters=50),
        ]
        return lr_scheduler.SequentialLR(optimizer, parts, milestones=[150])

    assert mine == pytest.approx(by_torch(torchs), rel=1e-6)


def test_the_steps_are_torchs() -> None:
    mine = rates(config(course="steps", lr_steps=(0.5, 0.75), lr_drop=0.2))
    theirs = by_torch(lambda o: lr_scheduler.MultiStepLR(o, milestones=[100, 150], gamma=0.2))
    assert mine == pytest.approx(theirs, rel=1e-9)
    assert len(set(mine)) == 3


def test_the_cycle_is_torchs() -> None:
    """Torch lays the same two half cosines over whole steps: up to step 0.3 n - 1, down to step n - 1."""
    settings = config(course="one-cycle", lr_start=0.04, lr_peak=0.3, lr_final=4e-6)
    theirs = by_torch(
        lambda o: lr_scheduler.OneCycleLR(
            o, max_lr=0.5, total_steps=STEPS, pct_start=0.3, div_factor=25, final_div_factor=1e4, cycle_momentum=False
        )
    )
    top, end = 0.3 * STEPS - 1, STEPS - 1

    def part(step: int) -> float:
        return 0.3 * step / top if step <= top else 0.3 + 0.7 * (step - top) / (end - top)

    mine = [0.5 * height(settings, part(step)) for step in range(STEPS)]
    assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-9)
    assert max(theirs) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("course", "first", "last"),
    [("cosine", 1, 0.1), ("linear", 1, 0.1), ("one-cycle", 0.04, 0.1), ("constant", 1, 1), ("steps", 1, 0.01)],
)
def test_ends_and_directions(course: str, first: float, last: float) -> None:
    settings = config(course=course, lr_final=0.1)
    assert height(settings, 0.0) == pytest.approx(first)
    assert height(settings, 1.0) == pytest.approx(last)
    heights = [height(settings, k / 1000) for k in range(1001)]
    assert max(heights) == pytest.approx(1.0)
    falling = heights[300:] if course == "one-cycle" else heights
    assert all(a >= b for a, b in pairwise(falling))
    assert course != "one-cycle" or all(a < b for a, b in pairwise(heights[:301]))


def test_every_course_of_the_configuration_has_a_curve() -> None:
    assert set(CURVES) == set(TrainConfig.model_fields["course"].annotation.__args__)  # type: ignore[union-attr]


def test_a_warm_up_leads_to_every_course_but_one() -> None:
    for course in CURVES:
        plan = Course(config(course=course, warmup=0.1), STEPS)
        own = course == "one-cycle"
        assert plan.warmup == (0 if own else 0.1)
        assert plan.at(0).lr == pytest.approx(0.5 * 0.04 if own else 0.5 * 0.01)
        assert plan.at(10).lr == pytest.approx(0.5 * height(plan.config, 0.05) if own else 0.25)
        assert plan.at(20).lr == pytest.approx(0.5 * height(plan.config, 0.1 if own else 0.0))
    over = Course(config(course="one-cycle", warmup_epochs=0.1), STEPS)
    assert over.at(10).lr == pytest.approx(0.5 * 0.5 * height(over.config, 0.05))


def test_a_horizon_ends_every_course() -> None:
    phases = (PhaseConfig(epochs=1, horizon=0.5), PhaseConfig(epochs=1))
    for course in CURVES:
        plan = Course(config(course=course, phases=phases, epochs=2.0), STEPS)
        at = [plan.at(share * plan.passes).lr for share in (0.125, 0.25, 0.4)]
        assert at == pytest.approx([0.5 * height(plan.config, part) for part in (0.5, 1.0, 1.0)])


def test_an_unnamed_course_is_the_cosine() -> None:
    assert rates(TrainConfig(warmup=0.1, epochs=1.0, batch=1)) == rates(
        TrainConfig(warmup=0.1, epochs=1.0, batch=1, course="cosine")
    )


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("course=cos", "course: got 'cos'; expected 'cosine', 'linear', 'one-cycle', 'constant' or 'steps'"),
        ("lr_steps=[0.5, 1]", "lr_steps[1]: got 1; expected a number less than 1"),
        ("lr_peak=0", "lr_peak: got 0; expected a number greater than 0"),
        ("layer_decay=1.1", "layer_decay: got 1.1; expected a number of at most 1"),
        ("patience=0", "patience: got 0; expected a number greater than 0"),
        ("batch_norm=froze", "batch_norm: got 'froze'; expected 'own', 'sync', 'frozen' or 'frozen-statistics'"),
        ("model.norm=layer", "model.norm: got 'layer'; expected 'batch' or 'group'"),
        ("compile=2", "compile: got 2; expected true or false"),
    ],
)
def test_a_wrong_setting_is_one_line(word: str, line: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_run_config(model="unified-n", data="shapes", tasks=("det",), overrides=[word])
    assert line in str(error.value)
    assert "\n" not in str(error.value)
