# SPDX-License-Identifier: Apache-2.0
"""A missing label is never background: two half-labelled halves of a set teach what all of its labels, masked, teach.

A has every second picture and boxes of half of the classes, B the other pictures and the other classes. Training on A+B
is compared with training on files that hold every label, of which the same half is masked, and with the control: A and
B said to be labelled in full, so that what nobody marked counts as background.

The first two are one and the same training, bit for bit, as long as both compute with the same number of threads: with
another number sums are rounded differently, and after some hundred steps the networks are as far apart as with two
seeds. So one thread is what all of them have here.

The same on photographs, by the real trainer, with several seeds (some twenty minutes of one core;
UNIFIED_HALF_STEPS and UNIFIED_HALF_SEEDS change that):
    pytest -m slow -s tests/data/test_half_labels.py
There the control is what a user sees, the objects found at the confidence that prediction has by default. AP only ranks
boxes, and where every second label is missing at random all scores of a class sink together and keep their order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from unified.heads.detect_free import DetectFree
from unified.tasks.detection import DetectionTask

import unified
from unified.boxes import iou_xyxy
from unified.contracts.config import AugmentConfig, DataConfig, PartConfig
from unified.contracts.document import load_run_config
from unified.contracts.protocols import heads
from unified.contracts.structures import Batch, Features, FeatureSpec, Prediction
from unified.data.mixing import EvalLoader, Mixture, TrainLoader, open_mixture
from unified.data.schedule import make_schedule
from unified.data.shapes.export import write_coco
from unified.model.layers.conv import Conv
from unified.training.folder import RunFolder
from unified.training.monitor import RunSummary
from unified.training.run import train

ENOUGH = 0.97  # of the AP that all labels, masked equally, lead to
WAYS = {"masked": ("whole", True), "halves": ("half", True), "background": ("half", False)}  # files, claim told truly
LIGHT = ("red", "orange", "pink", "yellow", "white")
SIZE, PICTURES, STEPS, BATCH = 64, 256, 320, 8
OPTIONS: dict[str, dict[str, Any]] = {"detect_anchor": {"anchors": [[[8, 8], [16, 16], [32, 32]]]}}  # of heads


def split_in_halves(folder: Path, whole: Mapping[str, Any], halves: Mapping[str, Sequence[str]]) -> None:
    """Writes ``{a,b}-{whole,half}.json``: every second picture each, with all its boxes or those of its classes."""
    names = {category["id"]: category["name"] for category in whole["categories"]}
    for k, (half, classes) in enumerate(halves.items()):
        images = whole["images"][k::2]
        ids = {image["id"] for image in images}
        boxes = [box for box in whole["annotations"] if box["image_id"] in ids]
        own = [box for box in boxes if names[box["category_id"]] in classes]
        for name, kept in (("whole", boxes), ("half", own)):
            text = json.dumps({**whole, "images": images, "annotations": kept})
            (folder / f"{half}-{name}.json").write_text(text)


def data_of(way: str, halves: Mapping[str, Sequence[str]], labels: Path, images: Path) -> dict[str, Any]:
    """The datasets of one way to train, and the validation set, which is labelled in full."""
    files, honest = WAYS[way]
    parts: dict[str, Any] = {
        half: {
            "path": str(images),
            "train": {"images": "train", "annotations": str(labels / f"{half}-{files}.json")},
            "labelled": {"det": list(classes) if honest else "all"},
        }
        for half, classes in halves.items()
    }
    val = {"images": "val", "annotations": str(labels / "val.json")}
    return {"datasets": {**parts, "truth": {"path": str(images), "val": val, "labelled": {"det": "all"}}}}


class Trunk(nn.Module):
    """A few convolutions to one level of stride 8."""

    spec = FeatureSpec(("p3",), (32,), (8,))

    def __init__(self) -> None:
        super().__init__()
        convs = Conv(3, 16, 3, 2), Conv(16, 32, 3, 2), Conv(32, 32, 3), Conv(32, 32, 3, 2), Conv(32, 32, 3)
        self.convs = nn.Sequential(*convs, Conv(32, 32, 3))

    def forward(self, images: Tensor) -> Features:
        return Features((self.convs(images.float() / 255),), self.spec.levels, self.spec.strides)


class Learner:
    """A tiny detector; with one seed it begins with the same weights and meets the same pictures in the same order."""

    def __init__(self, mixture: Mixture, seed: int) -> None:
        torch.manual_seed(seed)
        self.seed, self.mixture, self.trunk = seed, mixture, Trunk()
        self.task = DetectionTask("det", mixture.vocabulary, class_gain=3.0)
        self.head = DetectFree(Trunk.spec, self.task.outputs, width=32)
        self.network = nn.ModuleList([self.trunk, self.head])

    def answer(self, batch: Batch) -> Any:
        return self.head(self.trunk(batch.images), lambda _, x: x)

    def learn(self) -> None:
        """Ends with a mean of the last steps' weights: what a few more steps would change is averaged out."""
        schedule = make_schedule(PartConfig(name="round_robin"), {"a": 1.0, "b": 1.0}, self.mixture.serves)
        given: dict[str, Any] = {"augment": AugmentConfig(fliplr=0.0), "seed": self.seed, "steps": PICTURES // BATCH}
        batches = list(TrainLoader(self.mixture, schedule=schedule, batch=BATCH, size=SIZE, ahead=False, **given))
        assert len({batch.dataset for batch in batches}) == 2
        weights = list(self.network.parameters())
        mean = [weight.detach().clone() for weight in weights]
        optimizer = torch.optim.AdamW(weights, weight_decay=0.01)
        for step in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = 6e-3 * min(1.0, (step + 1) / 20) * max(0.02, 1 - step / STEPS)
            batch = batches[step % len(batches)]
            terms = self.task.loss(self.answer(batch), batch).values()
            loss = torch.stack([term.weight * term.sum / term.count.clamp(min=1) for term in terms]).sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 10.0)
            optimizer.step()
            torch._foreach_lerp_(mean, [weight.detach() for weight in weights], max(0.02, 1 / (step + 2)))
        self._settle(mean, batches)

    @torch.no_grad()
    def _settle(self, mean: Sequence[Tensor], batches: Sequence[Batch]) -> None:
        """Takes the mean weights, and the averages of batch norms that belong to them."""
        for weight, value in zip(self.network.parameters(), mean, strict=True):
            weight.copy_(value)
        for norm in self.network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = None
                norm.reset_running_stats()
        for batch in batches:
            self.answer(batch)
        self.network.eval()

    @torch.no_grad()
    def score(self, truth: Mixture) -> float:
        metric = self.task.metric()
        for batch in EvalLoader(truth, batch=32):
            output = self.answer(batch)
            blank = [Prediction((SIZE, SIZE))] * len(batch)
            metric.update(output, self.task.predict(output, blank, confidence=0.001), batch)
        return metric.compute()["AP"]


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def by_shade(path: Path) -> dict[str, Any]:
    """Shapes of two classes, which a tiny network learns to tell apart: painted light, painted dark."""
    whole = json.loads(path.read_text())
    for box in whole["annotations"]:
        box["category_id"] = 1 + (box["identity"].split("-")[2] not in LIGHT)
    return {**whole, "categories": [{"id": 1, "name": "light"}, {"id": 2, "name": "dark"}]}


@pytest.mark.parametrize("seeds", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_two_halves_teach_what_all_labels_masked_equally_teach(tmp_path: Path, one_thread: None, seeds: int) -> None:
    images, halves = tmp_path / "shapes", {"a": ("light",), "b": ("dark",)}
    write_coco(images, train=PICTURES, val=160, level="easy", size=SIZE)
    split_in_halves(tmp_path, by_shade(images / "annotations" / "instances_train.json"), halves)
    (tmp_path / "val.json").write_text(json.dumps(by_shade(images / "annotations" / "instances_val.json")))
    scores: dict[str, list[float]] = {}
    for way in WAYS:
        config = DataConfig.model_validate(data_of(way, halves, tmp_path, images))
        given: dict[str, Any] = {"size": SIZE, "base": tmp_path}
        mixture = open_mixture(config, {"det": "boxes"}, split="train", **given)
        truth = open_mixture(config, {"det": "boxes"}, split="val", vocabulary=mixture.vocabulary, **given)
        for seed in range(1 if way == "masked" else seeds):
            learner = Learner(mixture, seed)
            learner.learn()
            scores.setdefault(way, []).append(learner.score(truth))
    print(scores)
    assert scores["masked"][0] > 0.1  # something was learned
    assert scores["halves"][0] == scores["masked"][0]  # ENOUGH of it, and more: the same to the last digit
    assert sum(scores["background"]) < ENOUGH * sum(scores["halves"])  # the control


@pytest.mark.parametrize("head", ["detect_free", "detect_anchor", "detr"])
def test_a_masked_label_costs_what_no_label_costs(tmp_path: Path, one_thread: None, head: str) -> None:
    """Losses and gradients of one batch, of every kind of detector; as background the same boxes are missed."""
    images, classes = tmp_path / "shapes", {"a": ("light",), "b": ("dark",)}
    write_coco(images, train=16, val=1, level="easy", size=SIZE)
    split_in_halves(tmp_path, by_shade(images / "annotations" / "instances_train.json"), classes)
    found: dict[str, list[Tensor]] = {}
    for way in WAYS:
        config = DataConfig.model_validate(data_of(way, classes, tmp_path, images))
        mixture = open_mixture(config, {"det": "boxes"}, split="train", size=SIZE, base=tmp_path)
        task = DetectionTask("det", mixture.vocabulary)
        torch.manual_seed(0)
        network = nn.ModuleList(
            [trunk := Trunk(), made := heads.get(head)(Trunk.spec, task.outputs, **OPTIONS.get(head, {}))]
        )
        given: dict[str, Any] = {"augment": AugmentConfig(), "seed": 0, "steps": 2, "ahead": False}
        schedule = make_schedule(PartConfig(name="round_robin"), {"a": 1.0, "b": 1.0}, mixture.serves)
        for batch in TrainLoader(mixture, schedule=schedule, batch=8, size=SIZE, **given):
            terms = task.loss(made(trunk(batch.images), lambda _, x: x), batch).values()
            torch.stack([term.weight * term.sum / term.count.clamp(min=1) for term in terms]).sum().backward()
        found[way] = [weight.grad for weight in network.parameters() if weight.grad is not None]
    assert len(found["masked"]) > 10
    assert all(torch.equal(*pair) for pair in zip(found["masked"], found["halves"], strict=True))
    assert not all(torch.equal(*pair) for pair in zip(found["masked"], found["background"], strict=True))


def trained(way: str, folder: Path, seed: int, steps: str) -> RunSummary:
    """A run of the real trainer on the files in ``folder``."""
    given = {"max_steps": steps, "max_minutes": "null", "evaluate_every": "1", "workers": "0", "size": "128"}
    given |= {"tasks.det.weight": "1"}  # it has nobody to be weighed against
    overrides = [f"{key}={value}" for key, value in {**given, "precision": "fp32", "seed": str(seed)}.items()]
    config, base = load_run_config(
        model="unified-n", data=str(folder / f"{way}.yaml"), tasks=("det",), recipe="fod", overrides=overrides
    )
    return train(config, base, folder / f"run-{way}-{seed}-{steps}")


def photographs(folder: Path, out: Path) -> None:
    """Data files of all ways to train on FOD."""
    whole = json.loads((folder / "annotations" / "instances_train.json").read_text())
    names = [category["name"] for category in whole["categories"]]
    halves = {"a": names[::2], "b": names[1::2]}
    split_in_halves(out, whole, halves)
    (out / "val.json").write_bytes((folder / "annotations" / "instances_val.json").read_bytes())
    for way in WAYS:
        data = data_of(way, halves, out, folder)
        for dataset in data["datasets"].values():
            for part in ("train", "val"):
                dataset.get(part, {}).update({"images": "images"} if part in dataset else {})
        (out / f"{way}.yaml").write_text(json.dumps(data))  # JSON is YAML


@pytest.mark.slow
def test_photographs_masked_and_halved_are_one_training(tmp_path: Path, shared: Path, one_thread: None) -> None:
    photographs(shared / "data" / "fod", tmp_path)
    ends = []
    for way in WAYS:
        folder = RunFolder.open(trained(way, tmp_path, 0, "30").folder)
        ends.append(folder.load("last").tensors["model"])
    masked, halves, background = ends
    assert all(torch.equal(halves[name], weight) for name, weight in masked.items())
    assert not all(torch.equal(background[name], weight) for name, weight in masked.items())


def recall(run: Path, folder: Path) -> float:
    """The share of the validation set's objects that are found with their class and IoU 0.5 at the usual confidence."""
    truth = json.loads((folder / "annotations" / "instances_val.json").read_text())
    names = {category["id"]: category["name"] for category in truth["categories"]}
    paths = {image["id"]: folder / "images" / image["file_name"] for image in truth["images"]}
    said = dict(zip(paths, unified.load(run).predict([*paths.values()]), strict=True))
    found = [_found(box, names[box["category_id"]], said[box["image_id"]].boxes) for box in truth["annotations"]]
    return sum(found) / len(found)


def _found(truth: Mapping[str, Any], name: str, boxes: Sequence[Any]) -> bool:
    x, y, width, height = truth["bbox"]
    near = torch.tensor([box.xyxy for box in boxes if box.name == name]).view(-1, 4)
    return bool((iou_xyxy(torch.tensor([[x, y, x + width, y + height]]), near) >= 0.5).any())


@pytest.mark.slow
def test_the_same_on_photographs(tmp_path: Path, shared: Path, one_thread: None) -> None:
    """The halves stand for the masked labels, too: see the test above."""
    photographs(shared / "data" / "fod", tmp_path)
    steps, seeds = os.environ.get("UNIFIED_HALF_STEPS", "1200"), int(os.environ.get("UNIFIED_HALF_SEEDS", "2"))
    found: dict[str, list[float]] = {"halves": [], "background": []}
    for seed in range(seeds):
        for way in found:
            summary = trained(way, tmp_path, seed, steps)
            found[way].append(recall(summary.folder, shared / "data" / "fod"))
            print(f"{way}, seed {seed}: AP {summary.metrics['det/AP']:.4f}, found {found[way][-1]:.3f}", flush=True)
    assert min(found["halves"]) > 0.1  # something was learned
    assert all(b < ENOUGH * h for h, b in zip(*found.values(), strict=True))  # the control
