# SPDX-License-Identifier: Apache-2.0
"""On what a run ran: versions, machine and settings that its numbers depend on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = (
    "unified-networks",
    "torch",
    "torchvision",
    "timm",
    "accelerate",
    "numpy",
    "pillow",
    "faster-coco-eval",
    "pytorch-metric-learning",
    "safetensors",
)


def environment(device: str, precision: str) -> dict[str, str]:
    """Everything by name, in the order in which it is worth reading. Names no user and no folder."""
    found = {"Python": platform.python_version()}
    found |= {name: told for name in PACKAGES if (told := _version(name))}
    found |= {"system": f"{platform.system()} {platform.release()} {platform.machine()}", "processor": _processor()}
    threads = torch.get_num_threads()
    found |= {"cores": str(os.cpu_count() or "?"), "threads": str(threads), "device": device, "precision": precision}
    place = torch.device(device)
    if place.type == "cuda" and torch.cuda.is_available():
        card = torch.cuda.get_device_properties(place)
        found |= {"accelerator": f"{card.name}, {card.total_memory / 2**30:.0f} GiB", "CUDA": str(torch.version.cuda)}
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    """The processor's name as Linux tells it, or as Python does."""
    told = Path("/proc/cpuinfo")
    try:
        lines = told.read_text(errors="replace").splitlines() if told.is_file() else []
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
