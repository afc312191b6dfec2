# SPDX-License-Identifier: Apache-2.0
"""All ways to change pictures in one run, and its evaluation in rectangles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import DATA, cache_at, write_data, write_model, write_recipe

import unified
from unified.contracts.config import RunConfig
from unified.contracts.document import load_run_config
from unified.contracts.errors import ConfigError
from unified.data.collate import PackedBatch
from unified.data.kitchen import Kitchen, Order
from unified.data.loader import EvalLoader
from unified.data.mixing import open_mixture
from unified.data.shapes.export import write_coco
from unified.hardware import pick
from unified.trained import load_trained
from unified.training.evaluator import LOW_CONFIDENCE, evaluate, evaluate_run
from unified.training.monitor import Monitor, Plan
from unified.training.run import train

WILD = "{mosaic: 0.5, mixup: 0.5, copy_paste: 0.8, cutout: 0.5, scale: 0.3, rotate: 5, hue: 0.1, multi_scale: 0.4}"


VIEWS = "identity: {image: views}\n"


def config_of(
    folder: Path, data: str, *overrides: str, tasks: tuple[str, ...] = ("det", "cls", "emb")
) -> tuple[RunConfig, Path]:
    return load_run_config(
        model=write_model(folder), data=data, tasks=tasks, recipe=write_recipe(folder), overrides=overrides
    )


def flat_pictures(tmp_path: Path) -> str:
    """Two dozen pictures twice as wide as high; returns the path of their data file."""
    folder = tmp_path / "flat"
    write_coco(folder, train=24, val=4, level="easy", size=96)
    for path in (folder / "train").iterdir():  # the lower half is cut off
        Image.open(path).crop((0, 0, 96, 48)).save(path)
    file = folder / "annotations" / "instances_train.json"
    document = json.loads(file.read_text())
    upper = [each for each in document["annotations"] if each["bbox"][1] + each["bbox"][3] <= 48]
    images = [{**image, "height": 48} for image in document["images"]]
    file.write_text(json.dumps({**document, "images": images, "annotations": upper}))
    part = {"images": "train", "annotations": "annotations/instances_train.json"}
    labelled, identity = {"det": "all", "emb": "all"}, {"boxes": "identity"}
    dataset = {"path": str(folder), "train": part, "val": part, "identity": identity, "labelled": labelled}
    data = tmp_path / "flat.yaml"
    data.write_text(json.dumps({"datasets": {"flat": dataset}}))  # JSON is YAML
    return str(data)


class Notes(Monitor):
    """Remembers what a person is told at the start."""

    def start(self, plan: Plan) -> None:
        self.notes = plan.notes


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    cache_at(tmp_path_factory.mktemp("cache"))


def test_a_run_takes_all_transforms_balanced_batches_and_rectangles(tmp_path: Path) -> None:
    data = write_data(tmp_path, DATA + "sampler: {name: pk, p: 4, k: 2}\nbreaks: {emb: [hue]}\n")
    given, base = config_of(tmp_path, data, f"train.augment={WILD}")
    notes = Notes()
    summary = train(given, base, tmp_path / "run", monitor=notes)
    assert summary.steps == 6 and "dataset 'shapes': without hue, which would make labels untrue" in notes.notes
    square, low = (evaluate_run(tmp_path / "run", rectangular=rectangular) for rectangular in (False, True))
    assert square == pytest.approx(low)  # pictures that are square


def test_a_run_takes_rectangles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = flat_pictures(tmp_path)
    shapes: list[tuple[int, ...]] = []
    make = Kitchen.make

    def watched(kitchen: Kitchen, order: Order) -> PackedBatch:
        made = make(kitchen, order)
        shapes.append(tuple(made.images.shape[2:]))
        return made

    monkeypatch.setattr(Kitchen, "make", watched)
    given, base = config_of(tmp_path, data, "train.augment={rectangular: true, scale: 0.2}", tasks=("det",))
    assert train(given, base, tmp_path / "run").steps == 6
    assert shapes[:6] == [(64, 96)] * 6


def test_what_is_scored_is_what_is_said(tmp_path: Path) -> None:
    """Also where boxes reach into the border of a flat picture: what is read from one is read inside the picture."""
    given, base = config_of(tmp_path, flat_pictures(tmp_path), tasks=("det", "emb"))
    train(given, base, tmp_path / "run")
    trained, model = load_trained(tmp_path / "run"), unified.load(tmp_path / "run")
    mixture = open_mixture(
        trained.config.data,
        {name: task.labels for name, task in trained.tasks.items()},
        split="val",
        size=96,
        base=trained.base,
        vocabulary=trained.vocabulary,
    )
    scored = evaluate(trained.network, trained.tasks, EvalLoader(mixture, batch=8, size=96), pick("cpu", "fp32"), 8)
    assert len(scored.shown) == 8
    flat = tmp_path / "flat"
    document = json.loads((flat / "annotations" / "instances_train.json").read_text())
    names = {str(image["id"]): image["file_name"] for image in document["images"]}
    for shown in scored.shown:
        said = model.predict(flat / "train" / names[shown.frame.image_id], confidence=LOW_CONFIDENCE)
        own = shown.prediction.in_frame(shown.frame)
        torch.testing.assert_close(own.boxes_xyxy, said.boxes_xyxy)
        torch.testing.assert_close(own.box_embeddings, said.box_embeddings, atol=1e-5, rtol=0)


def test_a_sampler_that_does_not_fit_is_refused_before_there_is_a_folder(tmp_path: Path) -> None:
    data = write_data(tmp_path, DATA + "sampler: {name: pk, p: 3, k: 2}\n")
    given, base = config_of(tmp_path, data)
    with pytest.raises(ConfigError, match="p 3 times k 2 is 6, but a batch has 8 images"):
        train(given, base, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_views_get_a_retrieval_score(tmp_path: Path) -> None:
    data = write_data(tmp_path, DATA.replace("{det: all, cls: all, emb: all}", "{det: all, emb: all}") + VIEWS)
    given, base = config_of(tmp_path, data, tasks=("det", "emb"))
    metrics = train(given, base, tmp_path / "run").metrics
    assert {"emb/image_R@1", "emb/image_mAP@R", "det/AP"} <= set(metrics)
