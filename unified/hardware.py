# SPDX-License-Identifier: Apache-2.0
"""What the machine can do: device, precision and memory layout, chosen by capability."""

from __future__ import annotations

import os
import re
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from unified.contracts.errors import ConfigError, suggestion

M = TypeVar("M", bound=nn.Module)
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


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
    """``auto`` takes bf16 where the hardware computes in it, else fp16 on CUDA, else fp32.

    Raises:
        ConfigError: the word is unknown.
    """
    if name not in PRECISIONS:
        raise ConfigError(f"unknown precision '{name}'{suggestion(name, PRECISIONS)}")
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


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """The same bits every time, on a GPU too; does nothing where that is not ``wanted``.

    Operations without such an implementation raise an error that names them.
    """
    if not wanted:
        yield
        return
    cudnn = torch.backends.cudnn
    filling: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), filling.fill_uninitialized_memory, cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    try:
        torch.use_deterministic_algorithms(True)
        filling.fill_uninitialized_memory = False  # a debugging aid, and slow
        cudnn.benchmark = False
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        filling.fill_uninitialized_memory, cudnn.benchmark = before[1:]


def compile_network(network: nn.Module, device: torch.device, sizes_vary: bool) -> None:
    """Has calls of a network run as compiled code. Its tensors keep their names, and copies of it are not compiled.

    Args:
        device: of the network.
        sizes_vary: whether it is worth making code for any size.

    Raises:
        ConfigError: there is no compiler for this device.
    """
    missing = _missing_compiler(device)
    if missing:
        raise ConfigError(f"train.compile needs {missing} on {device.type}, which is not here; leave it out")
    network.compile(dynamic=None if sizes_vary else False)


def _missing_compiler(device: torch.device) -> str | None:
    if device.type == "cuda":
        return None if find_spec("triton") else "triton"
    found = any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))
    return None if found else "a C++ compiler (g++ or clang++)"


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still use there, its own caches counted as free."""
    if device.type == "cuda":
        free = int(torch.cuda.mem_get_info(device)[0])
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = _available()
    limit, used = (_number(Path("/sys/fs/cgroup", name)) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else min(free, max(limit - used, 0))


def _available() -> int:
    """Bytes of memory that no process needs, by Linux; elsewhere half of what the machine has."""
    told = Path("/proc/meminfo").read_text() if Path("/proc/meminfo").is_file() else ""
    if found := re.search(r"^MemAvailable:\s+(\d+) kB", told, re.MULTILINE):
        return 1024 * int(found[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _number(path: Path) -> int | None:
    """What a file of the kernel says, None where there is none or it sets no limit."""
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None


def peak_memory_mb(device: torch.device) -> float:
    """Accelerator memory at its highest, or this process's own, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def pick_workers(workers: int | None) -> int:
    """Loader processes: as asked; else none on two cores, where a thread that works ahead is as fast, or one a core."""
    if workers is not None:
        return workers
    return 0 if cores() <= 2 else min(8, cores() - 1)
