# SPDX-License-Identifier: Apache-2.0
"""Runs of the recipe's kind, in small: gathered batches, phases, an exact resume, and the dry run before them."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from rich.console import Console

from unified.cli import preview as screen
from unified.cli import train as train_command
from unified.contracts.config import RunConfig
from unified.contracts.errors import ConfigError
from unified.contracts.structures import Batch
from unified.data.loader import EvalLoader
from unified.model.build import assemble
from unified.training.balance import FixedWeights
from unified.training.course import Course
from unified.training.evaluator import Evaluation
from unified.training.folder import RunFolder
from unified.training.joint import JointModel
from unified.training.monitor import EvaluationRecord, Monitor
from unified.training.preview import Preview, preview
from unified.training.run import make_accelerator, open_splits, train
from unified.training.trainer import Trainer

PHASES = "phases=[{epochs: 1, horizon: 1}, {epochs: 1.5, augment: {mosaic: 1, mosaic_images: 9, mixup: 0.5}, gains: "
PHASES += "{det/box: 0.5, emb: 2}}, {epochs: 0.5}]"
RECIPE = (
    "optimizer=sgd",
    "lr=1e-4",
    "train.momentum=0.937",
    "lr_final=0.2",
    "batch=4",
    "nominal_batch=8",
    "reduction=sum",
    "clip=0",
    "max_steps=null",
    "warmup_epochs=0.5",
    "warmup_bias_lr=1e-3",
    "warmup_momentum=0.8",
    "warmup_accumulate=true",
    PHASES,
    "close=0",
    "evaluate_every=0.5",
)


class Ear(Monitor):
    """Asks for a stop, as Ctrl-C would, at the first evaluation."""

    def __init__(self, stop: bool) -> None:
        self.stop = stop

    def evaluation(self, record: EvaluationRecord) -> None:
        if self.stop:
            self.stop = False
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phases")
    tiny.cache_at(folder)
    return folder


def test_a_run_stopped_in_its_second_phase_goes_on_to_the_same_weights(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unified.training.run.report", lambda *_: None)
    config, base = tiny.config(place, *RECIPE, tasks=("det", "emb"))
    course = Course(config.train, 24)
    whole, out, copy = place / "whole", place / "stopped", place / "copy"
    train(config, base, out=whole)
    summary = train(config, base, out=out, monitor=Ear(stop=True))
    assert summary.interrupted
    assert course.first_of(1) < summary.steps < course.first_of(2) - 1
    shutil.copytree(out, copy)
    torch.manual_seed(999)
    assert train(RunFolder.open(out).read_config(), base, resume=out).steps == course.steps
    mine, theirs = (RunFolder.open(folder).load("last") for folder in (out, whole))
    different = [
        f"{part}/{name}"
        for part, tensors in theirs.tensors.items()
        for name, tensor in tensors.items()
        if not torch.equal(tensor, mine.tensors[part][name])
    ]
    assert different == []
    notes = preview(config, Path("nowhere"), resume=out).notes
    assert notes[0] == f"the run in {out} goes on at step {course.steps}"
    assert mine.state["progress"]["passes"] == theirs.state["progress"]["passes"] == course.passes
    one_phase, _ = tiny.config(place, *RECIPE[:-3], "epochs=3", *RECIPE[-2:], tasks=("det", "emb"))
    train(one_phase, base, resume=copy, force=True)  # the control: on without phases, to other weights
    weights = RunFolder.open(copy).load("last").tensors["model"]
    assert any(not torch.equal(tensor, weights[name]) for name, tensor in theirs.tensors["model"].items())


class Bench:
    """A trainer on its own, and batches to feed it."""

    def __init__(self, place: Path, *overrides: str, tasks: tuple[str, ...] = ("cls",)) -> None:
        config, base = tiny.config(place, *overrides, tasks=tasks)
        splits = open_splits(config, base)
        accelerator, hardware = make_accelerator(config)
        torch.manual_seed(0)
        parts = assemble(config.model, config.tasks, splits.train.vocabulary)
        self.model = JointModel(parts.network, parts.tasks)
        self.trainer = Trainer(
            self.model,
            config,
            RunFolder(place / "bench"),
            accelerator,
            hardware,
            course=Course(config.train, splits.train.images),
            balancer=FixedWeights({}),
            validate=lambda network: Evaluation(),
            describe={},
            monitor=Monitor(),
        )
        batch = next(iter(EvalLoader(splits.train, batch=8, size=96, workers=0)))
        self.batch = replace(batch, tasks=tasks)

    def moved(self, *batches: Batch) -> list[torch.Tensor]:
        """What one step does to the weights; batch norms stand still."""
        before = [p.detach().clone() for p in self.model.parameters()]
        self.model.eval()
        self.trainer._step(iter(batches))
        return [p.detach() - b for p, b in zip(self.model.parameters(), before, strict=True)]

    def rows(self, first: int, last: int) -> Batch:
        b, rows = self.batch, slice(first, last)
        return replace(b, images=b.images[rows], annotations=b.annotations[rows], frames=b.frames[rows])


PLAIN = ("optimizer=sgd", "train.momentum=0", "clip=0", "warmup=0", "weight_decay=0")


def close_to(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(found, expected, strict=True))


def test_a_sum_is_the_mean_times_the_images(place: Path) -> None:
    """Also where the images come in batches of four, gathered to eight: an eighth of the rate makes the same step."""
    bench = Bench(place, *PLAIN, "lr=0.8")
    mean = bench.moved(bench.batch)
    bench = Bench(place, *PLAIN, "lr=0.1", "reduction=sum")
    assert close_to(bench.moved(bench.batch), mean)
    bench = Bench(place, *PLAIN, "lr=0.1", "reduction=sum", "batch=4", "nominal_batch=8")
    assert close_to(bench.moved(bench.rows(0, 4), bench.rows(4, 8)), mean)
    bench = Bench(place, *PLAIN, "lr=0.1")
    assert not close_to(bench.moved(bench.batch), mean)


def test_gains_weigh_the_losses_of_their_phase(place: Path) -> None:
    two = "phases=[{epochs: 1}, {epochs: 1, gains: {det/box: 0.5, cls: 3}}]"
    bench = Bench(place, two, "max_steps=null", tasks=("det", "cls"))
    trainer = bench.trainer
    trainer.wrapped.eval()
    terms = trainer.wrapped(bench.batch)
    gains = [trainer.course.gains(trainer.course.at(at).phase) for at in (0, trainer.course.passes - 1)]
    plain, gained = ({**by_task, **parts} for by_task, parts in (trainer.descent.losses(terms, g) for g in gains))
    ratio = {name: float((gained[name] / plain[name]).detach()) for name in plain}
    assert ratio["det/box"] == pytest.approx(0.5)
    assert ratio["det/class"] == pytest.approx(1.0)
    assert ratio["cls"] == pytest.approx(3.0)
    parts = [value for name, value in gained.items() if name.startswith("det/")]
    assert float(gained["det"]) == pytest.approx(float(sum(parts)))


def test_a_gain_of_no_loss_is_told_at_the_first_step(place: Path) -> None:
    late = "phases=[{epochs: 1}, {epochs: 1, gains: {det/bax: 0.5}}]"
    bench = Bench(place, late, tasks=("det",))
    with pytest.raises(
        ConfigError, match=r"phases\[1\].gains: unknown loss 'det/bax'; known: .*did you mean 'det/box'"
    ):
        bench.moved(bench.batch)
    config, base = tiny.config(place, "phases=[{epochs: 1, gains: {dat: 2}}]")
    with pytest.raises(ConfigError, match=r"phases\[0\].gains: this run has no task 'dat'; known: cls, det, emb"):
        train(config, base, out=place / "never")
    assert not (place / "never").exists()


def test_a_clock_leads_through_all_phases(place: Path) -> None:
    trainer = Bench(place, PHASES, "max_steps=null", "max_minutes=1").trainer
    found = []
    for seconds in (0, 25, 55):
        trainer.progress.seconds = seconds
        found.append((trainer.share, trainer.course.at(trainer.position).phase))
    assert found == [(0, 0), (pytest.approx(25 / 60), 1), (pytest.approx(55 / 60), 2)]
    assert trainer.course.augment(0, trainer.position).mosaic == 0
    trainer.progress.seconds = 25
    assert trainer.course.augment(0, trainer.position).mosaic_images == 9


def test_a_checkpoint_without_passes_is_resumed_by_its_step(place: Path) -> None:
    bench = Bench(place, "accumulate=2", "max_steps=20")
    bench.trainer.progress.step, bench.trainer.progress.passes = 5, 10
    saved = bench.trainer.checkpoint()
    del saved.state["progress"]["passes"]
    bench.trainer.progress.passes = 0
    bench.trainer.restore(saved, "old")
    assert (bench.trainer.progress.step, bench.trainer.progress.passes) == (5, 10)


def words(place: Path) -> list[str]:
    files = ["--model", tiny.write_model(place), "--data", tiny.write_data(place)]
    settings = [word for text in RECIPE for word in ("--set", text)]
    return [*files, "--recipe", tiny.write_recipe(place), *settings]


def code_of(*given: str) -> int:
    with pytest.raises(SystemExit) as caught:
        train_command.main(list(given))
    return int(caught.value.code or 0)


def listing(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


def test_a_dry_run_shows_and_writes_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("it trains")

    open_splits(*tiny.config(place))  # renders the scenes, which belong to the data
    monkeypatch.setattr(Trainer, "fit", refuse)
    monkeypatch.chdir(tmp_path)
    given = words(place)
    before = listing(place)
    assert code_of(*given, "--out", str(tmp_path / "run"), "--dry-run") == 0
    text = capsys.readouterr().out
    assert "phase 2 begins" in text and "mosaic of 9, mixup 0.5" in text and "no run folder was written" in text
    assert code_of(*given, "--dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert code_of(*given, "--dry-run", "--quiet") == 0
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []
    assert listing(place) == before
    config, _ = tiny.config(place, *RECIPE)
    course = Course(config.train, 24)
    assert (found["steps"], found["passes"]) == (course.steps, course.passes)
    for moment in found["moments"]:
        setting = course.at(course.begins(moment["step"]))
        assert (moment["lr"]["decay"], moment["lr"]["biases"]) == (setting.lr, setting.bias_lr)
    phases = {moment["name"]: moment["phase"] for moment in found["moments"]}
    assert [n for name, n in phases.items() if "ends" in name or "begins" in name] == [0, 1, 1, 2]
    assert code_of(*given[:-2], "--set", "batch=5", "--set", "accumulate=2", "--dry-run") == 2
    with pytest.raises(AssertionError, match="it trains"):  # the control: training comes to this, and leaves a folder
        config, base = tiny.config(place)
        train(config, base, out=tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").is_file()
    capsys.readouterr()
    assert code_of(*given, "--out", str(tmp_path / "run"), "--dry-run") == 2
    assert "already holds a run" in capsys.readouterr().err


@pytest.fixture(scope="module")
def found(place: Path) -> Preview:
    config, base = tiny.config(place, *RECIPE, "epochs=300")
    return preview(config, base)


def drawn(found: Preview, encoding: str) -> str:
    raw = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    screen.show(found, Console(file=raw, width=80))
    raw.seek(0)
    return raw.read()


def test_the_screen_fits_eighty_columns_and_any_terminal(found: Preview) -> None:
    fine, plain = drawn(found, "utf-8"), drawn(found, "ascii")
    assert "█" in fine and "#" in plain
    assert plain.isascii()
    assert max(len(line) for line in fine.splitlines()) <= 80
    for word in ("begin", "warmed up", "phase 1 ends", "phase 3 begins", "end", "lr biases", "det/box x 0.5"):
        assert word in " ".join(fine.split())
    assert "det 100.0%" in fine


def test_the_picture_falls_and_jumps_as_the_rate_does(found: Preview) -> None:
    rows = screen.picture(found, fine=False).plain.splitlines()[1 : screen.HEIGHT + 1]
    heights = [sum(row[10 + column : 11 + column] == "#" for row in rows) for column in range(screen.WIDTH)]
    border = round(screen.WIDTH / 3)
    assert max(heights) == screen.HEIGHT
    assert heights[border - 2] < heights[border + 2] > heights[-1]


def config_of_two(place: Path) -> tuple[RunConfig, Path]:
    half = {"format": "shapes", "options": {"level": "easy", "train": 24, "val": 8, "size": 96}}
    two = {"a": {**half, "labelled": {"det": "all"}}, "b": {**half, "labelled": {"det": "all", "cls": "all"}}}
    two["b"]["options"] = {**half["options"], "train": 8}
    text = json.dumps({"datasets": two})
    path = place / "two.yaml"
    path.write_text(text)
    from unified.contracts.document import load_run_config

    return load_run_config(
        model=tiny.write_model(place),
        data=str(path),
        tasks=("det", "cls"),
        recipe=tiny.write_recipe(place),
        overrides=["max_steps=null", "epochs=100", "batch=4"],
    )


def test_shares_of_datasets_and_tasks_are_told(place: Path) -> None:
    found = preview(*config_of_two(place))
    assert {name: round(part.share, 3) for name, part in found.datasets.items()} == {"a": 0.75, "b": 0.25}
    assert {name: round(part.visits) for name, part in found.datasets.items()} == {"a": 100, "b": 100}
    assert {name: round(share, 3) for name, share in found.tasks.items()} == {"det": 1.0, "cls": 0.25}
