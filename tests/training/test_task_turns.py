# SPDX-License-Identifier: Apache-2.0
"""Tasks of their own pace: rates, freezing, stops, and schedules that a run steers; through whole tiny runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from unified.contracts.config import RunConfig, TaskConfig, TrainConfig
from unified.contracts.errors import ConfigError, UnifiedError
from unified.data.steering import SteeredPlan
from unified.model.build import EXAMPLE_VOCABULARY, assemble
from unified.training.evaluator import Evaluation
from unified.training.folder import RunFolder
from unified.training.joint import JointModel
from unified.training.monitor import Monitor
from unified.training.optimizer import parameter_groups
from unified.training.preview import preview
from unified.training.run import train
from unified.training.trainer import Trainer

TWO = """
datasets:
  a: {format: shapes, labelled: {det: all, cls: all}, options: {level: easy, train: 24, val: 8, seed: 0, size: 96}}
  b: {format: shapes, labelled: {emb: all}, options: {level: easy, train: 8, val: 8, seed: 1, size: 96}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("turns")
    tiny.cache_at(folder)
    return folder


def snapshot(trainer: Trainer) -> dict[str, Tensor]:
    """Weights, buffers, moments and averages, by name."""
    found = {f"model/{name}": tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    found |= {f"ema/network.{name}": t.clone() for name, t in trainer.average.network.state_dict().items()}
    for name, parameter in trainer.model.named_parameters():
        for slot, tensor in trainer.optimizer.state.get(parameter, {}).items():
            found[f"{slot}/{name}"] = tensor.clone()
    return found


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """What a run looked like at every evaluation; nothing is scored."""
    looks: list[dict[str, Tensor]] = []

    def look(self: Trainer) -> bool:
        looks.append(snapshot(self))
        self.progress.evaluated = self.share
        return False

    monkeypatch.setattr(Trainer, "evaluate", look)
    return looks


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in after if name not in before or not torch.equal(before[name], after[name])}


def own(task: str, names: Any) -> set[str]:
    marks = (f"heads.{task}.", f"tasks.{task}.")
    return {name for name in names if any(mark in name for mark in marks)}


def test_a_stopped_task_is_left_bit_for_bit(place: Path, seen: list[dict[str, Tensor]]) -> None:
    """Weights, running statistics, moments and average of emb after its stop; det, cls and the trunk go on."""
    config, base = tiny.config(place, "evaluate_every=0.5", "tasks.emb.stop=3", "weight_decay=0.5")
    train(config, base, out=place / "stopped")
    before, after = seen
    assert len(own("emb", before)) > 20
    changed = moved(before, after)
    assert not own("emb", changed)
    for task in ("det", "cls"):
        assert {name.split("/")[0] for name in own(task, changed)} >= {"model", "ema", "exp_avg"}
    assert any(name.startswith("model/network.backbone") for name in changed)


def test_what_is_frozen_stays_as_it_began_and_the_rest_learns(place: Path, seen: list[dict[str, Tensor]]) -> None:
    given = ("evaluate_every=0.5", "max_steps=2", "tasks.cls.freeze=true", "freeze=[backbone]")
    config, base = tiny.config(place, *given)
    train(config, base, out=place / "frozen")
    changed = {name for name in moved(*seen) if name.startswith("model/")}
    assert not own("cls", changed)
    assert not any("network.backbone" in name for name in changed)
    assert own("det", changed) and own("emb", changed) and any("network.neck" in name for name in changed)


def test_a_run_that_freezes_everything_is_refused(place: Path) -> None:
    config, base = tiny.config(
        place, "freeze=[backbone,neck]", *(f"tasks.{t}.freeze=true" for t in ("det", "cls", "emb"))
    )
    with pytest.raises(ConfigError, match="nothing is left to learn"):
        train(config, base, out=place / "nothing")


def test_a_task_has_its_own_rate(place: Path) -> None:
    config, _ = tiny.config(place, "tasks.emb.lr=0.1", "latent_lr=2")
    parts = assemble(config.model, config.tasks, EXAMPLE_VOCABULARY)
    model = JointModel(parts.network, parts.tasks)
    usual = {(g["name"], len(g["params"])) for g in parameter_groups(model, config.train)}
    assert {name for name, _ in usual} == {"decay", "plain", "latents"}
    model.settle(config)
    rates = {id(p): g["scale"] for g in parameter_groups(model, config.train) for p in g["params"]}
    for task, rate in (("det", 1.0), ("emb", 0.1)):
        assert {rates[id(p)] for p in model.network.heads[task].parameters()} == {rate}
        assert {rates[id(p)] for p in model.network.bank.tasks[task].parameters()} == {2 * rate}
    assert {rates[id(p)] for p in model.tasks["emb"].parameters()} <= {0.1}
    assert {rates[id(p)] for p in model.shared_parameters()} == {1.0}
    assert len(rates) == sum(count for _, count in usual)


def two(place: Path, *overrides: str) -> tuple[RunConfig, Path]:
    from unified.contracts.document import load_run_config

    return load_run_config(
        model=tiny.write_model(place),
        data=tiny.write_data(place, TWO),
        tasks=("det", "cls", "emb"),
        recipe=tiny.write_recipe(place),
        overrides=overrides,
    )


class Stop(Monitor):
    """Remembers messages, and stops the run behind an evaluation."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.said = at, list[str]()

    def message(self, text: str) -> None:
        self.said.append(text)


def test_a_steered_run_goes_on_to_the_same_bits(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The schedule follows scores, FAMO its losses; stopped behind an evaluation whose change lies still ahead."""
    given = (
        "max_steps=12",
        "evaluate_every=0.25",
        "balance=famo",
        "data.schedule={name: gap, baselines: {det: 0.5, emb: 0.9}, lag: 7}",
    )
    config, base = two(place, *given)
    trainers: list[Trainer] = []
    score = {3: 0.1, 6: 0.4, 9: 0.2, 12: 0.5}

    def judged(self: Trainer, evaluation: Evaluation) -> bool:
        step = self.progress.step
        self.evaluation = Evaluation(metrics={"det/AP": score[step], "emb/R@1": 1 - score[step]})
        if self not in trainers:
            trainers.append(self)
        if stop and step == stop:
            self.stops.asked = 2
        return False

    monkeypatch.setattr(Trainer, "_judge", judged)
    stop = 0
    train(config, base, out=place / "steered")
    stop = 6
    train(config, base, out=place / "broken")
    stop = 0
    ear = Stop()
    train(RunFolder.open(place / "broken").read_config(), base, resume=place / "broken", monitor=ear)
    whole, begun, again = trainers
    assert begun.progress.step == 6
    assert isinstance(again.schedule, SteeredPlan)
    assert [entry.first for entry in whole.schedule.entries] == [10, 13, 16, 19]
    assert again.schedule.state() == whole.schedule.state()
    assert any(line.startswith("schedule: from forward pass 16 on datasets a x") for line in ear.said)
    assert whole.balancer.adam.values and again.balancer.state() == whole.balancer.state()
    assert not moved(snapshot(whole), snapshot(again))


def test_all_datasets_make_one_step_and_gradients_add_up_by_weight(place: Path, seen: list[dict[str, Tensor]]) -> None:
    """Where one dataset has all of the weight, the other one's pass changes nothing that it alone would."""
    given = ("max_steps=2", "evaluate_every=0.5", "batch=8", "clip=0", "weight_decay=0")
    ratios = "data.schedule={name: ratios, ratios: {a: %s, b: %s}, accumulate: all}"
    config, base = two(place, *given, ratios % (3, 1))
    train(config, base, out=place / "together")
    assert RunFolder.open(place / "together").read_config().train.accumulate == 2
    found = preview(config, base)
    assert (found.step_images, found.pass_images, found.steps) == (8, 4, 2)
    assert {name: part.weight for name, part in found.datasets.items()} == pytest.approx({"a": 0.75, "b": 0.25})
    assert {part.share for part in found.datasets.values()} == {0.5}
    changed = moved(*seen)
    assert all(own(task, changed) for task in ("det", "cls", "emb"))


def test_a_dry_run_shows_turns_shares_and_changes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from unified.cli.preview import as_json, show

    given = ("epochs=40", "tasks.cls.start=0.5", "data.schedule={name: annealed, before: uniform, after: proportional}")
    config, base = two(place, *given, "max_steps=null")
    found = preview(config, base)
    assert len(found.order) == 160
    shares = {name: part.share for name, part in found.datasets.items()}
    assert shares == pytest.approx({"a": 0.625, "b": 0.375}, abs=0.005)  # from 1 : 1 to 3 : 1
    assert found.tasks["emb"] == pytest.approx(0.375, abs=0.005)
    assert found.tasks["cls"] == pytest.approx((0.625 + 0.75) / 4, abs=0.01)
    assert found.shifts[0].resting == ("cls",) and found.shifts[-1].resting == ()
    show(found, Console(width=100, force_terminal=False))
    text = capsys.readouterr().out
    assert "the first 160 forward passes, annealed" in text
    strip = text.split("forward passes, annealed")[1].splitlines()
    assert set(strip[1].split()[1]) == {"a", "b"} and len(strip[1].split()[1]) == 64
    assert "shares from a step on" in text
    assert as_json(found)["shifts"][0]["resting"] == ("cls",)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("data.schedule={name: ratios, ratios: {a: 1, c: 1}}",), "ratios name the dataset 'c'; known: a, b"),
        (("data.schedule={name: ratios, ratios: {a: 1}}",), "task 'emb' never has a turn"),
        (("data.schedule={name: ratios, ratios: {a: 0, b: 0}}",), "all of its weights are 0"),
        (("data.schedule={name: uniform, accumulate: all}", "accumulate=4"), "makes a step of 2 forward passes"),
        (("data.schedule={name: uniform, accumulate: all}", "warmup_accumulate=true"), "leave one of them out"),
        (("tasks.det.weight=0", "tasks.cls.weight=0", "tasks.emb.weight=0"), "weights of all tasks"),
        (("balance=nash",), "did you mean 'nash_mtl'"),
    ],
)
def test_bad_words_are_refused_before_there_is_a_folder(place: Path, given: tuple[str, ...], words: str) -> None:
    config, base = two(place, *given)
    with pytest.raises(UnifiedError) as caught:
        train(config, base, out=place / "bad")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (place / "bad").exists()


def test_settings_of_tasks_are_checked() -> None:
    assert TaskConfig(task="det").model_dump()["stop"] is None
    for wrong in ({"lr": 0}, {"stop": -1}, {"patience": 0}):
        with pytest.raises(ValueError, match="greater than"):
            TaskConfig(task="det", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="backbone"):
        TrainConfig(freeze=("heads",))  # type: ignore[arg-type]
