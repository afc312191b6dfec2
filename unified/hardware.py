# SPDX-License-Identifier: Apache-2.0
"""What the machine can do: device, precision and memory layout, chosen by capability."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from unified.contracts.errors import ConfigError

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Hardware:
    """Where and how numbers are computed."""

    device: torch.device
    precision: str  # fp32, bf16 or fp16

    @property
    def dtype(self) -> torch.dtype | None:
        """The type autocast uses, None where it is off."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)

    def place(self, module: M) -> M:
        """The module on this device, its convolutions in the layout that is fast there."""
        return module.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None)


def pick_device(name: str) -> torch.device:
    """``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: the device is unknown or not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device '{name}' is not available here ({str(error).splitlines()[0]}); try cpu") from error
    return device


def _cpu_has_bf16() -> bool:
    """bf16 pays on a CPU only with instructions of its own: without them oneDNN emulates it, several times slower."""
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(features.get("avx512_bf16") or features.get("amx_bf16") or features.get("arm_bf16"))


def pick_precision(name: str, device: torch.device) -> str:
    """``auto`` takes bf16 where the hardware computes in it, else fp16 on CUDA, else fp32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"


def pick(device: str = "auto", precision: str = "auto") -> Hardware:
    """The hardware a run or a model uses."""
    chosen = pick_device(device)
    return Hardware(chosen, pick_precision(precision, chosen))


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def leave_a_core() -> None:
    """Computes on all cores but one, which feeds them; does nothing where OMP_NUM_THREADS says how many.

    A fixed rule, not a measurement at start: another number of threads gives other bits.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() - 1))


def pick_workers(workers: int | None) -> int:
    """Loader processes: as asked; else none on two cores, where a thread that works ahead is as fast, or one a core."""
    if workers is not None:
        return workers
    return 0 if cores() <= 2 else min(8, cores() - 1)
