# SPDX-License-Identifier: Apache-2.0
"""Going on with a run: whether it is still the same run, and whether every bit will be what it would have been."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch

import unified
from unified.contracts.config import RunConfig
from unified.contracts.errors import CheckpointError, ConfigError
from unified.hardware import Hardware
from unified.training.ranks import may_restart, restarts

PACKAGES: Final = ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow", "pytorch-metric-learning")

FREE: Final = (  # settings that change no weight
    "train.device",
    "train.workers",
    "train.worker_timeout",
    "train.cache",
    "train.cache_gb",
    "train.unreadable",
    "train.save_every",
    "train.save_minutes",
    "train.keep_last",
    "train.diagnostics",
    "train.logging",
    "train.shard",
)


def surroundings(hardware: Hardware, ranks: int | str) -> dict[str, Any]:
    """What decides the bits beside configuration and data, as JSON: the same here and there gives the same weights."""
    found: dict[str, Any] = {"unified": unified.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    cuda = hardware.device.type == "cuda"
    return found | {
        "machine": f"{sys.platform} {platform.machine()}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(hardware.device) if cuda else hardware.device.type,
        "cuda": torch.version.cuda if cuda else None,
        "precision": hardware.precision,
        "threads": torch.get_num_threads(),
        "ranks": ranks,
    }


def inexact(saved: Mapping[str, Any], config: RunConfig, hardware: Hardware, now: Mapping[str, Any]) -> list[str]:
    """Every reason for which a resumed run cannot be told to end with the very same bits.

    Args:
        saved: a checkpoint's state.
        config: of the run that goes on.
        hardware: what it goes on with.
        now: its surroundings.
    """
    then = saved.get("surroundings")
    if not isinstance(then, Mapping):
        reasons = ["the checkpoint does not tell what it was made with"]
    else:
        names = [*then, *(name for name in now if name not in then)]
        reasons = [
            f"{name} was {_shown(then.get(name))}, is {_shown(now.get(name))}"
            for name in names
            if then.get(name) != now.get(name)
        ]
    if config.train.max_minutes:
        reasons.append("the clock (max_minutes) decides how long it trains")
    if hardware.device.type != "cpu" and not torch.are_deterministic_algorithms_enabled():
        reasons.append(f"kernels on {hardware.device.type} need not repeat themselves without deterministic mode")
    return reasons


def _shown(value: Any) -> str:
    return "unknown" if value is None else str(value)


def changes(saved: Mapping[str, Any], config: RunConfig, fingerprints: Mapping[str, str]) -> list[str]:
    """What is no longer as it was when the checkpoint was made: settings by key, datasets by name."""
    return [*_settings(saved.get("config"), config), *_datasets(saved.get("fingerprints"), fingerprints)]


def _settings(then: Any, config: RunConfig) -> list[str]:
    if not isinstance(then, Mapping):
        return []
    before = _dotted(RunConfig.model_validate(then).model_dump(mode="json"))
    after = _dotted(config.model_dump(mode="json"))
    return [
        f"{key}: {before.get(key, 'not set')} -> {after.get(key, 'not set')}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key) and not any(key == free or key.startswith(f"{free}.") for free in FREE)
    ]


def _datasets(then: Any, now: Mapping[str, str]) -> list[str]:
    if not isinstance(then, Mapping):
        return []
    changed = [f"dataset {name} has other images or annotations" for name in then if now.get(name, "") != then[name]]
    return changed + [f"dataset {name} is new" for name in now if name not in then]


def _dotted(value: Any, key: str = "") -> dict[str, Any]:
    """Leaves by dotted key; lists and empty mappings count as leaves."""
    if not isinstance(value, Mapping) or not value:
        return {key: value}
    return {
        k: leaf for name, item in value.items() for k, leaf in _dotted(item, f"{key}.{name}" if key else name).items()
    }


def refuse(changed: list[str], run: object) -> None:
    """Ends here where something has changed.

    Raises:
        CheckpointError: names all that has.
    """
    if changed:
        raise CheckpointError(
            f"--resume {run}: not the run that was begun: {'; '.join(changed)}; "
            "put it back, or go on all the same with --force"
        )


def resumed(
    saved: Mapping[str, Any],
    config: RunConfig,
    hardware: Hardware,
    describe: Mapping[str, Any],
    run: object,
    force: bool,
) -> list[str]:
    """Remarks about a run that goes on: what has changed, and why its bits may differ.

    Args:
        saved: the checkpoint's state.
        describe: what checkpoints will say from now on, ``fingerprints`` and ``surroundings`` among it.

    Raises:
        CheckpointError: configuration or data has changed, and nobody forces it to go on.
    """
    changed = changes(saved, config, describe["fingerprints"])
    if not force:
        refuse(changed, run)
    reasons = inexact(saved, config, hardware, describe["surroundings"])
    if changed:
        reasons.append("it is not the run that was begun")
    return [
        *([f"changed since the run was begun: {'; '.join(changed)}"] if changed else []),
        *([f"not bit-exact because {'; '.join(reasons)}"] if reasons else []),
    ]


def restarted(out: Path | None) -> Path | None:
    """The run to go on with where torchrun has started a run anew: what stands in ``out``, if it was ever saved.

    Raises:
        ConfigError: torchrun may start anew what nobody could find again.
    """
    if out is None:
        if may_restart():
            raise ConfigError("torchrun --max-restarts needs --out FOLDER: a restart could not find its run otherwise")
        return None
    saved = (out / "config.yaml").is_file() and (out / "checkpoints" / "last").is_file()
    return out if restarts() > 0 and saved else None
