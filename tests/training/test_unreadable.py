# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from unified.contracts.config import RunConfig
from unified.contracts.document import load_run_config
from unified.contracts.errors import DataError
from unified.data.convert import convert
from unified.data.lint.linter import lint
from unified.data.spoilage import Spoiled
from unified.training import unreadable
from unified.training.evaluator import evaluate_run
from unified.training.monitor import Monitor
from unified.training.run import train

DATA = """
path: {folder}
format: coco
train: {{images: images, annotations: all.json}}
val: {{images: images, annotations: all.json}}
labelled: {{det: all}}
"""


class Ear(Monitor):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Twenty-four pictures, the fifth of them cut off."""
    folder = tmp_path / "zoo"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for k in range(24):
        pixels = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((120, 90)).save(folder / "images" / f"{k}.jpg")
        images.append({"id": k, "file_name": f"{k}.jpg", "width": 120, "height": 90})
        annotations.append({"id": k, "image_id": k, "category_id": 1 + k % 2, "bbox": [20, 20, 40, 30]})
    whole = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (folder / "all.json").write_text(json.dumps(whole))
    damage(folder, 4)
    return folder


def damage(zoo: Path, k: int) -> None:
    path = zoo / "images" / f"{k}.jpg"
    path.write_bytes(path.read_bytes()[:400])


def tree(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Of everything below a folder: what it holds, its rights and when it was changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else os.fspath(path.name)
        found[str(path.relative_to(folder))] = (digest, state.st_mode, state.st_mtime_ns)
    return found


def configured(folder: Path, zoo: Path, *overrides: str) -> tuple[RunConfig, Path]:
    tiny.cache_at(folder)
    return load_run_config(
        model=tiny.write_model(folder),
        data=tiny.write_data(folder, DATA.format(folder=zoo)),
        tasks=("det",),
        recipe=tiny.write_recipe(folder),
        overrides=["max_steps=6", *overrides],
    )


def test_a_damaged_picture_costs_one_record_and_nothing_is_written_to_the_data(tmp_path: Path, zoo: Path) -> None:
    before = tree(zoo)
    config, base = configured(tmp_path, zoo, "cache=disk", "train.augment.mosaic=0.5", "train.augment.scale=0.3")
    ear = Ear()
    summary = train(config, base, out=tmp_path / "run", monitor=ear)
    assert summary.steps == 6 and "det/AP50" in summary.metrics
    told: list[str] = []
    metrics = evaluate_run(tmp_path / "run", tell=told.append)
    assert len(told) == 1 and "1 of 24 pictures could not be used" in told[0] and "4.jpg" in told[0]
    assert metrics.keys() == summary.metrics.keys()
    lint(config.data, base, "zoo.yaml", depth="pixels")
    convert("zoo", next(iter(config.data.datasets.values())), base, tmp_path / "copy", pictures="copy")
    assert tree(zoo) == before
    assert (tmp_path / "unified-cache" / "pictures").is_dir()

    assert all(message.isprintable() for message in ear.messages)
    firsts = [message for message in ear.messages if "takes its place" in message or "is left out" in message]
    lasts = [message for message in ear.messages if "of 24 pictures could not be used" in message]
    assert len(firsts) == len(lasts) == 2 and all("4.jpg" in message for message in (*firsts, *lasts))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    named = [line for line in log if "unreadable" in line]
    assert {line["split"] for line in named} == {"train", "val"} and len(named) == 2
    assert all("4.jpg" in line["unreadable"] for line in named)


def test_too_many_damaged_pictures_stop_the_run_with_one_line(tmp_path: Path, zoo: Path) -> None:
    damage(zoo, 9)
    damage(zoo, 20)
    config, base = configured(tmp_path, zoo)
    with pytest.raises(DataError) as error:
        train(config, base, out=tmp_path / "run")
    assert str(error.value).isprintable() and "of its 24 pictures cannot be used, more than 5 %" in str(error.value)
    config, base = configured(tmp_path, zoo, "unreadable=0.2", "workers=1")
    assert train(config, base, out=tmp_path / "lenient").steps == 6


def test_what_ranks_tell_each_other_travels_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    met = [Spoiled("zoo", 3, "ä.png: cut short"), Spoiled("zoo", 9, "b.png: empty")]
    monkeypatch.setattr(unreadable, "gather", lambda tensor: torch.cat([tensor, tensor]))  # as of two ranks
    assert list(unreadable.of_all_ranks(met, torch.device("cpu"))) == met * 2
    assert list(unreadable.of_all_ranks([], torch.device("cpu"))) == []
