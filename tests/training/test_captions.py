# SPDX-License-Identifier: Apache-2.0
"""Captions beside boxes, tags and identities: one network, one run, one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor

import unified
from unified.contracts.document import load_run_config
from unified.inference.model import UnifiedModel
from unified.model.build import assemble
from unified.training.evaluator import evaluate_run
from unified.training.preparation import open_splits
from unified.training.run import train
from unified.training.unfed import unfed

TASKS = ("det", "cls", "emb", "cap")
WIDTH = 32


class Words:
    """An encoder of texts as the sum of a fixed vector a word."""

    name, dim, digest = "words", WIDTH, "0123456789abcdef"

    def __call__(self, texts: Sequence[str]) -> Tensor:
        return torch.nn.functional.normalize(torch.stack([self._text(text) for text in texts]), dim=1)

    def _text(self, text: str) -> Tensor:
        words = text.replace(",", "").replace(".", "").lower().split()
        seeds = (sum((i + 1) * byte for i, byte in enumerate(word.encode())) for word in words)
        return torch.stack([torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in seeds]).sum(0)


@pytest.fixture(scope="module", autouse=True)
def encoder() -> Iterator[None]:
    from unified.tasks.caption import task

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "encoder_of", lambda name: Words())
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captions")
    tiny.cache_at(folder)
    out = folder / "run"
    train(*tiny.config(folder, f"tasks.cap.options.dim={WIDTH}", tasks=TASKS), out=out)
    return out


@pytest.fixture(scope="module")
def model(run: Path) -> UnifiedModel:
    return unified.load(run, device="cpu", precision="fp32")


def test_a_run_of_four_tasks_scores_all_of_them(run: Path) -> None:
    scores = evaluate_run(run)
    assert {name.partition("/")[0] for name in scores} == set(TASKS)
    assert scores["cap/chance@5"] == 5 / 8 and 0 <= scores["cap/R@5"] <= 1  # 8 scenes to find


def test_captions_cost_no_further_pass_and_change_no_answer(model: UnifiedModel) -> None:
    passes: list[int] = []
    watch = model.network.backbone.register_forward_hook(lambda *_: passes.append(1))
    picture = torch.randint(0, 256, (3, 80, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    every = model.predict(picture, confidence=0.0)
    watch.remove()
    assert len(passes) == 1
    others = model.predict(picture, tasks=["det", "cls", "emb"], confidence=0.0)
    for name in ("boxes_xyxy", "scores", "labels", "tag_scores", "box_embeddings"):
        assert torch.equal(getattr(every, name), getattr(others, name)), name
    assert every.embedding is not None and others.embedding is not None
    assert every.embedding.shape == (WIDTH,) and others.embedding.shape == (16,)
    assert torch.equal(every.embedding, model.predict(picture, tasks="cap").embedding)


def test_texts_meet_pictures_in_the_space_of_the_task(model: UnifiedModel) -> None:
    assert model.space == model.spaces["cap"] != model.spaces["emb"]
    assert model.encode_text(["a red star", "two discs"]).shape == (2, WIDTH)


def test_data_without_captions_are_named(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            Image.new("RGB", (96, 96)).save(tmp_path / "pets" / part / name / "0.png")
    data = "format: folder\npath: ../pets\ntrain: {images: train}\nval: {images: val}\nlabelled: {cls: all}\n"
    config, base = load_run_config(
        model=tiny.write_model(tmp_path), data=tiny.write_data(tmp_path, data), tasks=("cls", "cap")
    )
    splits = open_splits(config, base)
    parts = assemble(config.model, config.tasks, splits.train.vocabulary)
    lines = unfed(splits.train, {name: parts.task(name) for name in config.tasks})
    assert lines == ["dataset 'shapes' is said to label 'cap', but its first images have no captions"]
