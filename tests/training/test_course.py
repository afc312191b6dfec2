# SPDX-License-Identifier: Apache-2.0
"""The course of a run against numbers worked out by hand, mostly for the published recipe on COCO's 118,287 images."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import tiny
import torch

from unified.contracts.config import PhaseConfig, TrainConfig
from unified.contracts.document import dump_run_config, load_run_config, read_run_config
from unified.contracts.errors import ConfigError
from unified.model.build import EXAMPLE_VOCABULARY, assemble
from unified.training.course import Course, decay_scale
from unified.training.ema import ramped
from unified.training.joint import JointModel
from unified.training.optimizer import make_optimizer, parameter_groups, set_momentum, steer

COCO = 118_287


def recipe(name: str, *overrides: str) -> TrainConfig:
    return load_run_config(model="unified-n", data="shapes", tasks=("det",), recipe=name, overrides=overrides)[0].train


def at_epoch(course: Course, epoch: float) -> int:
    """The forward pass nearest to an epoch."""
    return round(epoch / course.config.epochs * course.passes)


@pytest.fixture(scope="module")
def published() -> Course:
    return Course(recipe("yolor-1280"), COCO)


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (150, 0.0060),
        (298.9, 0.0020003),
        (298.999, 0.0020002),
        (299.001, 0.0040243),
        (375, 0.0025359),
        (424.99, 0.0020608),
        (425.01, 0.0020607),
        (450, 0.0020000),
    ],
)
def test_the_published_rate_by_hand(published: Course, epoch: float, rate: float) -> None:
    """0.01 (0.2 + 0.8 (1 + cos(pi e / h)) / 2) with h = 300 in the first phase and 450 after it."""
    setting = published.at(at_epoch(published, epoch))
    assert setting.lr == pytest.approx(rate, abs=2e-7)
    assert setting.bias_lr == setting.lr
    assert setting.momentum == 0.937


def test_without_a_horizon_nothing_jumps() -> None:
    config = recipe("yolor-1280", "train.phases.0.horizon=null")
    course = Course(config, COCO)
    before, after = (course.at(at_epoch(course, epoch)).lr for epoch in (298.99, 299.001))
    assert before == pytest.approx(after, abs=2e-6)
    assert after == pytest.approx(0.0040243, abs=2e-6)


@pytest.mark.parametrize(
    ("epoch", "weights", "biases", "momentum"),
    [
        (0, 0.0, 0.1, 0.8),
        (1.5, 0.5 * 0.0099995, 0.1 + 0.5 * (0.0099995 - 0.1), 0.8685),
        (2.4, 0.8 * 0.0099987, 0.1 + 0.8 * (0.0099987 - 0.1), 0.9096),
        (3.001, 0.0099980, 0.0099980, 0.937),
    ],
)
def test_the_warm_up_by_hand(published: Course, epoch: float, weights: float, biases: float, momentum: float) -> None:
    setting = published.at(at_epoch(published, epoch))
    assert setting.lr == pytest.approx(weights, abs=5e-6)
    assert setting.bias_lr == pytest.approx(biases, abs=5e-5)
    assert setting.momentum == pytest.approx(momentum, abs=1e-4)


def test_a_warm_up_lasts_three_epochs_and_at_least_a_thousand_passes() -> None:
    large, small = Course(recipe("yolor-1280"), COCO), Course(recipe("yolor-1280"), 3430)
    assert large.warmup * large.passes == pytest.approx(3 * COCO / 64, abs=2)
    assert 3 * 3430 / 64 < 200  # otherwise there is nothing to show
    assert small.warmup * small.passes == pytest.approx(1000, abs=2)
    alone = Course(recipe("yolor-1280", "warmup_passes=0"), 3430)
    assert alone.warmup * alone.passes == pytest.approx(3 * 3430 / 64, abs=2)


def test_smaller_batches_are_gathered_more_and_more() -> None:
    """Batches of 16 for a nominal 64: 1 + 3 x / W passes, rounded, so 1, 2, 3, 4 from 0, 1/6, 1/2, 5/6 of the warm-up.

    W / 6 passes one by one, W / 3 in twos, W / 3 in threes and W / 6 in fours make (1/6 + 1/6 + 1/9 + 1/24) W steps.
    """
    course = Course(recipe("yolor-1280", "batch=16"), COCO)
    warm = 3 * COCO / 16
    counts = Counter(course.at(course.begins(step)).passes for step in range(12_000) if course.begins(step) < warm)
    expected = {1: warm / 6, 2: warm / 6, 3: warm / 9, 4: warm / 24}
    assert {k: pytest.approx(n, abs=2) for k, n in expected.items()} == dict(counts)
    assert course.at(course.begins(30_000)).passes == 4
    assert (course.pass_images, course.step_images) == (16, 64)
    assert course.passes * 16 / COCO == pytest.approx(450, abs=0.01)
    starts = [course.begins(step) for step in range(15_000)]
    assert [b - a for a, b in pairwise(starts)] == [course.at(start).passes for start in starts[:-1]]
    assert course.begins(course.steps) == course.passes
    steady = Course(recipe("yolor-1280", "batch=16", "warmup_accumulate=false"), COCO)
    assert {steady.at(steady.begins(step)).passes for step in range(0, 12_000, 97)} == {4}


@pytest.mark.parametrize(
    ("batch", "accumulate", "passes", "scale"), [(64, 1, 1, 1.0), (16, 1, 4, 1.0), (24, 1, 3, 1.125), (64, 4, 4, 1.0)]
)
def test_decay_and_passes_follow_the_nominal_batch(batch: int, accumulate: int, passes: int, scale: float) -> None:
    config = TrainConfig(batch=batch, accumulate=accumulate, nominal_batch=64)
    assert Course(config, 1000).step_passes == passes
    assert decay_scale(config) == scale
    plain = config.model_copy(update={"nominal_batch": None})
    assert (Course(plain, 1000).step_passes, decay_scale(plain)) == (accumulate, 1.0)


@pytest.mark.parametrize(("updates", "decay"), [(1, 4.99825e-4), (2000, 0.6320574), (20_000, 0.9998546)])
def test_the_average_holds_on_more_and_more(updates: int, decay: float) -> None:
    config = recipe("yolor-640")
    assert ramped(config.ema, config.ema_ramp, updates) == pytest.approx(decay, rel=1e-5)


def test_a_shortened_run_keeps_its_shape() -> None:
    course = Course(recipe("yolor-1280", "max_steps=90"), COCO)
    assert (course.steps, course.first_of(1), course.first_of(2)) == (90, 60, 85)
    assert course.at(course.begins(59)).lr == pytest.approx(0.0020, abs=1e-5)
    assert course.at(course.begins(60)).lr == pytest.approx(0.0040, abs=1e-5)
    gathered = Course(recipe("yolor-1280", "max_steps=90", "batch=16"), 3430)
    assert gathered.steps == 90
    assert gathered.passes == gathered.begins(90) <= 360


def test_epochs_stretch_the_phases() -> None:
    config = recipe("yolor-1280", "epochs=45")
    assert [phase.epochs for phase in config.phases] == pytest.approx([29.9, 12.6, 2.5])
    assert [phase.horizon for phase in config.phases] == [30, None, None]
    course = Course(config, COCO)
    assert course.at(at_epoch(course, 29.901)).lr == pytest.approx(0.0040243, abs=1e-6)
    assert sum(phase.epochs for phase in recipe("yolor-1280").phases) == recipe("yolor-1280").epochs == 450


def test_phases_change_pictures_and_nothing_else_of_them() -> None:
    course = Course(recipe("yolor-1280"), COCO)
    seen = {epoch: course.augment(at_epoch(course, epoch)) for epoch in (0, 298.9, 299.1, 424.9, 425.1, 449.9)}
    assert [a.mosaic_images for a in seen.values()] == [4, 4, 9, 9, 4, 4]
    assert [a.mixup for a in seen.values()] == [0, 0, 0.2, 0.2, 0.2, 0.2]
    assert [a.scale for a in seen.values()] == [0.5, 0.5, 0.8, 0.8, 0.8, 0.8]
    assert {(a.mosaic, a.translate, a.hue, a.saturation, a.value, a.fliplr) for a in seen.values()} == {
        (1, 0.5, 0.015, 0.7, 0.4, 0.5)
    }
    small = Course(recipe("yolor-640"), COCO)
    assert (small.augment(0).scale, small.augment(0).translate, small.augment(small.passes - 1).mosaic) == (0.9, 0.1, 1)


def test_a_saved_run_with_phases_reads_back_equal(tmp_path: Path) -> None:
    for words in ([], ["epochs=47"], ["mosaic=0.5"]):
        config, _ = load_run_config(
            model="unified-n", data="shapes", tasks=("det",), recipe="yolor-1280", overrides=words
        )
        (tmp_path / "config.yaml").write_text(dump_run_config(config))
        assert read_run_config(tmp_path / "config.yaml") == config
    assert [phase.augment.mosaic for phase in config.train.phases] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("name", ["yolor-640", "yolor-1280"])
def test_recipes_carry_the_gains_of_the_anchor_losses(name: str) -> None:
    config, _ = load_run_config(model="unified-n", data="shapes", tasks=("det",), recipe=name)
    gains = config.tasks["det"].options
    expected = {"yolor-640": (0.05, 0.3, 0.7), "yolor-1280": (0.05, 0.5, 1.0)}[name]
    assert tuple(gains[f"anchor_{part}_gain"] for part in ("box", "class", "object")) == expected
    assert gains["anchor_ratio"] == 4.0


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> JointModel:
    place = tmp_path_factory.mktemp("groups")
    config, _ = tiny.config(place, "tasks.det.head=detect_anchor")
    parts = assemble(config.model, config.tasks, EXAMPLE_VOCABULARY)
    return JointModel(parts.network, parts.tasks)


def test_groups_hold_every_parameter_once(joint: JointModel) -> None:
    config = recipe("yolor-640", "batch=24")
    groups = {group["name"]: group for group in parameter_groups(joint, config)}
    assert sorted(id(p) for g in groups.values() for p in g["params"]) == sorted(id(p) for p in joint.parameters())
    decayed = {name for name, group in groups.items() if group["weight_decay"]}
    assert decayed == {"decay"}
    assert groups["decay"]["weight_decay"] == pytest.approx(5e-4 * 72 / 64)
    place = {id(p): name for name, group in groups.items() for p in group["params"]}
    by_kind: dict[str, set[str]] = {"norm": set(), "z": set(), "weight": set(), "bias": set()}
    for module in joint.network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, torch.nn.BatchNorm2d) and name == "weight":
                by_kind["norm"].add(place[id(parameter)])
            elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear | torch.nn.BatchNorm2d):
                by_kind[name].add(place[id(parameter)])
    by_kind["z"] = {place[id(p)] for p in joint.network.bank.parameters()}
    assert by_kind == {"norm": {"plain"}, "z": {"latents"}, "weight": {"decay"}, "bias": {"biases"}}
    usual = {group["name"] for group in parameter_groups(joint, TrainConfig())}
    assert usual == {"decay", "plain", "latents"}


def test_steering_reaches_every_group(joint: JointModel) -> None:
    config = recipe("yolor-640", "latent_lr=2")
    course, optimizer = Course(config, COCO), make_optimizer(joint, config)
    assert {(g["nesterov"], g["momentum"]) for g in optimizer.param_groups} == {(True, 0.937)}
    setting = course.at(at_epoch(course, 1.5))
    steer(optimizer, setting)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {
        "decay": setting.lr,
        "biases": setting.bias_lr,
        "plain": setting.lr,
        "latents": 2 * setting.lr,
    }
    assert setting.bias_lr > 10 * setting.lr
    assert {group["momentum"] for group in optimizer.param_groups} == {setting.momentum}
    adamw = make_optimizer(joint, TrainConfig(momentum=0.9))
    steer(adamw, Course(TrainConfig(momentum=0.9), COCO).at(0))
    assert {group["betas"] for group in adamw.param_groups} == {(0.9, 0.99)}
    set_momentum(adamw, 0.5)
    assert {group["betas"] for group in adamw.param_groups} == {(0.5, 0.99)}


def test_the_course_by_share_is_the_plain_cosine() -> None:
    """Recipes without a word about epochs of warm-up or phases: warm-up, and then the whole cosine."""
    course = Course(TrainConfig(lr=1.0, lr_final=0.0, warmup=0.1, epochs=10, batch=10), 1000)
    rates = [course.at(step).lr for step in (0, 50, 100, 325, 550, 1000)]
    assert rates == pytest.approx([0.01, 0.5, 1.0, (1 + math.sqrt(0.5)) / 2, 0.5, 0.0])
    assert {course.at(step).momentum for step in range(1000)} == {None}


@pytest.mark.parametrize(
    ("phase", "line"),
    [
        ("{epochs: 0}", "phases[0].epochs: got 0; expected a number greater than 0"),
        ("{epochs: 1, epoch: 3}", "unknown key 'epoch' in train.phases[0]; known: augment, epochs, gains, horizon"),
        ("{epochs: 3, augment: {mosiac: 1}}", "(did you mean 'mosaic'?)"),
        ("{epochs: 3, augment: {mosaic_images: 5}}", "mosaic_images: got 5; expected 4 or 9"),
        ("{epochs: 3, gains: {det: -1}}", "gains.det: got -1; expected a number of at least 0"),
    ],
)
def test_a_wrong_phase_is_one_line(phase: str, line: str) -> None:
    with pytest.raises(ConfigError) as error:
        recipe("default", f"phases=[{phase}]")
    assert line in str(error.value) and "\n" not in str(error.value)


def test_a_lone_phase_is_the_run() -> None:
    config = TrainConfig(epochs=5, phases=(PhaseConfig(epochs=5),))
    with_phase, without = Course(config, 1000), Course(TrainConfig(epochs=5), 1000)
    assert [with_phase.at(k) for k in range(0, 300, 7)] == [without.at(k) for k in range(0, 300, 7)]
