# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from unified.contracts.structures import Annotations, Batch, Frame, LossTerm
from unified.hardware import Hardware
from unified.training.conflict import (
    WHOLE,
    ConflictMeter,
    agreement,
    auto_every,
    gram,
    make_meter,
    read_lines,
    stage_gradients,
    trunk_stages,
)
from unified.training.conflictmap import conflict_figure, conflict_plot
from unified.training.folder import RunFolder
from unified.training.joint import JointModel
from unified.training.probe import chosen, draw_probe
from unified.training.run import open_splits, train

ROOT = Path(__file__).resolve().parent.parent.parent
CPU = Hardware(torch.device("cpu"), "fp32")


class Pull(nn.Module):
    """A task whose loss is the mean inner product of the features with a fixed direction."""

    def __init__(self, direction: Tensor) -> None:
        super().__init__()
        self.register_buffer("direction", direction)

    def loss(self, output: Tensor, batch: Batch) -> dict[str, LossTerm]:
        return {"pull": LossTerm((output @ self.direction).sum(), torch.tensor(float(len(output))))}


class Linear(nn.Module):
    """A trunk of two linear maps, whose features every task reads as they are."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(12, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU())
        self.neck = nn.Linear(4, 2, bias=False)
        self.tasks = tasks

    def forward(self, images: Tensor, tasks: tuple[str, ...]) -> dict[str, Tensor]:
        features = self.neck(self.backbone(images.flatten(1).float()))
        return dict.fromkeys(tasks, features)


def pulling(**degrees: float) -> JointModel:
    directions = {
        name: torch.tensor([math.cos(math.radians(a)), math.sin(math.radians(a))]) for name, a in degrees.items()
    }
    tasks = nn.ModuleDict({name: Pull(direction) for name, direction in directions.items()})
    return JointModel(Linear(tuple(degrees)), tasks)  # type: ignore[arg-type]


def batch(images: Tensor, tasks: tuple[str, ...], dataset: str = "a") -> Batch:
    many = len(images)
    return Batch(images, (Annotations(),) * many, (Frame("x", (2, 2)),) * many, dataset, tasks)


def pictures(many: int, seed: int = 0) -> Tensor:
    return torch.rand(many, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


class Rank:
    """One of several ranks, whose sums are the test's to add up."""

    device, is_main_process = torch.device("cpu"), True

    def __init__(self, index: int = 0, world: int = 1) -> None:
        self.process_index, self.num_processes = index, world

    def reduce(self, tensor: Tensor, how: str) -> Tensor:
        return tensor


def meter(folder: Path, probe: list[Batch], rank: Rank | None = None) -> ConflictMeter:
    return ConflictMeter(probe, 1, RunFolder(folder), rank or Rank(), CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize("degrees", [0, 45, 90, 135, 180])
def test_a_known_angle_is_found_in_every_gradient(tmp_path: Path, degrees: float) -> None:
    """The last layer's gradient is direction x features, so two tasks' gradients stand at their directions' angle."""
    probe = [batch(pictures(6, seed), ("a", "b")) for seed in (1, 2)]
    record = meter(tmp_path, probe).look(pulling(a=0, b=degrees), step=3)
    at = record.stages.index("neck")
    assert record.cosine["a~b"][at] == pytest.approx(math.cos(math.radians(degrees)), abs=1e-6)
    assert record.norm["a"][at] == pytest.approx(record.norm["b"][at], rel=1e-5)
    assert record.shared == {"a~b": True}
    assert record.stages[-1] == WHOLE


def test_the_whole_trunk_is_the_sum_of_its_stages() -> None:
    w = nn.Parameter(torch.zeros(2))
    v = nn.Parameter(torch.zeros(3))
    stages = {"first": [w], "second": [v]}
    a = stage_gradients(3 * w[0] + 4 * v[1], stages)
    b = stage_gradients(2 * w[0] - 1 * v[1], stages)
    found = gram({("a", "d"): a, ("b", "d"): b})
    key = (("a", "d"), ("b", "d"))
    assert (found["first"][key], found["second"][key], found[WHOLE][key]) == (6, -4, 2)
    assert w.grad is None and v.grad is None


def test_different_pictures_confound_a_task_with_itself(tmp_path: Path) -> None:
    """The control: one question, asked twice. On the same pictures the cosine is 1, on others far from it."""
    torch.manual_seed(1)
    same = meter(tmp_path, [batch(pictures(2, 1), ("a", "b"))]).look(pulling(a=30, b=30), 1)
    assert same.cosine["a~b"] == pytest.approx([1.0] * len(same.stages))
    apart = [batch(pictures(2, 1), ("a",), "one"), batch(pictures(2, 2), ("b",), "two")]
    torch.manual_seed(1)
    other = meter(tmp_path, apart).look(pulling(a=30, b=30), 1)
    assert other.shared == {"a~b": False}
    assert abs(other.cosine["a~b"][0]) < 0.9


def test_only_pictures_that_serve_both_tasks_are_compared(tmp_path: Path) -> None:
    alone = batch(pictures(4, 9), ("b",), "two")
    both = [batch(pictures(4, 1), ("a", "b"), "one")]
    torch.manual_seed(3)
    plain = meter(tmp_path, both).look(pulling(a=0, b=60), 1)
    torch.manual_seed(3)
    mixed = meter(tmp_path, [*both, alone]).look(pulling(a=0, b=60), 1)
    assert mixed.cosine["a~b"] == pytest.approx(plain.cosine["a~b"], abs=1e-6)
    assert mixed.norm["b"] != pytest.approx(plain.norm["b"])


def test_a_frozen_trunk_and_a_loss_of_nothing_have_no_direction(tmp_path: Path) -> None:
    frozen = pulling(a=0, b=60)
    frozen.requires_grad_(False)
    record = meter(tmp_path, [batch(pictures(4), ("a", "b"))]).look(frozen, 1)
    assert record.stages == (WHOLE,) and record.cosine["a~b"] == (None,)
    w = nn.Parameter(torch.ones(2))
    assert stage_gradients(torch.tensor(3.0), {"s": [w]})["s"].tolist() == [0.0, 0.0]


def test_agreement_by_hand() -> None:
    """(3, 4) and (3, -4): inner product 9 - 16 = -7, squared lengths 25 each."""
    assert agreement(36.0, 50.0, 2) == pytest.approx(-7 / 25)
    assert agreement(4 * 25.0, 50.0, 2) == pytest.approx(1.0)
    assert agreement(25.0, 25.0, 1) is None
    assert agreement(0.0, 0.0, 2) is None


def test_ranks_share_the_batches_and_see_what_one_process_sees(tmp_path: Path) -> None:
    probe = [batch(pictures(5, seed), ("a", "b"), name) for seed, name in ((1, "one"), (2, "one"), (3, "two"))]
    torch.manual_seed(0)
    model = pulling(a=10, b=100)
    whole = meter(tmp_path, probe)._gathered(model, {})
    parts = [meter(tmp_path, probe, Rank(k, 2))._gathered(model, {}) for k in (0, 1)]
    for key, one in whole.items():
        for stage, total in one.total.items():
            torch.testing.assert_close(parts[0][key].total[stage] + parts[1][key].total[stage], total)
            assert sum(part[key].squares[stage] for part in parts) == pytest.approx(one.squares[stage], rel=1e-5)


def test_a_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = pulling(a=0, b=120).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dice = torch.get_rng_state()
    meter(tmp_path, [batch(pictures(6), ("a", "b"))]).look(model, 1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(dice, torch.get_rng_state())


def test_the_automatic_interval_holds_the_bound() -> None:
    """Three tasks on 16 images: 7 passes of 16 against 3 of 8, 4 2/3 steps; twice that, over 2 %."""
    assert auto_every(3, 16, 8) == math.ceil(2 * (16 * 7) / (3 * 8) / 0.02) == 467
    assert auto_every(2, 16, 64) < auto_every(3, 16, 64) < auto_every(3, 16, 8)


@pytest.mark.parametrize(
    ("serves", "expected"),
    [
        ({"x": ("a",), "y": ("a", "b", "c"), "z": ("b",)}, {"y": ("a", "b", "c")}),
        ({"x": ("a", "b"), "y": ("b", "c")}, {"x": ("a", "b"), "y": ("b", "c")}),
        ({"x": ("a",), "y": ("b",)}, {"x": ("a",), "y": ("b",)}),
        ({"x": ("a", "b"), "y": ("c",), "z": ("a",)}, {"x": ("a", "b"), "y": ("c",)}),
    ],
)
def test_the_probe_asks_few_datasets_and_misses_no_task(serves: Any, expected: Any) -> None:
    assert chosen(serves) == expected


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same six steps without and with a look at every second one."""
    folder = tmp_path_factory.mktemp("conflict")
    tiny.cache_at(folder)
    for name, every in (("off", "null"), ("on", "2")):
        config, base = tiny.config(folder, f"train.diagnostics.every={every}")
        train(config, base, out=folder / name)
    return folder


def test_training_is_bit_identical_with_and_without(runs: Path) -> None:
    off, on = (RunFolder.open(runs / name) for name in ("off", "on"))
    told = [[json.loads(line) for line in (f.path / "log.jsonl").read_text().splitlines()] for f in (off, on)]
    losses = [[line.get("losses") or line.get("metrics") for line in lines] for lines in told]
    assert losses[0] == losses[1]
    before, after = off.load("last").tensors, on.load("last").tensors
    assert before.keys() == after.keys()
    for part in before:
        assert all(torch.equal(before[part][name], value) for name, value in after[part].items()), part
    assert [line["step"] for line in read_lines(on.path / "conflict.jsonl")] == [2, 4, 6]
    assert not (off.path / "conflict.jsonl").exists()


def test_what_is_written_can_be_drawn(runs: Path) -> None:
    found = conflict_figure(runs / "on")
    assert found is not None
    assert found.steps == (2, 4, 6)
    assert found.pairs == (("det", "cls"), ("det", "emb"), ("cls", "emb"))
    assert found.stages[0] == "stem" and found.stages[-2:] == ("neck", WHOLE)
    assert all(len(table) == len(found.stages) and len(table[0]) == 3 for table in (*found.cosine, *found.ratio))
    signs = [value < 0 for value in found.cosine[0][0] if value is not None]
    assert found.conflicting[0][0] == pytest.approx(sum(signs) / 3)
    assert found.conflicting_until(0, 0)[-1] == found.conflicting[0][0]
    picture = conflict_plot(runs / "on")
    assert picture is not None and picture.stat().st_size > 5000
    assert conflict_figure(runs / "off") is None and conflict_plot(runs / "off") is None


def test_lines_beyond_a_resumed_step_are_dropped(runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "conflict.jsonl"
    path.write_text((runs / "on" / "conflict.jsonl").read_text() + '{"step": 8, "cos')
    meter(tmp_path, []).trim(4)
    assert [line["step"] for line in read_lines(path)] == [2, 4]


def test_the_probe_is_drawn_once_and_for_all(runs: Path) -> None:
    config, base = tiny.config(runs)
    mixture = open_splits(config, base).train
    first, again = (draw_probe(mixture, 2, 4, seed=5) for _ in range(2))
    assert [len(each) for each in first] == [4, 4]
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].images, draw_probe(mixture, 2, 4, seed=6)[0].images)
    assert first[0].tasks == ("det", "cls", "emb")
    shown = [frame.image_id for each in first for frame in each.frames]
    assert len(set(shown)) == 8


def test_one_task_has_nobody_to_differ_from(runs: Path, tmp_path: Path) -> None:
    config, base = tiny.config(runs, "train.diagnostics.every=auto", tasks=("cls",))
    assert make_meter(config, open_splits(config, base).train, RunFolder(tmp_path), Rank(), CPU) is None  # type: ignore


def test_stages_of_a_wrapped_trunk_are_those_inside() -> None:
    inner = nn.Module()
    inner.stem, inner.layers = nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    backbone = nn.Module()
    backbone.body = inner
    found = trunk_stages(SimpleNamespace(backbone=backbone, neck=nn.Identity()))  # type: ignore[arg-type]
    assert list(found) == ["stem", "layers.0", "layers.1"]


RANK = """
import sys
from pathlib import Path
import unified
import torch
sys.path.insert(0, sys.argv[3])
import tiny
from accelerate import Accelerator
from unified.hardware import Hardware
from unified.model.build import assemble
from unified.training.conflict import make_meter
from unified.training.folder import RunFolder
from unified.training.joint import JointModel
from unified.training.run import open_splits

place, out = Path(sys.argv[1]), Path(sys.argv[2])
out.mkdir(exist_ok=True)
tiny.cache_at(place)
config, base = tiny.config(place, "train.diagnostics.every=1", "train.diagnostics.batches=3")
mixture = open_splits(config, base).train
accelerator = Accelerator(cpu=True)
torch.manual_seed(0)
parts = assemble(config.model, config.tasks, mixture.vocabulary)
meter = make_meter(config, mixture, RunFolder(out), accelerator, Hardware(accelerator.device, "fp32"))
meter.look(JointModel(parts.network, parts.tasks), 1)
"""


@pytest.mark.slow
def test_two_processes_measure_what_one_does(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = [str(tmp_path / "rank.py"), str(runs)]
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    for name, command in (("one", [sys.executable]), ("two", two)):
        whole = [*command, *words, str(tmp_path / name), str(ROOT / "tests")]
        done = subprocess.run(whole, capture_output=True, text=True, timeout=240, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
    one, both = (read_lines(tmp_path / name / "conflict.jsonl") for name in ("one", "two"))
    assert len(one) == len(both) == 1
    for key in ("cosine", "agreement", "norm"):
        for name, row in one[0][key].items():
            assert both[0][key][name] == pytest.approx(row, abs=1e-5, rel=1e-5)


def test_a_batch_counts_by_the_images_it_labels(tmp_path: Path) -> None:
    """The mean over batches: one batch twice is that batch once."""
    one = batch(pictures(4), ("a", "b"))
    torch.manual_seed(2)
    single = meter(tmp_path, [one]).look(pulling(a=0, b=90), 1)
    torch.manual_seed(2)
    double = meter(tmp_path, [one, replace(one)]).look(pulling(a=0, b=90), 1)
    assert double.norm["a"] == pytest.approx(single.norm["a"], rel=1e-5)
    assert double.agreement["a"] == pytest.approx([1.0] * len(double.stages), abs=1e-5)
    assert single.agreement["a"] == (None,) * len(single.stages)
