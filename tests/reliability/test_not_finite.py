# SPDX-License-Identifier: Apache-2.0
"""NaN and infinity, wherever they come from: a step with one leaves no trace, and three in a row end the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from sitting import sit, small_config
from tally import Tally
from torch import Tensor, nn

from unified.contracts.structures import Batch
from unified.data.loader import EvalLoader
from unified.model.build import assemble
from unified.training.balance import FixedWeights
from unified.training.course import Course
from unified.training.evaluator import Evaluation
from unified.training.faults import TrainingError
from unified.training.folder import RunFolder
from unified.training.guard import Guard
from unified.training.joint import JointModel
from unified.training.monitor import Monitor
from unified.training.replay import replay
from unified.training.run import make_accelerator, open_splits
from unified.training.trainer import Trainer

NAN, INF = float("nan"), float("inf")
TASKS = ("det", "cls", "emb")
Plant = Callable[[JointModel, Batch], Any]


class Ear(Monitor):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


class Bench:
    """A trainer on its own, and one batch."""

    def __init__(self, place: Path) -> None:
        config, base = small_config(place, "warmup=0")
        splits = open_splits(config, base)
        accelerator, hardware = make_accelerator(config)
        torch.manual_seed(0)
        parts = assemble(config.model, config.tasks, splits.train.vocabulary)
        self.model, self.ear = JointModel(parts.network, parts.tasks), Ear()
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
            monitor=self.ear,
        )
        self.batch = replace(next(iter(EvalLoader(splits.train, batch=4, size=64))), tasks=TASKS)
        self.model.train()
        self.step(self.batch)  # so that there are moments to spoil

    def step(self, batch: Batch) -> None:
        self.trainer._step(iter([batch]))

    def state(self) -> dict[str, Tensor]:
        """Weights, buffers, moving average and moments."""
        found = self.trainer.checkpoint().tensors
        return {f"{part}/{n}": t.clone() for part in ("model", "ema", "optimizer") for n, t in found[part].items()}


@contextmanager
def in_input(value: float, rows: slice, model: JointModel, batch: Batch) -> Iterator[Batch]:
    images = batch.images.float() / 255
    images[rows, 1, 5, 7] = value
    yield replace(batch, images=images)


@contextmanager
def in_loss(value: float, task: str, model: JointModel, batch: Batch) -> Iterator[Batch]:
    module, loss = model.task(task), model.task(task).loss

    def spoilt(*given: Any) -> Any:
        terms = dict(loss(*given))
        name = next(iter(terms))
        return terms | {name: replace(terms[name], sum=terms[name].sum * value)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "loss", spoilt)
        yield batch


@contextmanager
def in_gradient(value: float, name: str, model: JointModel, batch: Batch) -> Iterator[Batch]:
    hook = model.get_parameter(name).register_hook(lambda gradient: gradient * value)
    yield batch
    hook.remove()


@contextmanager
def in_statistics(value: float, buffer: str, model: JointModel, batch: Batch) -> Iterator[Batch]:
    norm = next(m for m in model.network.neck.modules() if isinstance(m, nn.BatchNorm2d))

    def spoil(module: nn.Module, *_: Any) -> None:
        getattr(module, buffer).data[0] = value

    hook = norm.register_forward_hook(spoil)
    yield batch
    hook.remove()


def plants(model: JointModel) -> list[tuple[str, Plant]]:
    """Thirty places."""
    names = [name for name, _ in model.named_parameters()]
    chosen = [names[0], next(n for n in names if ".neck." in n), next(n for n in names if ".bank." in n)]
    chosen += [next(n for n in names if f".heads.{task}." in n) for task in TASKS]
    found: list[tuple[str, Plant]] = []
    for value in (NAN, INF):
        found += [(f"{value} in the input of images {r}", partial(in_input, value, r)) for r in (slice(0, 1), slice(4))]
        found += [(f"{value} in the loss of {task}", partial(in_loss, value, task)) for task in TASKS]
        found += [(f"{value} in the gradient of {name}", partial(in_gradient, value, name)) for name in chosen]
        found += [(f"{value} in {b}", partial(in_statistics, value, b)) for b in ("running_mean", "running_var")]
    found += [(f"-inf in the loss of {task}", partial(in_loss, -INF, task)) for task in TASKS]
    found.append(("-inf in a gradient", partial(in_gradient, -INF, chosen[1])))
    return found


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    return [name for name in a if not torch.equal(a[name], b[name])]


def test_not_finite_in_thirty_places(tally: Tally, tmp_path: Path) -> None:
    tally.begin("NaN or Inf in a step", "weights, buffers, average and moments after it, to the bit; told in one line")
    bench = Bench(tmp_path)
    places = plants(bench.model)
    assert len(places) == 30
    for place, plant in places if tally.full else places[::5]:
        before, skipped = bench.state(), bench.trainer.progress.skipped
        with plant(bench.model, bench.batch) as batch:
            bench.step(batch)
        changed = differing(before, bench.state())
        told = bench.ear.messages[-1] if bench.ear.messages else ""
        good = not changed and bench.trainer.progress.skipped == skipped + 1
        good &= "train-" in told and "dataset shapes" in told and "\n" not in told
        tally.add(good, f"{place}: changed {changed[:3]}; told {told!r}")
        bench.step(bench.batch)
        tally.add(bool(differing(before, bench.state())), f"{place}: the good step behind it changed nothing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Guard, "finite", lambda *_: True)
        blind = [Bench(tmp_path) for _ in range(2)]
        faults = 0
        for bench, (_, plant) in zip(blind, (places[2], places[5]), strict=True):
            with plant(bench.model, bench.batch) as batch:
                bench.step(batch)
            faults += any(not t.isfinite().all() for t in bench.state().values() if t.is_floating_point())
    tally.control(len(blind), faults, "without the guard")
    tally.verdict()


def test_three_in_a_row_end_a_run_and_can_be_looked_at(tmp_path: Path) -> None:
    config, base = small_config(tmp_path, "max_steps=20")

    with ExitStack() as stack:

        def spoil(trainer: Trainer, step: int) -> None:
            if step == 4:
                batch = Batch(torch.zeros(0), (), ())
                stack.enter_context(in_loss(NAN, "cls", trainer.model, batch))

        with pytest.raises(TrainingError, match=r"step 7: NaN or Inf in loss cls/.*task cls, dataset shapes, .*train-"):
            sit(config, base, tmp_path / "run", meddle=spoil)
    run = RunFolder.open(tmp_path / "run")
    checkpoint = run.load("last")
    assert all(t.isfinite().all() for t in checkpoint.tensors["model"].values())
    assert (checkpoint.state["progress"]["step"], checkpoint.state["progress"]["skipped"]) == (7, 3)
    lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "fault" in line] == [5, 6, 7]
    told = replay(run.path / "faults" / "step-00000007")
    assert told[0].startswith("step 7: loss cls/")
    assert any(line.startswith("loss det/") for line in told)
    sit(config, base, tmp_path / "run")  # the mistake is mended, and the run goes on
    assert run.load("last").state["progress"]["step"] == 20
