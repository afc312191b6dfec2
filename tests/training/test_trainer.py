# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

import unified
from unified.contracts.config import TrainConfig
from unified.contracts.errors import CheckpointError
from unified.contracts.structures import Batch, LossTerm
from unified.data.loader import EvalLoader
from unified.model.build import assemble
from unified.training.balance import FixedWeights, normalised
from unified.training.course import Course
from unified.training.ema import MovingAverage
from unified.training.evaluator import Evaluation
from unified.training.folder import RunFolder
from unified.training.joint import JointModel
from unified.training.monitor import EvaluationRecord, Monitor, Plan, RunSummary, StepRecord
from unified.training.run import make_accelerator, open_splits, planned_steps, train
from unified.training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent.parent
QUIET = ("evaluate_every=0.5",)


class Ear(Monitor):
    """Remembers what it was told; asks for a stop as Ctrl-C would."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.plans: list[Plan] = []
        self.steps: list[StepRecord] = []
        self.evaluations: list[EvaluationRecord] = []
        self.messages: list[str] = []
        self.ends: list[RunSummary] = []

    def start(self, plan: Plan) -> None:
        self.plans.append(plan)

    def step(self, record: StepRecord) -> None:
        self.steps.append(record)

    def evaluation(self, record: EvaluationRecord) -> None:
        self.evaluations.append(record)
        if record.step == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    def message(self, text: str) -> None:
        self.messages.append(text)

    def end(self, summary: RunSummary) -> None:
        self.ends.append(summary)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trainer")
    tiny.cache_at(folder)
    return folder


@pytest.fixture(scope="module")
def whole(place: Path) -> tuple[Path, Ear]:
    """An uninterrupted run of six steps."""
    config, base = tiny.config(place, *QUIET)
    ear = Ear()
    with tiny.drawn():
        train(config, base, out=place / "whole", monitor=ear)
    return place / "whole", ear


def test_a_run_leaves_its_whole_story(whole: tuple[Path, Ear]) -> None:
    folder, ear = whole
    config = RunFolder.open(folder).read_config()
    assert (list(config.tasks), config.train.max_steps) == (["det", "cls", "emb"], 6)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"det/AP", "det/AP50", "cls/mAP", "emb/R@1"} <= set(metrics)
    assert all(0 <= metrics[name] <= 1 for name in ("det/AP", "cls/mAP", "emb/R@1"))
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "metrics" in line] == [3, 6]
    assert lines[-1]["metrics"] == metrics
    folders = {p.name for p in (folder / "checkpoints").iterdir()}
    assert {"best", "last", "step-00000006"} <= folders <= {"best", "last", "step-00000006", "step-00000003"}
    assert RunFolder.open(folder).load("last").state["progress"]["step"] == 6
    best = max((record.step for record in ear.evaluations if record.best), default=0)
    assert RunFolder.open(folder).load("best").state["progress"]["step"] == best
    assert any((folder / "plots").iterdir())
    assert not list(folder.rglob(".new-*"))


def test_whoever_watches_is_told_everything(whole: tuple[Path, Ear]) -> None:
    folder, ear = whole
    assert [record.step for record in ear.steps] == [1]  # the first and every tenth
    assert {"det", "cls", "emb"} <= set(ear.steps[0].losses)
    assert all(math.isfinite(v) for record in ear.steps for v in record.losses.values())
    assert [(r.step, r.images) for r in ear.evaluations] == [(3, 8), (6, 8)]
    assert ear.evaluations[0].best
    assert (ear.plans[0].steps, ear.plans[0].batch, ear.plans[0].size) == (6, 8, 96)
    assert ear.plans[0].datasets["shapes"].images == 24
    assert (ear.ends[0].steps, ear.ends[0].interrupted, ear.ends[0].folder) == (6, False, folder)
    assert ear.messages == []


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_run_goes_on_to_the_same_weights(place: Path, whole: tuple[Path, Ear], optimizer: str) -> None:
    """fp32 on a CPU: bit for bit, the optimizer's moments and the moving average included.

    The stop comes while step 3 is being evaluated, so that its checkpoint is written twice.
    """
    config, base = tiny.config(place, *QUIET, f"optimizer={optimizer}")
    if optimizer != "adamw":
        whole = place / f"whole-{optimizer}", Ear()
        train(config, base, out=whole[0])
    out, ear = place / f"stopped-{optimizer}", Ear(stop_at=3)
    summary = train(config, base, out=out, monitor=ear)
    assert (summary.steps, summary.interrupted) == (3, True)
    assert [message.startswith("stopping after this step") for message in ear.messages] == [True]
    assert RunFolder.open(out).load("last").state["progress"]["step"] == 3
    torch.manual_seed(999)  # a new process knows nothing of the old one's generator
    again = Ear()
    summary = train(RunFolder.open(out).read_config(), base, resume=out, monitor=again)
    assert (summary.steps, summary.interrupted) == (6, False)
    assert [record.step for record in again.evaluations] == [6]
    mine, theirs = (RunFolder.open(folder).load("last") for folder in (out, whole[0]))
    assert mine.tensors.keys() == theirs.tensors.keys() == {"ema", "model", "optimizer", "random"}
    different = [
        f"{part}/{name}"
        for part, tensors in theirs.tensors.items()
        for name, tensor in tensors.items()
        if not torch.equal(tensor, mine.tensors[part][name])
    ]
    assert different == []
    assert json.loads((out / "metrics.json").read_text()) == json.loads((whole[0] / "metrics.json").read_text())


def test_a_finished_run_resumed_stays_as_it_is(whole: tuple[Path, Ear]) -> None:
    folder, _ = whole
    files = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.stem != "report"}
    summary = train(RunFolder.open(folder).read_config(), folder, resume=folder)
    assert summary.steps == 6
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.stem != "report"} == files


def test_a_folder_that_holds_a_run_is_not_taken(place: Path, whole: tuple[Path, Ear]) -> None:
    config, base = tiny.config(place, *QUIET)
    before = (whole[0] / "config.yaml").read_bytes()
    with pytest.raises(CheckpointError, match=r"already holds a run; give another --out, or --resume"):
        train(config, base, out=whole[0])
    assert (whole[0] / "config.yaml").read_bytes() == before


def test_a_run_without_a_checkpoint_cannot_go_on(place: Path, whole: tuple[Path, Ear]) -> None:
    folder = RunFolder.create(place / "fresh", "m")
    folder.write_config(RunFolder.open(whole[0]).read_config())
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        train(folder.read_config(), place, resume=folder.path)


def test_a_checkpoint_of_another_configuration_is_not_resumed(place: Path, whole: tuple[Path, Ear]) -> None:
    config = RunFolder.open(whole[0]).read_config()
    options = {**config.model.backbone.options, "channels": [8, 8, 16, 16, 24]}
    model = config.model.model_copy(update={"backbone": config.model.backbone.model_copy(update={"options": options})})
    other = config.model_copy(update={"model": model})
    with pytest.raises(CheckpointError, match=r"not the run that was begun: model.backbone.options.channels: \[8, 8"):
        train(other, place, resume=whole[0])
    with pytest.raises(CheckpointError, match="is a checkpoint of another configuration"):
        train(other, place, resume=whole[0], force=True)


def test_a_batch_that_cannot_be_shared_leaves_no_folder(place: Path) -> None:
    config, base = tiny.config(place, *QUIET, "accumulate=3")
    with pytest.raises(unified.UnifiedError, match="batch 8 cannot be shared by 3 accumulation steps"):
        train(config, base, out=place / "odd")
    assert not (place / "odd").exists()


class Bench:
    """A trainer on its own, and batches to feed it."""

    def __init__(self, place: Path, out: str, *overrides: str, tasks: tuple[str, ...] = ("det", "cls", "emb")) -> None:
        config, base = tiny.config(place, *QUIET, *overrides, tasks=tasks)
        splits = open_splits(config, base)
        accelerator, hardware = make_accelerator(config)
        torch.manual_seed(0)
        parts = assemble(config.model, config.tasks, splits.train.vocabulary)
        self.model = JointModel(parts.network, parts.tasks)
        self.trainer = Trainer(
            self.model,
            config,
            RunFolder(place / out),
            accelerator,
            hardware,
            course=Course(config.train, splits.train.images),
            balancer=FixedWeights({}),
            validate=lambda network: Evaluation(),
            describe={},
            monitor=Monitor(),
        )
        self.batches = list(EvalLoader(splits.train, batch=8, size=96, workers=0))

    def step(self, *batches: Batch) -> None:
        self.trainer._step(iter(batches))

    def weights(self, task: str) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self.model.parameters_of(task)]

    def trunk(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self.model.network.backbone.parameters()]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_task_without_a_turn_keeps_its_weights_bit_for_bit(place: Path, optimizer: str) -> None:
    """Also when its moments would push it on, and although its weights decay."""
    bench = Bench(place, "turns", f"optimizer={optimizer}", "warmup=0", "weight_decay=0.5")
    everything = replace(bench.batches[0], tasks=("det", "cls", "emb"))
    bench.step(everything)
    before = {task: bench.weights(task) for task in ("det", "cls", "emb")}, bench.trunk()
    bench.step(replace(bench.batches[1], tasks=("det",)))
    assert {t for t in before[0] if not equal(before[0][t], bench.weights(t))} == {"det"}
    assert not equal(before[1], bench.trunk())
    before = {task: bench.weights(task) for task in ("det", "cls", "emb")}, bench.trunk()
    bench.step(everything)
    assert {t for t in before[0] if not equal(before[0][t], bench.weights(t))} == {"det", "cls", "emb"}


def part(batch: Batch, rows: slice) -> Batch:
    return replace(batch, images=batch.images[rows], annotations=batch.annotations[rows], frames=batch.frames[rows])


def test_two_half_batches_step_as_one_whole(place: Path) -> None:
    """Exact where each image counts the same and batch norms stand still."""
    settings = ("optimizer=sgd", "train.momentum=0", "clip=0", "warmup=0", "weight_decay=0", "lr=1")
    found = []
    for out, count in (("acc1", 1), ("acc2", 2)):
        bench = Bench(place, out, *settings, f"accumulate={count}", tasks=("cls",))
        start = bench.weights("cls") + bench.trunk()
        bench.model.eval()
        images = replace(bench.batches[0], tasks=("cls",))
        bench.step(*(part(images, slice(k, k + 8 // count)) for k in range(0, 8, 8 // count)))
        found.append(bench.weights("cls") + bench.trunk())
    a, b = found
    assert not equal(a, start)
    moved = [(x - s, y - s) for x, y, s in zip(a, b, start, strict=True)]
    assert all(torch.allclose(x, y, rtol=1e-3, atol=1e-6) for x, y in moved)


def test_losses_fall_on_eight_images(place: Path) -> None:
    bench = Bench(place, "overfit", "lr=5e-3", "warmup=0", "epochs=1000", "max_steps=60", "lr_final=1")
    batch = bench.batches[0]
    bench.model.train()
    losses = [bench.trainer._step(iter([batch]))[0] for _ in range(40)]
    for task in ("det", "cls", "emb"):
        first, last = (sum(each[task] for each in part) / 3 for part in (losses[:3], losses[-3:]))
        assert last < 0.8 * first, f"{task}: {first:.3f} -> {last:.3f}"


def test_the_average_by_hand() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.0]))
            self.register_buffer("mean", torch.tensor([10.0]))
            self.register_buffer("count", torch.tensor(3))

    net = Net()
    average = MovingAverage(net, decay=0.9, ramp=2.0)
    expected, mean = 0.0, 10.0
    for step in (1, 2, 3):
        net.w.data += 1
        net.mean += 5
        net.count += 1
        average.update(net)
        decay = 0.9 * (1 - math.exp(-step / 2))
        expected = decay * expected + (1 - decay) * step
        mean = decay * mean + (1 - decay) * (10 + 5 * step)
    assert average.network.w.item() == pytest.approx(expected)
    assert average.network.mean.item() == pytest.approx(mean)
    assert average.network.count.item() == 6
    assert net.w.item() == 3
    assert not average.network.training
    assert not average.network.w.requires_grad


@pytest.mark.parametrize(
    ("share", "rate"),
    [(0, 0.02), (0.05, 1.0), (0.1, 2.0), (0.55, 1.2), (0.325, 2 * (0.2 + 0.8 * 0.853553)), (1, 0.4), (1.5, 0.4)],
)
def test_the_learning_rate_by_hand(share: float, rate: float) -> None:
    config = TrainConfig(lr=2.0, lr_final=0.2, warmup=0.1)
    course = Course(config, images=1000)
    assert course.at(share * course.passes).lr == pytest.approx(rate, rel=1e-5)
    if not share:
        assert Course(TrainConfig(lr=2.0, warmup=0), images=1000).at(0).lr == 2.0


def test_a_loss_is_a_mean_over_what_was_labelled() -> None:
    term = LossTerm(torch.tensor(12.0), torch.tensor(4.0), weight=0.5)
    assert normalised(term, torch.tensor(4.0)).item() == 1.5
    nothing = LossTerm(torch.tensor(0.0), torch.tensor(0.0))
    assert normalised(nothing, torch.tensor(0.0)).item() == 0
    total = FixedWeights({"det": 2.0}).combine({"det": torch.tensor(3.0), "cls": torch.tensor(1.0)})
    assert total.item() == 7


@pytest.mark.parametrize(
    ("epochs", "batch", "max_steps", "steps"),
    [(2.0, 8, None, 25), (2.0, 8, 10, 10), (0.001, 8, None, 1), (1.0, 100, 50, 1)],
)
def test_steps_of_a_run(place: Path, epochs: float, batch: int, max_steps: int | None, steps: int) -> None:
    config, _ = tiny.config(place)
    train_config = TrainConfig(epochs=epochs, batch=batch, max_steps=max_steps)
    assert planned_steps(config.model_copy(update={"train": train_config}), 100) == steps


RANK = """
import hashlib, os, sys
import unified
from pathlib import Path
from unified.contracts.document import read_run_config
from unified.training import run
from unified.training.trainer import Trainer
fit = Trainer.fit
def told(self, batches):
    fit(self, batches)
    data = b"".join(p.detach().numpy().tobytes() for p in self.model.parameters())
    rank = os.environ["RANK"]
    Path(sys.argv[3], "rank" + rank).write_text(f"{self.progress.step} {hashlib.sha256(data).hexdigest()}")
Trainer.fit = told
run.train(read_run_config(Path(sys.argv[1])), Path(sys.argv[2]), out=Path(sys.argv[3]) / "run")
"""


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("minutes", ["null", "0.03"])
def test_two_ranks_train_one_network(place: Path, tmp_path: Path, minutes: str) -> None:
    """Also where the clock ends the run: no rank may leave before the other."""
    from unified.contracts.document import dump_run_config

    config, base = tiny.config(place, *QUIET, f"max_minutes={minutes}", "max_steps=12")
    (tmp_path / "config.yaml").write_text(dump_run_config(config))
    (tmp_path / "rank.py").write_text(RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    command += [str(tmp_path / name) for name in ("rank.py", "config.yaml")] + [str(base), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [(tmp_path / f"rank{k}").read_text().split() for k in (0, 1)]
    assert ranks[0] == ranks[1]
    step = int(ranks[0][0])
    assert step == 12 if minutes == "null" else 0 < step <= 12
    folder = RunFolder.open(tmp_path / "run")
    assert folder.load("last").state["progress"]["step"] == step
    assert len(list(folder.checkpoints.glob("step-*"))) <= 2
    assert 1 <= (folder.path / "log.jsonl").read_text().count('"metrics"') <= 3
