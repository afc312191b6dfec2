# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from unified.contracts.errors import CheckpointError, ConfigError
from unified.contracts.structures import Batch
from unified.data.loader import EvalLoader
from unified.hardware import Hardware
from unified.model.build import assemble
from unified.training import dice
from unified.training.balance import FixedWeights
from unified.training.course import Course
from unified.training.evaluator import Evaluation
from unified.training.folder import RunFolder
from unified.training.joint import JointModel
from unified.training.monitor import Monitor
from unified.training.portions import portioned
from unified.training.resumption import changes, inexact, restarted, surroundings
from unified.training.run import identity, make_accelerator, open_splits
from unified.training.snapshot import put_together, taken_apart
from unified.training.trainer import Trainer

PLAIN = ("optimizer=sgd", "train.momentum=0", "clip=0", "warmup=0", "weight_decay=0", "lr=1")


class Ear(Monitor):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def trainer_of(place: Path, ear: Ear) -> tuple[Trainer, Batch]:
    """One that takes plain steps of eight images, with batch norms that stand still."""
    tiny.cache_at(place)
    config, base = tiny.config(place, *PLAIN)
    splits = open_splits(config, base)
    accelerator, hardware = make_accelerator(config)
    torch.manual_seed(0)
    parts = assemble(config.model, config.tasks, splits.train.vocabulary)
    trainer = Trainer(
        JointModel(parts.network, parts.tasks),
        config,
        RunFolder(place / "run"),
        accelerator,
        hardware,
        course=Course(config.train, splits.train.images),
        balancer=FixedWeights({}),
        validate=lambda network: Evaluation(),
        describe={},
        monitor=ear,
    )
    trainer.model.eval()
    batch = next(iter(EvalLoader(splits.train, batch=8, size=96)))
    return trainer, replace(batch, tasks=("det", "cls", "emb"))


def test_short_memory_changes_portions_and_no_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step of a batch that fits only two images at a time is that of the whole batch, but for rounding."""
    found: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    for most in (8, 3):
        ear = Ear()
        trainer, batch = trainer_of(tmp_path, ear)
        before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
        forward, seen = trainer.model.forward, list[int]()

        def short(batch: Batch, forward: Any = forward, most: int = most, seen: list[int] = seen) -> Any:
            seen.append(len(batch))
            if len(batch) > most:
                raise torch.OutOfMemoryError("out of memory")
            return forward(batch)

        monkeypatch.setattr(trainer.model, "forward", short)
        losses, _, _ = trainer._step(iter([batch]))
        moved = {n: p.detach() - before[n] for n, p in trainer.model.named_parameters()}
        found.append((moved, losses))
        assert trainer.progress.portions == {8: 1, 3: 4}[most]
        assert (trainer.progress.passes, trainer.progress.images) == (1, 8)
        assert len(ear.messages) == {8: 0, 3: 2}[most]
        assert seen == {8: [8], 3: [8, 4] + 8 * [2]}[most]
    (whole, losses), (portions, other) = found
    assert max(float(t.abs().max()) for t in whole.values()) > 1e-3
    scale = max(float(t.abs().max()) for t in whole.values())
    assert all(torch.allclose(whole[n], portions[n], rtol=1e-3, atol=1e-5 * scale) for n in whole)
    assert all(float(other[n]) == pytest.approx(float(losses[n]), rel=1e-5, abs=1e-6) for n in losses)
    assert ear.messages[-1].startswith("out of memory: batches of 8 images go through 2 at a time from here on")


def test_an_image_that_does_not_fit_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, batch = trainer_of(tmp_path, Ear())

    def never(batch: Batch) -> Any:
        raise torch.OutOfMemoryError("out of memory: 4 GiB")

    monkeypatch.setattr(trainer.model, "forward", never)
    with pytest.raises(torch.OutOfMemoryError, match="4 GiB"):
        trainer._step(iter([batch]))


@pytest.mark.parametrize(
    ("images", "parts", "sizes"), [(8, 3, [4, 4]), (8, 4, [2] * 4), (6, 4, [2] * 3), (5, 2, [3, 2])]
)
def test_portions_keep_pairs_and_order(images: int, parts: int, sizes: list[int]) -> None:
    marks = torch.arange(images)[:, None, None, None]
    batch = Batch(marks, tuple(range(images)), tuple(range(images)))  # type: ignore[arg-type]
    found = portioned(batch, parts)
    assert [len(each) for each in found] == sizes
    assert torch.equal(torch.cat([each.images for each in found]), marks)


def test_dice_of_every_kind_come_back() -> None:
    random.gauss(0, 1), np.random.normal()  # leaves a second deviate in hand
    kept = dice.picked_up(torch.device("cpu"))
    first = [torch.rand(3).tolist(), np.random.normal(size=3).tolist(), [random.gauss(0, 1) for _ in range(3)]]
    dice.sown(5)
    dice.laid_down(kept, torch.device("cpu"))
    again = [torch.rand(3).tolist(), np.random.normal(size=3).tolist(), [random.gauss(0, 1) for _ in range(3)]]
    assert again == first
    with pytest.raises(CheckpointError, match="random state cannot be used"):
        dice.laid_down({"numpy": torch.zeros(8, dtype=torch.uint8)}, torch.device("cpu"))


def test_a_state_with_tensors_comes_back() -> None:
    state = {"a": [1, {"b": torch.ones(2)}], "c": "tensor", "d": torch.zeros(1)}
    plain, tensors = taken_apart(state, "x")
    assert sorted(tensors) == ["x/a/1/b", "x/d"]
    back = put_together(plain, tensors)
    assert (
        torch.equal(back["a"][1]["b"], torch.ones(2)) and back["c"] == "tensor" and torch.equal(back["d"], state["d"])
    )


def test_every_difference_is_named(tmp_path: Path) -> None:
    tiny.cache_at(tmp_path)
    config, base = tiny.config(tmp_path)
    hardware = Hardware(torch.device("cpu"), "fp32")
    saved = {"config": config.model_dump(mode="json")} | identity(open_splits(config, base), hardware, ranks=1)
    now = surroundings(hardware, 1)
    assert changes(saved, config, saved["fingerprints"]) == []
    assert inexact(saved, config, hardware, now) == []
    more = surroundings(hardware, 2) | {"torch": "9.9", "threads": 64}
    assert [r.split(" was")[0] for r in inexact(saved, config, hardware, more)] == ["torch", "threads", "ranks"]
    clocked = config.model_copy(update={"train": config.train.model_copy(update={"max_minutes": 1.0})})
    assert any("max_minutes" in reason for reason in inexact(saved, clocked, hardware, now))
    other, base = tiny.config(tmp_path, "lr=0.5", "workers=2", "data.datasets.shapes.options.seed=1")
    found = changes(saved, other, identity(open_splits(other, base), hardware, 1)["fingerprints"])
    assert [line.split(":")[0] for line in found[:2]] == ["data.datasets.shapes.options.seed", "train.lr"]
    assert found[2:] == [f"dataset shapes ({split}) has other images or annotations" for split in ("train", "val")]


def test_a_restart_goes_on_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").touch()
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    assert restarted(tmp_path) is None
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert restarted(tmp_path) is None  # lost before its first save
    (tmp_path / "checkpoints" / "last").touch()
    assert restarted(tmp_path) == tmp_path
    with pytest.raises(ConfigError, match="--max-restarts needs --out"):
        restarted(None)
