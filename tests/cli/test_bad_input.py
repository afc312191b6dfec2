# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

import unified  # noqa: F401
from unified.cli import eval as eval_command
from unified.cli import predict, train
from unified.training.run import train as train_run

ROOT = Path(__file__).resolve().parent.parent.parent

COCO = """
datasets:
  mine:
    path: coco
    train: {images: images, annotations: train.json}
    val: {images: images, annotations: train.json}
    labelled: {det: all}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model file, data files, a picture and a trained run."""
    folder = tmp_path_factory.mktemp("bad")
    tiny.cache_at(folder)
    config, base = tiny.config(folder, "max_steps=1")
    train_run(config, base, out=folder / "run")
    (folder / "coco" / "images").mkdir(parents=True)
    (folder / "coco.yaml").write_text(COCO)
    (folder / "empty.yaml").write_text(COCO.replace("train.json", "empty.json"))
    (folder / "gone.yaml").write_text(COCO.replace("train.json", "gone.json"))
    (folder / "broken.yaml").write_text(COCO.replace("train.json", "broken.json"))
    (folder / "typo.yaml").write_text(COCO.replace("labelled", "labeled"))
    (folder / "lost.yaml").write_text(COCO.replace("train.json", "lost.json"))
    categories = [{"id": 1, "name": "cat"}]
    truth = {"images": [{"id": 1, "file_name": "a.png", "width": 96, "height": 96}], "categories": categories}
    truth["annotations"] = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [9, 9, 30, 30], "area": 900, "iscrowd": 0}
    ]
    (folder / "coco" / "train.json").write_text(json.dumps(truth))
    (folder / "coco" / "empty.json").write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    (folder / "coco" / "broken.json").write_text('{"images": [')
    lost = {**truth, "images": [{"id": 1, "file_name": "no.png", "width": 96, "height": 96}]}
    (folder / "coco" / "lost.json").write_text(json.dumps(lost))
    Image.fromarray(np.full((96, 96, 3), 90, np.uint8)).save(folder / "coco" / "images" / "a.png")
    (folder / "file").write_text("a file, no folder")
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def refused(command: Any, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command says before it leaves with 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        command.main(list(words))
    told = capsys.readouterr()
    assert caught.value.code == 2, told.err
    assert told.err.startswith("error: ")
    assert len(told.err.splitlines()) == 1, told.err
    assert told.out == ""
    return told.err


def training(*words: str, data: str = "data/shapes.yaml", out: str = "new") -> list[str]:
    files = ["--model", "tiny.yaml", "--data", data, "--recipe", "recipe.yaml"]
    return [*files, "--max-steps", "1", "--quiet", "--out", out, *words]


@pytest.mark.parametrize(
    ("words", "data", "said"),
    [
        (
            ["--tasks", "det,emv"],
            "data/shapes.yaml",
            "unknown task 'emv'; known: cap, cls, det, emb (did you mean 'emb'?)",
        ),
        (
            ["--set", "tasks.det.head=detct_free"],
            "data/shapes.yaml",
            "unknown head 'detct_free'; known: caption, detect_anchor,",
        ),
        (
            ["--set", "tasks.det.head={name: detect_free, widht: 8}"],
            "data/shapes.yaml",
            "unknown option 'widht' of head",
        ),
        (["--set", "tasks.det.options={los: x}"], "data/shapes.yaml", "unknown option 'los' of task 'det'"),
        (
            ["--set", "model.backbone=cps"],
            "data/shapes.yaml",
            "unknown backbone 'cps'; known: csp, timm, yolor (did you mean 'csp'?)",
        ),
        (
            ["--set", "balance=fixd"],
            "data/shapes.yaml",
            "unknown balancer 'fixd'; known: ",
        ),
        (
            ["--set", "balance={name: fixed, wieghts: 1}"],
            "data/shapes.yaml",
            "unknown option 'wieghts' of balancer 'fixed'",
        ),
        (["--set", "data.schedule=roundrobin"], "data/shapes.yaml", "unknown schedule 'roundrobin'"),
        (["--set", "accumulate=3"], "data/shapes.yaml", "batch 8 cannot be shared by 3 accumulation steps"),
        (["--device", "cuda:99"], "data/shapes.yaml", "device 'cuda:99' is not available here"),
        (["--size", "100"], "data/shapes.yaml", "100"),
        (["--tasks", "det"], "typo.yaml", "typo.yaml:7: unknown key 'labeled' in datasets.mine"),
        (["--tasks", "det"], "nowhere.yaml", "nowhere.yaml"),
        (["--tasks", "det"], "gone.yaml", "gone.json"),
        (["--tasks", "det"], "broken.yaml", "broken.json"),
        (["--tasks", "det"], "empty.yaml", "empty.json"),
        (["--tasks", "det"], "lost.yaml", "no.png"),
        (["--tasks", "cls"], "coco.yaml", "cls"),
        (["--tasks", "det,emb"], "coco.yaml", "emb"),
    ],
)
def test_training_refuses_a_wrong_word_before_it_makes_a_folder(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], data: str, said: str
) -> None:
    line = refused(train, capsys, *training(*words, data=data))
    assert said in line
    assert not (here / "new").exists()
    assert not (here / "runs").exists()


def test_a_right_word_is_taken(here: Path) -> None:
    """The control of the test above: the same command without a mistake."""
    with pytest.raises(SystemExit) as caught:
        train.main(training("--tasks", "det", data="coco.yaml", out="good"))
    assert not caught.value.code
    assert (here / "good" / "metrics.json").is_file()


def test_a_folder_that_cannot_be_written_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(train, capsys, *training(out="file/run"))
    assert "cannot write to 'file/run'" in line
    assert "choose another folder with --out" in line
    line = refused(predict, capsys, "run", "coco/images/a.png", "--out", "file/drawn")
    assert "file/drawn" in line
    assert (here / "file").read_text() == "a file, no folder"


def test_a_run_is_not_written_over(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'run' already holds a run" in refused(train, capsys, *training(out="run"))


def changed(place: Path, name: str, old: str, new: str) -> Path:
    """A copy of the run whose checkpoint says something else of itself, with a manifest that fits."""
    from unified.checkpoint import Checkpoint
    from unified.training.folder import RunFolder

    copy = place / name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(place / "run", copy)
    saved = RunFolder.open(copy).load("last")
    text = json.dumps(saved.state, indent=1)
    assert old in text
    state = json.loads(text.replace(old, new))
    RunFolder.open(copy).save(state["progress"]["step"], Checkpoint(saved.tensors, state), best=True, keep_last=1)
    return copy


def test_a_checkpoint_of_another_configuration_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(here, "other", '"width": 16', '"width": 24')
    for line in (
        refused(predict, capsys, "other", "coco/images/a.png", "--out", "drawn"),
        refused(eval_command, capsys, "other"),
    ):
        assert "is a checkpoint of another configuration" in line
        assert "expected (" in line
    assert not (here / "drawn").exists()


def test_a_resumed_run_whose_model_was_changed_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(here / "run", here / "edited")
    path = here / "edited" / "config.yaml"
    text = path.read_text()
    assert "width: 16" in text
    path.write_text(text.replace("width: 16", "width: 24"))
    line = refused(train, capsys, "--resume", "edited", "--quiet")
    assert "not the run that was begun: model.heads.embed.width: 16 -> 24" in line


def test_a_damaged_checkpoint_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(here / "run", here / "damaged")
    for path in (here / "damaged").glob("checkpoints/step-*/ema.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    for command, words in ((eval_command, []), (predict, ["coco/images/a.png", "--out", "drawn"])):
        assert "ema.safetensors does not match its SHA-256" in refused(command, capsys, "damaged", *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "'nothing' does not exist"),
        (["coco"], "'coco' is neither a run with a checkpoint nor a checkpoint"),
        (["run", "--tasks", "dett"], "this model has no task 'dett'; known: cls, det, emb (did you mean 'det'?)"),
        (["run", "--data", "shappes"], "unknown data 'shappes'"),
        (["run", "--split", "test"], "unknown split 'test'"),
        (["run", "--size", "100"], "size 100"),
        (["run", "--size", "0"], "--size"),
        (["run", "--batch", "0"], "--batch"),
        (["run", "--limit", "0"], "--limit"),
    ],
)
def test_eval_refuses_a_wrong_word(here: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert said in refused(eval_command, capsys, *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing", "coco/images/a.png"], "'nothing' does not exist"),
        (["run", "coco/images/*.gif"], "no picture at 'coco/images/*.gif'"),
        (["run", "coco/images/a.png", "--tasks", "dett"], "this model has no task 'dett'"),
        (["run", "coco/images/a.png", "--size", "100"], "size 100"),
        (["run", "coco/images/a.png", "--confidence", "2"], "--confidence"),
    ],
)
def test_predict_refuses_a_wrong_word(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert said in refused(predict, capsys, *words, "--out", "drawn")
    assert not (here / "drawn").exists()


def test_the_installed_command_does_the_same(here: Path) -> None:
    script = Path(sys.executable).parent / "unified-train"
    if not script.is_file():
        pytest.skip("the package is not installed: no unified-train beside this Python")
    done = subprocess.run([script, *training("--tasks", "dett")], capture_output=True, text=True, cwd=here)
    assert done.returncode == 2
    assert done.stderr == "error: --tasks: unknown task 'dett'; known: cap, cls, det, emb (did you mean 'det'?)\n"
