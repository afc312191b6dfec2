# SPDX-License-Identifier: Apache-2.0
"""Runs that growth starts from, and what a model says bit by bit; for tests of growth and of packs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import tiny
import torch
from torch import Tensor

from unified.contracts.config import RunConfig
from unified.model.network import UnifiedNetwork
from unified.training.distillation import numbers
from unified.training.growth import Wish, grown_run
from unified.training.run import train

HEADS = ("free:det", "anchor:det", "query:det", "cls", "emb")
HEADED = ("tasks.anchor.head=detect_anchor", "tasks.query.head=detr")
LABELLED = (
    "labelled: {free: all, anchor: all, query: all, det: all, cls: all, emb: all, det2: all, tags: all, vec: all}"
)
SHORT = ("max_steps=2", "val_images=2")


def write_data(folder: Path, more: str = "") -> str:
    """A data file that labels every task of these tests."""
    text = tiny.DATA.replace("labelled: {det: all, cls: all, emb: all}", LABELLED) + more
    return tiny.write_data(folder, text)


def base_run(folder: Path, tasks: tuple[str, ...] = HEADS, *overrides: str) -> Path:
    """A run of two steps with some tasks; by default one for every kind of head."""
    tiny.cache_at(folder)
    from unified.contracts.document import load_run_config

    config, base = load_run_config(
        model=tiny.write_model(folder),
        data=write_data(folder),
        tasks=tasks,
        recipe=tiny.write_recipe(folder),
        overrides=(*SHORT, *(HEADED if tasks == HEADS else ()), *overrides),
    )
    train(config, base, out=folder / "base")
    return folder / "base"


def grown_config(folder: Path, start: Path, *overrides: str, **wish: object) -> tuple[RunConfig, Path]:
    """The configuration of a run of a few steps that adds to ``start``."""
    asked = Wish(start=start, **wish)  # type: ignore[arg-type]
    return grown_run(asked, write_data(folder), tiny.write_recipe(folder), (*SHORT, *overrides))


@torch.inference_mode()
def answers(network: UnifiedNetwork, tasks: Iterable[str]) -> dict[str, str]:
    """SHA-256 over all numbers that each task's head says of two fixed pictures, by task."""
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    said = network.eval()(images, tuple(tasks))
    return {task: _digest(numbers(output)) for task, output in said.items()}


def _digest(tensors: Iterable[Tensor]) -> str:
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
