# SPDX-License-Identifier: Apache-2.0
"""What one finished training says: its scores, what they cost, and all that must match before they are compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unified.contracts.config import RunConfig
from unified.contracts.errors import CheckpointError
from unified.data.fingerprint import fingerprints
from unified.model.build import task_class
from unified.model.defaults import spelled_out
from unified.model.latents.fold import fold
from unified.model.network import UnifiedNetwork
from unified.study.budget import budget_of, opened
from unified.study.job import dotted
from unified.trained import load_trained
from unified.training.folder import RunFolder
from unified.training.run import Splits

PLACE_ONLY = ("seed", "device", "workers", "cache", "cache_gb", "unreadable", "diagnostics", "evaluate_every")
LENGTH = ("epochs", "max_steps")  # compared as images with labels instead
KEEPING = ("save_every", "save_minutes", "keep_last", "worker_timeout", "logging")


@dataclass(frozen=True)
class Result:
    """A finished training."""

    arm: str
    tasks: tuple[str, ...]
    seed: int
    scores: Mapping[str, float]  # by task, its primary score
    primary: Mapping[str, str]  # by task, that score's name
    metrics: Mapping[str, float]  # all of them, of the last evaluation: none is chosen by the validation data
    steps: int
    images: int  # that passed through the network in training
    labelled: Mapping[str, int]  # by task, those that carried its labels
    parameters: int  # of the network, z included
    latents: int  # of these, in z
    flops: int  # of a forward pass of one image, z folded; a multiplication and an addition are two
    seconds: float  # of training
    data: Mapping[str, Mapping[str, str]]  # by task, fingerprints of the datasets that label it, both splits
    trunk: str  # digest of backbone, neck, norms and input size
    settings: Mapping[str, Any] = field(default_factory=dict)  # by dotted key, all else that decides a score
    rules: str = ""  # its latents in words
    lower: tuple[str, ...] = ()  # tasks whose primary score is better the lower it is

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "tasks": list(self.tasks), "lower": list(self.lower)}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Result:
        return cls(**{**told, "tasks": tuple(told["tasks"]), "lower": tuple(told.get("lower", ()))})


def result_of(run: Path, arm: str = "") -> Result:
    """Reads a finished run.

    Raises:
        CheckpointError: there is none, or it has not come to its end.
    """
    folder = RunFolder.open(run)
    config = folder.read_config()
    state = folder.load("last", parts=()).state
    splits = opened(config, Path(state["base"]))
    budget, metrics = budget_of(config, splits.train), folder.read_metrics()
    done = int(state["progress"]["step"])
    if done < budget.steps and not config.train.max_minutes:
        raise CheckpointError(f"'{run}' stopped at step {done} of {budget.steps}; unified-train --resume {run} ends it")
    network = load_trained(run).network
    primary = {name: task_class(task).primary for name, task in config.tasks.items()}
    missing = [f"{name}/{score}" for name, score in primary.items() if f"{name}/{score}" not in metrics]
    if missing:
        raise CheckpointError(f"'{run}' has no score {missing[0]}: its validation data has no evidence for it")
    return Result(
        arm=arm,
        tasks=tuple(config.tasks),
        seed=config.train.seed,
        scores={name: metrics[f"{name}/{score}"] for name, score in primary.items()},
        primary=primary,
        metrics=metrics,
        steps=done,
        images=int(state["progress"]["images"]),
        labelled=dict(budget.labelled),
        parameters=sum(p.numel() for p in network.parameters()),
        latents=sum(p.numel() for p in network.bank.parameters()),
        flops=flops(network, config.train.size),
        seconds=round(float(state["progress"]["seconds"]), 3),
        data=data_of(splits, tuple(config.tasks)),
        trunk=_digest({"size": config.train.size, **config.model.model_dump(mode="json", include=_TRUNK)}),
        settings=comparable(config),
        rules=rules(config),
        lower=tuple(name for name, score in primary.items() if score in task_class(config.tasks[name]).lower),
    )


_TRUNK = {"backbone", "neck", "norm", "activation"}


def data_of(splits: Splits, tasks: Sequence[str]) -> dict[str, dict[str, str]]:
    """Fingerprints of the datasets that label each task, by ``dataset (split)``."""
    known = {"train": splits.train, "val": splits.val}
    prints = fingerprints(known)
    return {
        task: {
            f"{name} ({split})": prints[f"{name} ({split})"]
            for split, mixture in known.items()
            for name, served in mixture.serves.items()
            if task in served
        }
        for task in tasks
    }


def flops(network: UnifiedNetwork, size: int) -> int:
    """Of one image's forward pass through all tasks, with latents folded as they are where it matters."""
    return count_flops(fold(network).network, torch.zeros(1, 3, size, size))


def count_flops(network: nn.Module, images: torch.Tensor) -> int:
    """Of convolutions and matrix products; what is done number by number is not counted."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(images)
    return int(counter.get_total_flops())


def comparable(config: RunConfig) -> dict[str, Any]:
    """What decides a score beside data, trunk, tasks, seed, length and latents, by dotted key.

    A head stands below its task (``tasks.det.model.heads.detect_free.bins``), since others are not concerned.
    """
    config = spelled_out(config)
    whole, heads = config.model_dump(mode="json"), config.model.heads
    train = {k: v for k, v in whole["train"].items() if k not in (*PLACE_ONLY, *LENGTH, *KEEPING)}
    tasks = {name: {k: v for k, v in task.items() if k != "task"} for name, task in whole["tasks"].items()}
    for name, task in config.tasks.items():
        head = task.head.name if task.head else config.model.default_heads[task.task]
        tasks[name]["model"] = {"heads": {head: heads[head]}}
    return dotted({"train": train, "tasks": tasks, "balance": whole["balance"]})


def rules(config: RunConfig) -> str:
    """The latents of a run in one-line rules."""
    words = []
    for rule in config.model.latents:
        latent = "" if rule.latent.name == "vector" else f":{rule.latent.name}"
        some = f"[{','.join(rule.only)}]" if rule.only else ""
        words.append(f"{rule.site}={rule.operator.name}{some}{latent}")
    return " ".join(words) or "none"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
