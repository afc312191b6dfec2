# SPDX-License-Identifier: Apache-2.0
"""A network and a data set so small that a whole run takes a second or two; for tests of the engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from unified.contracts.config import RunConfig
from unified.contracts.document import load_run_config

MODEL = """
name: tiny
backbone: {name: csp, channels: [8, 8, 16, 16, 16], depths: [1, 1, 1, 1]}
neck: {name: pan, depth: 1}
latents:
  - {site: "align.*", latent: vector, operator: mul}
  - {site: "pre.*", latent: vector, operator: add}
heads:
  embed: {width: 16}
  multilabel: {width: 16}
"""
DATA = """
format: shapes
labelled: {det: all, cls: all, emb: all}
options: {level: easy, train: 24, val: 8, seed: 0, size: 96}
"""
RECIPE = """
size: 96
batch: 8
max_steps: 6
optimizer: adamw
ema: 0.998
precision: fp32
device: cpu
workers: 0
evaluate_every: 1
augment: {fliplr: 0.5}
tasks:
  emb: {options: {dim: 16}}
"""


def write_model(folder: Path, text: str = MODEL, name: str = "tiny") -> str:
    """A model file; returns its path as a word of the command line."""
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)


def write_data(folder: Path, text: str = DATA) -> str:
    """A data file named ``shapes``; returns its path as a word of the command line."""
    path = folder / "data" / "shapes.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


def write_recipe(folder: Path) -> str:
    """A recipe file; returns its path as a word of the command line."""
    path = folder / "recipe.yaml"
    path.write_text(RECIPE)
    return str(path)


def cache_at(folder: Path) -> None:
    """Rendered scenes are kept below ``folder`` for the rest of this process and of its children."""
    os.environ["UNIFIED_CACHE"] = str(folder / "unified-cache")


def config(folder: Path, *overrides: str, tasks: tuple[str, ...] = ("det", "cls", "emb")) -> tuple[RunConfig, Path]:
    """The configuration of a run of six steps on two dozen scenes, and the folder its data starts from."""
    return load_run_config(
        model=write_model(folder),
        data=write_data(folder),
        tasks=tasks,
        recipe=write_recipe(folder),
        overrides=overrides,
    )


@contextmanager
def drawn() -> Iterator[None]:
    """Inside it runs end with all their plots, as they do for people."""
    from unified.training.report import report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "unified.training.run.report", lambda folder, trainer: report(folder, trainer.evaluation, trainer.tasks)
        )
        yield
