# SPDX-License-Identifier: Apache-2.0
"""Growth by the words of the command line and of the Python API, further classes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from grown_runs import answers, base_run, grown_config

import unified
from unified.cli import train as command
from unified.contracts.errors import CheckpointError, ConfigError
from unified.training.evaluator import evaluate_run
from unified.training.run import train

TASKS = ("free:det", "cls", "emb")
NAMES = ["free", "cls", "emb"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_run(tmp_path_factory.mktemp("growing"), TASKS)


def test_further_classes_join_a_task_that_keeps_its_own(base: Path, tmp_path: Path) -> None:
    before = answers(unified.load(base, device="cpu", precision="fp32").network, NAMES)
    data = tiny.DATA.replace("labelled: {det: all, cls: all, emb: all}", "labelled: {free: all}")
    words = ("--data", tiny.write_data(tmp_path, data + "aliases: {star: starfish, ring: doughnut}\n"))
    out = ("--recipe", tiny.write_recipe(tmp_path), "--quiet", "--out", str(tmp_path / "more"), "max_steps=2")
    assert run_command("--from", str(base), "--add-classes", "free", *words, *out) == 0
    model = unified.load(tmp_path / "more", device="cpu")
    assert answers(model.network, NAMES) == before
    assert model.trained.tasks["free_2"].vocabulary.boxes == ("doughnut", "starfish")
    asked = model.predict(torch.zeros(3, 96, 96, dtype=torch.uint8), tasks="free", confidence=0.0)
    assert set(asked.box_names) == {*model.trained.tasks["free"].vocabulary.boxes, "doughnut", "starfish"}
    assert len(model.trained.tasks["free"].vocabulary.boxes) == 12
    assert {asked.box_names[i] for i in asked.labels.tolist()} & {"doughnut", "starfish"}
    assert bool((asked.scores.diff() <= 0).all())


def test_further_tags_join_a_task_that_keeps_its_own(base: Path, tmp_path: Path) -> None:
    data = tiny.DATA.replace("labelled: {det: all, cls: all, emb: all}", "labelled: {cls: all}")
    words = ("--data", tiny.write_data(tmp_path, data + "aliases: {tags: {wooden: timber}}\n"))
    out = ("--recipe", tiny.write_recipe(tmp_path), "--quiet", "--out", str(tmp_path / "more"), "max_steps=1")
    assert run_command("--from", str(base), "--add-classes", "cls", *words, *out) == 0
    model = unified.load(tmp_path / "more", device="cpu")
    old = model.trained.tasks["cls"].vocabulary.tags
    said = model.predict(torch.zeros(3, 96, 96, dtype=torch.uint8), tasks="cls")
    assert said.tag_names == (*old, "timber")
    alone = unified.load(base, device="cpu").predict(torch.zeros(3, 96, 96, dtype=torch.uint8), tasks="cls")
    assert torch.equal(said.tag_scores[: len(old)], alone.tag_scores)
    scored = evaluate_run(tmp_path / "more")
    assert {name.partition("/")[0] for name in scored} == {"cls", "cls_2"}


def run_command(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        command.main(list(words))
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--add-task", "cls"), "has a task 'cls' already"),
        (("--add-task", "sgm"), "--add-task sgm: unknown task 'sgm'; known:"),
        (("--add-task", "tags:cls", "--tasks", "det"), "leave out --tasks"),
        (("--add-task", "tags:cls", "--model", "unified-s"), "leave out --model"),
        (("--add-task", "tags:cls", "--unfreeze", "nek"), "unknown part 'nek'; known: backbone, neck (did you mean"),
        (("--add-task", "tags:cls", "--distill", "1"), "--distill holds what --unfreeze endangers"),
        (("--add-task", "tags:cls", "--set", "model.norm=group"), "keeps the network as it is"),
        (("--add-task", "tags:cls", "--add-classes", "free"), "either --add-task or --add-classes"),
        (("--add-classes", "emb"), "has no classes to add to"),
        (("--add-classes", "fre"), "no task 'fre'; known:"),
    ],
)
def test_bad_words_get_one_line(
    base: Path, tmp_path: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("--from", str(base), *words, "--out", str(tmp_path / "no")) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error
    assert not (tmp_path / "no").exists()


def test_add_task_needs_a_network_to_add_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("--add-task", "cls") == 2
    assert "--from RUN" in capsys.readouterr().err


def test_a_network_that_is_not_the_same_is_refused(base: Path, tmp_path: Path) -> None:
    config, place = grown_config(tmp_path, base, tasks=("tags:cls",))
    kept = dict(config.growth.tasks)
    kept["cls"] = kept["cls"].model_copy(update={"latents": ()})
    other = config.model_copy(update={"growth": config.growth.model_copy(update={"tasks": kept})})
    with pytest.raises(CheckpointError, match="does not fit this network, so old answers would change"):
        train(other, place, out=tmp_path / "no", start=base)
    with pytest.raises(ConfigError, match="nothing is new"):
        config, place = grown_config(tmp_path, base, classes="free")
        train(config, place, out=tmp_path / "no", start=base)
    assert not (tmp_path / "no").exists()


def test_a_model_in_the_hand_learns_a_task(base: Path, tmp_path: Path) -> None:
    model = unified.load(base, device="cpu", precision="fp32")
    before = answers(model.network, NAMES)
    _, place = grown_config(tmp_path, base, tasks=("tags:cls",))
    data, recipe = str(place / "shapes.yaml"), tiny.write_recipe(tmp_path)
    given = {"data": data, "recipe": recipe, "out": tmp_path / "run"}
    scores = model.add_task("tags:cls", **given, settings=["max_steps=2"])
    assert "tags/mAP" in scores
    assert model.tasks == (*NAMES, "tags")
    assert answers(model.network, NAMES) == before
    assert model.predict(torch.zeros(3, 96, 96, dtype=torch.uint8), tasks="tags").tags
    with pytest.raises(ConfigError, match="has a task 'tags' already"):
        model.add_task("tags:cls", **given)
