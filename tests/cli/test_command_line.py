# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import unified
from unified.cli import bench, data, predict, train
from unified.cli import eval as eval_command
from unified.cli.command import assignments_as_options
from unified.contracts import protocols
from unified.contracts.errors import CheckpointError, UnifiedError
from unified.contracts.structures import Prediction
from unified.training.monitor import Monitor, RunSummary

COMMANDS = {"train": train, "eval": eval_command, "predict": predict, "data": data, "bench": bench}


@dataclass
class Stand:
    """Stands in for unified.training.run: remembers its call and does as it is told."""

    error: BaseException | None = None
    interrupted: bool = False
    signal: int = 0
    call: dict[str, Any] = field(default_factory=dict)

    def train(self, config: Any, base: Path, **words: Any) -> RunSummary:
        self.call = {"config": config, "base": base, **words}
        if self.error:
            raise self.error
        summary = RunSummary(Path("runs/x"), {"det/AP50": 0.5}, 7, 1.5, self.interrupted, self.signal)
        words["monitor"].end(summary)
        return summary


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    monkeypatch.chdir(tmp_path)
    kinds = {name: type(name, (), {}) for name in ("det", "cls", "emb")}
    monkeypatch.setattr(protocols.tasks, "_local", kinds)
    monkeypatch.setattr(protocols.tasks, "_installed", {})
    (tmp_path / "good.yaml").write_text("path: x\nlabelled: {det: all}\n")
    stand = Stand()
    module = types.SimpleNamespace(train=stand.train)
    monkeypatch.setitem(sys.modules, "unified.training.run", module)  # type: ignore[arg-type]
    linter = types.SimpleNamespace(refuse_faults=lambda *words: ())
    monkeypatch.setitem(sys.modules, "unified.data.lint.linter", linter)  # type: ignore[arg-type]
    return stand


def code_of(module: Any, *words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        module.main(list(words))
    return int(caught.value.code or 0)


def test_words_become_one_configuration(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--tasks", "det,ppe:det", "--data", "good.yaml", "--size", "320", "batch=8", "lr=0.5"]
    words += ["--set", "tasks.ppe.weight=2", "mosaic=0", "--out", "here", "--quiet"]
    assert code_of(train, *words) == 0
    config = stand.call["config"]
    assert list(config.tasks) == ["det", "ppe"]
    assert config.tasks["ppe"].weight == 2
    assert (config.train.size, config.train.batch, config.train.lr) == (320, 8, 0.5)
    assert config.train.augment.mosaic == 0
    assert stand.call["out"] == Path("here")
    assert stand.call["resume"] is None
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_without_words_shapes_are_learned_for_three_tasks(stand: Stand) -> None:
    assert code_of(train, "--quiet") == 0
    config = stand.call["config"]
    assert list(config.tasks) == ["det", "cls", "emb"]
    assert list(config.data.datasets) == ["shapes"]
    assert config.model.name == "unified-n"


def test_json_stands_alone_on_standard_output(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(train, "--data", "good.yaml", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["metrics"] == {"det/AP50": 0.5}
    assert "finished after 7 steps" in captured.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--tasks", "dett"], "error: --tasks: unknown task 'dett'; known: cls, det, emb (did you mean 'det'?)"),
        (["lrr=1"], "error: --set lrr=1: unknown key 'lrr' (did you mean 'lr'?)"),
        (["--sizee", "3"], "error: No such option: --sizee"),
        (["--size", "x"], "error: Invalid value for '--size'"),
        (["--size", "0"], "error: --size 0: train.size: got 0; expected a number greater than 0"),
        (["--resume", "nowhere"], "error: --resume nowhere: no run there"),
    ],
)
def test_a_wrong_word_is_one_line_and_code_2(
    stand: Stand, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert (
        code_of(train, "--data", "good.yaml", *words) == 2 if "--resume" not in words else code_of(train, *words) == 2
    )
    captured = capsys.readouterr()
    assert captured.err.startswith(line)
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert stand.call == {}


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (CheckpointError("no checkpoint"), 2, "error: no checkpoint"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("a\nb"), 1, "internal error: ZeroDivisionError: a (run again with --debug)"),
        (OSError(errno.ENOSPC, "No space left", "/x"), 2, "error: /x cannot be written or read: No space left"),
    ],
)
def test_failures_end_in_one_line(
    stand: Stand, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    stand.error = error
    assert code_of(train, "--data", "good.yaml", "--quiet") == code
    assert capsys.readouterr().err.strip() == line


def test_debug_shows_the_traceback_and_keeps_the_code(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    for error, code in ((ZeroDivisionError("x"), 1), (UnifiedError("x"), 2)):
        stand.error = error
        assert code_of(train, "--data", "good.yaml", "--debug") == code
        told = capsys.readouterr().err
        assert "Traceback (most recent call last)" in told
        assert "in train" in told


@pytest.mark.parametrize(("signal", "code"), [(2, 130), (15, 143), (0, 0)])
def test_a_run_that_was_stopped_tells_by_what(stand: Stand, signal: int, code: int) -> None:
    """By Ctrl-C, by SIGTERM, or by the file that asks for a clean end."""
    stand.interrupted, stand.signal = True, signal
    assert code_of(train, "--data", "good.yaml", "--quiet") == code


def test_the_screen_is_given_back_after_an_error(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(Monitor, "close", lambda self: closed.append(self))
    stand.error = UnifiedError("x")
    code_of(train, "--data", "good.yaml", "--quiet")
    assert len(closed) == 1


def test_resume_reads_the_run_and_lets_only_the_machine_change(
    stand: Stand, capsys: pytest.CaptureFixture[str]
) -> None:
    from unified.contracts.document import dump_run_config

    code_of(train, "--data", "good.yaml", "--quiet", "--lr", "0.25")
    Path("run").mkdir()
    Path("run/config.yaml").write_text(dump_run_config(stand.call["config"]))
    assert code_of(train, "--resume", "run", "--device", "cpu", "--workers", "3", "--quiet") == 0
    config = stand.call["config"]
    assert (config.train.lr, config.train.device, config.train.workers) == (0.25, "cpu", 3)
    assert stand.call["resume"] == Path("run")
    capsys.readouterr()
    assert code_of(train, "--resume", "run", "--lr", "1", "--model", "unified-s", "mosaic=0") == 2
    assert "leave out --model, --lr, mosaic=0" in capsys.readouterr().err


def test_settings_and_options_are_one_language() -> None:
    words = ["size=320", "max_steps=5", "lr=1e-3", "--set", "size=3", "mosaic=0", "--tasks", "det", "--quiet"]
    expected = ["--size", "320", "--max-steps", "5", "--lr", "1e-3", *words[3:]]
    assert assignments_as_options(train.app, words) == expected
    assert assignments_as_options(train.app, ["max_minutes=null"]) == ["max_minutes=null"]  # no option takes a null


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_quick_and_whole(name: str) -> None:
    code = (
        "import sys, time; start = time.perf_counter();"
        f"from unified.cli.{name} import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules; print(time.perf_counter() - start)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(unified.__file__).parents[1]
    )
    assert run.returncode == 0, run.stderr
    text, seconds = run.stdout.rsplit("\n", 2)[:2]
    assert float(seconds) < 5  # about 0.4 s on an idle machine
    options = {
        "train": "--tasks --data --model --recipe --size --batch --epochs --max-steps --max-minutes --lr --workers"
    }
    options["train"] += " --device --seed --out --resume --dry-run --set --quiet --json --debug"
    options["eval"] = "--data --split --tasks --size --batch --limit --json --debug"
    options["predict"] = "--out --tasks --confidence --size --embeddings --json --debug"
    assert [option for option in options.get(name, "").split() if option not in text] == []


def test_eval_prints_scores(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls = {}

    def evaluate_run(run: Path, **words: Any) -> dict[str, float]:
        calls.update(words, run=run)
        return {"det/AP50": 0.25, "cls/mAP": 0.75}

    module = types.SimpleNamespace(evaluate_run=evaluate_run)
    monkeypatch.setitem(sys.modules, "unified.training.evaluator", module)  # type: ignore[arg-type]
    assert code_of(eval_command, "run", "--tasks", "det,cls", "--limit", "9", "--json") == 0
    assert all(callable(calls.pop(word)) for word in ("tell", "begin", "say"))
    assert json.loads(capsys.readouterr().out) == {"det/AP50": 0.25, "cls/mAP": 0.75}
    assert calls == {
        "run": Path("run"),
        "data": None,
        "split": "val",
        "tasks": ("det", "cls"),
        "size": None,
        "batch": None,
        "limit": 9,
        "rectangular": False,
    }
    assert code_of(eval_command, "run", "--split", "vall") == 2
    assert capsys.readouterr().err == "error: --split: unknown split 'vall'; known: train, val (did you mean 'val'?)\n"
    assert code_of(eval_command, "run") == 0
    table = capsys.readouterr().out
    assert "0.2500" in table
    assert "0.7500" in table


class FakeModel:
    def __init__(self) -> None:
        self.options: list[dict[str, Any]] = []

    def predict(self, image: Image.Image, **options: Any) -> Prediction:
        self.options.append(options)
        return Prediction(
            size=(image.height, image.width),
            boxes_xyxy=torch.tensor([[1.0, 2, 20, 22]]),
            scores=torch.tensor([0.75]),
            labels=torch.tensor([1]),
            box_names=("cat", "dog"),
            tag_scores=torch.tensor([0.9, 0.1]),
            tag_names=("indoor", "night"),
            embedding=torch.ones(4) / 2,
        )


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    monkeypatch.chdir(tmp_path)
    model = FakeModel()
    monkeypatch.setitem(vars(unified), "load", lambda folder, **words: model)
    for name in ("photos/a.png", "photos/deep/a.png", "photos/b.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(name)
    return model


def test_predict_draws_every_picture_and_writes_the_numbers(model: FakeModel) -> None:
    assert code_of(predict, "run", "photos", "--out", "drawn", "--tasks", "det", "--confidence", "0.4") == 0
    assert model.options == [{"tasks": ("det",), "confidence": 0.4}] * 3
    entries = json.loads(Path("drawn/predictions.json").read_text())
    assert sorted(p.name for p in Path("drawn").iterdir()) == ["a-2.png", "a.png", "b.jpg", "predictions.json"]
    assert entries[0]["size"] == {"width": 40, "height": 30}
    assert entries[0]["boxes"] == [{"name": "dog", "score": 0.75, "box_xyxy": [1, 2, 20, 22]}]
    assert entries[0]["tags"] == {"indoor": 0.9, "night": 0.1}
    assert entries[0]["embedding"] == 4


def test_predict_turns_pictures_upright(model: FakeModel) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by the camera
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save("turned.jpg", exif=exif)
    assert code_of(predict, "run", "turned.jpg", "--out", "drawn") == 0
    assert json.loads(Path("drawn/predictions.json").read_text())[0]["size"] == {"width": 30, "height": 40}


def test_a_damaged_picture_costs_one_line_and_code_1(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole, "JPEG")
    Path("photos/cut.jpg").write_bytes(whole.getvalue()[:900])
    Path("photos/text.jpg").write_text("no picture")
    assert code_of(predict, "run", "photos", "--out", "drawn") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: photos/") and "cannot be read as a picture" in line for line in lines)
    assert len(json.loads(Path("drawn/predictions.json").read_text())) == 3


def test_predict_never_overwrites_what_it_was_given(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("photos/b.jpg").read_bytes()
    assert code_of(predict, "run", "photos/b.jpg", "--out", "photos") == 2
    assert "would overwrite photos/b.jpg" in capsys.readouterr().err
    assert Path("photos/b.jpg").read_bytes() == before


def test_predict_twice_leaves_its_own_drawings_alone(model: FakeModel) -> None:
    for _ in range(2):
        assert code_of(predict, "run", "photos", "--out", "photos/drawn") == 0
    assert len(json.loads(Path("photos/drawn/predictions.json").read_text())) == 3


def test_predict_says_where_nothing_is(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(predict, "run", "nothing/*.jpg") == 2
    assert "no picture at 'nothing/*.jpg'" in capsys.readouterr().err


def test_whole_vectors_are_written_where_asked(model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(predict, "run", "photos/*.png", "--out", "d", "--embeddings", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["embedding"] == [0.5] * 4


def test_shapes_are_written_with_a_data_file_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from unified.contracts.document import load_data

    out = tmp_path / "shapes"
    words = ["shapes", "--out", str(out), "--train", "2", "--val", "1", "--size", "64"]
    assert code_of(data, *words) == 0
    config, base = load_data(str(out / "data.yaml"))
    dataset = config.datasets["shapes"]
    assert dataset.train is not None
    assert dataset.train.annotations is not None
    assert (base / dataset.train.annotations).is_file()
    assert len(list((base / dataset.train.images).glob("*.png"))) == 2
    capsys.readouterr()
    assert code_of(data, *words) == 2
    assert "is not empty" in capsys.readouterr().err


def test_bench_takes_ratios_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"three tasks": [2.0, 4.0, 6.0], "det only": [1.0, 4.0, 3.0], "cls only": [1.0] * 3, "emb only": [2.0] * 3}
    ratios = bench.ratios(times)
    assert ratios["three tasks / detection only"] == 2.0  # the median of 2, 1 and 2
    assert ratios["three tasks / three networks"] == pytest.approx(4 / 7)  # of 1/2, 4/7 and 1


def test_bench_runs_the_networks_in_turn() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    times = bench.interleaved(calls, 3, torch.device("cpu"))
    rounds = [sorted(order[i : i + 2]) for i in range(0, len(order), 2)]
    assert rounds == [["a", "b"]] * 5  # every round holds each once
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}
