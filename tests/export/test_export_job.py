# SPDX-License-Identifier: Apache-2.0
"""Exporting and loading again, in a format that needs no other package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import plain_exporter
import pytest
import torch
from exportable import apart, make

import unified
from unified.cli.export import main
from unified.contracts.errors import CheckpointError, ConfigError, UnifiedError
from unified.contracts.registry import RegistryError
from unified.export import job as jobs
from unified.export.accuracy import Score, Watch
from unified.export.job import Job, export
from unified.inference.results import Result

TASKS = ("det", "cls", "emb")
LOW = {"confidence": 0.002}  # nothing has been learned


@pytest.fixture(autouse=True)
def plain() -> None:
    plain_exporter.register()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("exported") / "run")


@pytest.fixture(scope="module")
def model(run: Path) -> unified.UnifiedModel:
    return unified.load(run, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def made(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported once; copy it before changing it."""
    plain_exporter.register()
    return export(Job(run, tmp_path_factory.mktemp("made") / "out", "plain")).folder


def picture(seed: int, height: int = 50, width: int = 90) -> np.ndarray[Any, Any]:
    small = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return small.repeat(8, axis=0).repeat(8, axis=1)[:height, :width].copy()


def alike(a: Result, b: Result) -> bool:
    return apart(a, b) < 1e-3


def subsets() -> Iterator[tuple[str, ...]]:
    return chain.from_iterable(combinations(TASKS, n) for n in (1, 2, 3))


@pytest.mark.parametrize("tasks", list(subsets()), ids="-".join)
def test_every_subset_of_tasks_answers_like_the_network(
    tasks: tuple[str, ...], run: Path, model: unified.UnifiedModel, tmp_path: Path
) -> None:
    made = export(Job(run, tmp_path / "out", "plain", tasks))
    opened = unified.load(made.folder)
    assert opened.tasks == tasks and made.parity.passed
    assert {row.output.partition("_")[0] for row in made.parity.rows} == set(tasks)
    for seed in range(3):
        said = opened.predict(picture(seed), **LOW)
        assert isinstance(said, Result)
        assert alike(said, model.predict(picture(seed), tasks=tasks, **LOW))


@pytest.mark.parametrize(("decode", "suppress"), [(False, False), (True, False), (True, True)])
def test_wherever_boxes_are_decoded_the_results_are_the_same(
    decode: bool, suppress: bool, run: Path, model: unified.UnifiedModel, tmp_path: Path
) -> None:
    rules = {"confidence": 0.001} if suppress else {}
    export(Job(run, tmp_path / "out", "plain", decode=decode, suppress=suppress, rules=rules))
    opened = unified.load(tmp_path / "out")
    pictures = [picture(seed, 40 + 9 * seed, 90 - 7 * seed) for seed in range(4)]
    mine, theirs = model.predict(pictures, **LOW), opened.predict(pictures, batch_size=3, **LOW)
    assert any(len(said.boxes or ()) > 1 for said in mine)
    assert all(alike(a, b) for a, b in zip(mine, theirs, strict=True))
    where = [torch.tensor([[5.0, 5.0, 30.0, 40.0]])] * 4
    for level, more in (("image", {}), ("box", {"boxes": where})):
        a, b = (m.encode(pictures, level, **more) for m in (model, opened))  # type: ignore[arg-type]
        assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(a, b, strict=True))


def test_a_file_has_the_words_and_the_space_of_its_network(
    made: Path, run: Path, model: unified.UnifiedModel, tmp_path: Path
) -> None:
    opened = unified.load(made)
    assert opened.space == model.space and opened.space is not None
    assert opened.size == model.size and opened.trained.vocabulary == model.trained.vocabulary
    with pytest.raises(ConfigError, match="--size 96"):
        opened.space_at(96)
    export(Job(run, tmp_path / "larger", "plain", size=96))
    assert unified.load(tmp_path / "larger").space == model.space_at(96)
    assert unified.load(made, tasks=["cls"]).tasks == ("cls",)
    with pytest.raises(ConfigError, match="no task 'seg'"):
        unified.load(made, tasks=["seg"])
    with pytest.raises(ConfigError, match="no multiple"):
        opened.predict(picture(0), size=70)


@pytest.mark.parametrize("precision", ["auto", "bf16", "fp32"])
def test_a_file_keeps_its_own_precision_and_takes_a_devices_word(precision: str, made: Path) -> None:
    opened = unified.load(made, device="cpu", precision=precision)
    assert opened.hardware.dtype is None
    expected = unified.load(made, device="cpu", precision="fp32").predict(picture(0), **LOW)
    assert alike(opened.predict(picture(0), **LOW), expected)
    with pytest.raises(ConfigError, match="device 'tpu' is not available"):
        unified.load(made, device="tpu")
    with pytest.raises(ConfigError, match=r"unknown precision 'fp8'; known: .*fp16"):
        unified.load(made, precision="fp8")


def test_a_file_answers_every_call_of_a_model(made: Path, model: unified.UnifiedModel) -> None:
    opened = unified.load(made, fuse=True)  # there is nothing left to fuse
    pictures = [picture(seed) for seed in range(5)]
    streamed = opened.predict(pictures, stream=True, batch_size=2, **LOW)
    assert not isinstance(streamed, list)
    pairs = list(zip(streamed, model.predict(pictures, **LOW), strict=True))
    assert all(type(a) is type(b) is Result and alike(a, b) for a, b in pairs)
    found, known = (m.encode(pictures, "box", **LOW) for m in (opened, model))
    assert sum(map(len, found)) > 5 and [len(x) for x in found] == [len(x) for x in known]
    vectors = torch.as_tensor(opened.encode(pictures, truncate_dim=4, precision="int8"))
    assert vectors.shape == (5, 4) and opened.similarity(vectors, vectors).diagonal().allclose(torch.ones(5))
    assert opened.warmup() > 0 and json.dumps(opened.predict(pictures[0]).to_dict())


def test_threads_share_it(made: Path) -> None:
    opened = unified.load(made)
    alone = [opened.predict(picture(seed), **LOW) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: opened.predict(picture(seed), **LOW), range(6)))
    assert all(alike(a, b) for a, b in zip(alone, together, strict=True))


def test_what_the_graph_has_left_out_cannot_be_asked_for(run: Path, tmp_path: Path) -> None:
    rules = {"confidence": 0.1, "nms_iou": 0.5, "max_boxes": 20}
    export(Job(run, tmp_path / "out", "plain", suppress=True, rules=rules))
    opened = unified.load(tmp_path / "out")
    for options in ({"confidence": 0.05}, {"nms_iou": 0.7}, {"max_boxes": 30}):
        with pytest.raises(ConfigError, match=f"{next(iter(options))} .* cannot be had"):
            opened.predict(picture(0), **options)
    opened.predict(picture(0), confidence=0.2, nms_iou=0.4, max_boxes=10)


def test_a_file_that_answers_otherwise_is_not_kept(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is off by .* nothing was written"):
        export(Job(run, tmp_path / "out", "lying"))
    assert list(tmp_path.iterdir()) == []
    made = export(Job(run, tmp_path / "out", "lying", tolerance=0.1))
    assert made.parity.passed and made.parity.worst.difference == pytest.approx(0.01, rel=0.01)
    report = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert report["passed"] and {row["output"] for row in report["rows"]} == {row.output for row in made.parity.rows}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data file of a few scenes."""
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "shapes.yaml"
    file.write_text(
        "format: shapes\nlabelled: {det: all}\noptions: {level: easy, train: 4, val: 20, seed: 0, size: 64}\n"
    )
    return file


def test_eight_bits_that_nothing_scores_are_not_kept(run: Path, small: Path, tmp_path: Path) -> None:
    """The data's shapes are none of the network's classes."""
    job = Job(run, tmp_path / "out", "plain", ("det",), "int8", calibrate=str(small), samples=3)
    with pytest.raises(ConfigError, match=r"scores none of det, so nothing says what INT8 costs; .* --scored 0"):
        export(job)
    assert not (tmp_path / "out").exists()
    assert export(replace(job, scored=0)).scores == ()


def test_eight_bits_are_kept_only_if_their_scores_are(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path / "run", tasks="det", boxes=("disc", "ring", "square"))
    words: dict[str, Any] = {"precision": "int8", "calibrate": str(small), "samples": 3}
    lost = Score("det/AP", before=0.60, after=0.58, drop=0.02, images=20)
    with monkeypatch.context() as patched:
        patched.setattr(jobs, "scores", lambda *_: (lost,))
        with pytest.raises(CheckpointError, match=r"det/AP falls from 0\.6000 to 0\.5800, at most 0\.01 is allowed"):
            export(Job(run, tmp_path / "out", "plain", **words))
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*out*"))
        export(Job(run, tmp_path / "out", "plain", drop=0.03, **words))
    report = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert report["scores"] == [asdict(lost)] and report["tolerance"] is None
    heard: list[int] = []
    made = export(Job(run, tmp_path / "true", "plain", **words), watch=Watch(heard.append, heard.append))
    assert made.scores[0].name == "det/AP" and made.scores[0].drop == 0 and made.scores[0].images == 20
    assert heard[0] == sum(heard[1:]) == 4  # two batches of at most 16 pictures, twice


def test_nothing_is_left_when_writing_breaks(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, blueprint: Any, file: Path) -> None:
        file.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plain_exporter.PlainExporter, "write", broken)
    with pytest.raises(CheckpointError, match="No space left"):
        export(Job(run, tmp_path / "out", "plain"))
    assert list(tmp_path.iterdir()) == []


BAD: tuple[tuple[dict[str, Any], str], ...] = (
    ({"form": "onxx"}, "unknown exporter 'onxx'.*did you mean 'onnx'"),
    ({"precision": "fp16"}, "cannot hold precision 'fp16'"),
    ({"precision": "int8"}, "--calibrate"),
    ({"tasks": ("seg",)}, "no task 'seg'"),
    ({"size": 65}, "no multiple"),
    ({"decode": False, "suppress": True}, "--decode outside"),
    ({"form": "torchscript", "suppress": True}, "--nms outside"),
    ({"run": Path("nowhere")}, "does not exist"),
)


@pytest.mark.parametrize(("change", "message"), BAD, ids=[m for _, m in BAD])
def test_a_wrong_word_is_one_line_and_leaves_nothing(
    change: dict[str, Any], message: str, run: Path, tmp_path: Path
) -> None:
    words = {"run": run, "out": tmp_path / "out", "form": "plain", **change}
    with pytest.raises(UnifiedError, match=message) as caught:
        export(Job(**words))
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_not_touched(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="is there already"):
        export(Job(run, tmp_path / "out", "plain"))
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


def damaged(folder: Path, change: Any) -> None:
    file = folder / "unified.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


DAMAGES: tuple[tuple[Any, str], ...] = (
    (lambda c: c.update(format=99), "format 99"),
    (lambda c: c.pop("outlets"), "does not say"),
    (lambda c: c["outlets"][0].update(ending="new"), "unknown ending 'new'"),
    (lambda c: c["files"].update({"../../etc/passwd": "0"}), "does not say"),
    (lambda c: c["files"].update({"model.plain": "0" * 64}), "SHA-256"),
    (lambda c: c.update(exporter="gone"), "unknown exporter 'gone'"),
)


@pytest.mark.parametrize(("change", "message"), DAMAGES, ids=[m for _, m in DAMAGES])
def test_a_damaged_description_is_one_line(change: Any, message: str, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "out")
    damaged(tmp_path / "out", change)
    with pytest.raises((CheckpointError, RegistryError), match=message) as caught:
        unified.load(tmp_path / "out").predict(picture(0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["out", "out/model.plain"])
def test_a_file_without_its_description_says_what_is_missing(name: str, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "out")
    (tmp_path / "out" / "unified.json").unlink()
    with pytest.raises(CheckpointError, match=r"unified\.json, which says .* is not beside it"):
        unified.load(tmp_path / name)


def test_what_needs_weights_is_refused_in_one_line(made: Path, tmp_path: Path) -> None:
    opened = unified.load(made)
    with pytest.raises(CheckpointError, match="exported file"):
        opened.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again").exists()
    with pytest.raises(CheckpointError, match="exported file"):
        _ = opened.network.backbone
    assert not hasattr(opened.network, "bank")
    with pytest.raises(ConfigError, match="exported file already"):
        export(Job(made, tmp_path / "twice", "plain"))


def test_loading_draws_nothing_from_the_random_numbers(made: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    unified.load(made)
    assert torch.equal(torch.rand(1), expected)


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_the_command_says_what_it_made(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    words = (str(run), "--format", "plain", "--out", out, "--tasks", "det,cls", "--nms", "inside", "--conf", "0.1")
    code, said, _ = command(capsys, *words, "--json")
    told = json.loads(said)
    assert code == 0 and told["parity"]["passed"] and told["folder"] == out and told["bytes"] > 0
    about = json.loads((tmp_path / "out" / "unified.json").read_text())
    assert about["outlets"][0]["facts"]["rule"]["confidence"] == 0.1
    code, said, _ = command(capsys, str(run), "--format", "plain", "--out", str(tmp_path / "more"), "--tasks", "cls")
    assert code == 0 and "cls_scores" in said and "unified-predict" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--nms", "within"), "unknown word 'within'"),
        (("--precision", "fp8"), "unknown word 'fp8'"),
        (("--max-boxes", "5"), "only with --nms inside"),
        (("--format", "lying"), "is off by"),
        (("--precision", "int8", "--calibrate", "nothing-here"), "nothing-here"),
    ],
)
def test_a_wrong_option_costs_one_line(
    words: tuple[str, ...], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    form = () if "--format" in words else ("--format", "plain")
    code, said, error = command(capsys, str(run), "--out", str(tmp_path / "out"), *form, *words, "--json")
    assert code == 2 and not said and message in error and len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
