# SPDX-License-Identifier: Apache-2.0
"""Safe reading of a PyTorch file: tensors and plain numbers only, nothing that could run.

Everything goes through torch's restricted reader; beside tensors only the numpy scalars and arrays are allowed that
the official files carry in ``best_fitness``.
"""

from __future__ import annotations

import codecs
import re
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from unified.contracts.errors import CheckpointError

ZIP, LEGACY = b"PK\x03\x04", b"\x80"  # what torch.save writes today, and wrote before 1.6
FITNESS = ("numpy.core.multiarray", "numpy._core.multiarray")  # numpy 1 and 2 name the same functions differently
WHOLE_MODEL = ("models.", "torch.nn.", "utils.", "ultralytics.", "yolor.")
_ASKED = re.compile(r"(?i:unsupported) (?:global: )?GLOBAL ([\w.]+)")  # torch's words for what it will not build
_CALLED = re.compile(r"(?i:unrecognized function|allowlist|can only (?:build|create))")


def read_state(path: Path) -> dict[str, Tensor]:
    """The network's tensors by their official names, as float32 or int64 on the CPU.

    Raises:
        CheckpointError: not a PyTorch file, damaged, holding code, or holding no network's tensors.
    """
    content = _read(path)
    state = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or (isinstance(content, Mapping) and "optimizer" in content and state is content):
        raise CheckpointError(f"'{path}' holds {_what(content)}; expected a dict whose 'model' is a state dict")
    tensors = {str(key).removeprefix("module."): value for key, value in state.items()}
    strange = next((key for key, value in tensors.items() if not isinstance(value, Tensor)), None)
    if strange is not None or not tensors:
        what = f"'{strange}' is no tensor" if tensors else "its state dict is empty"
        raise CheckpointError(f"'{path}' holds {_what(content)}: {what}; expected a dict whose 'model' is a state dict")
    return {key: _plain(path, key, value) for key, value in tensors.items()}


def _plain(path: Path, key: str, tensor: Tensor) -> Tensor:
    """The tensor in full precision; what cannot be a weight is refused."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
        raise CheckpointError(f"'{path}': {key} is no plain dense tensor; save the network in float32 and try again")
    tensor = tensor.detach().to(torch.float32 if tensor.is_floating_point() else torch.int64)
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"'{path}': {key} holds values that are not finite; the network that wrote it diverged")
    return tensor


def _read(path: Path) -> Any:
    start = first_bytes(path)
    if not start.startswith((ZIP, LEGACY)):
        raise CheckpointError(
            f"'{path}' is no PyTorch file ({seems(path, start)}); expected a .pt as torch.save writes it"
        )
    if start.startswith(ZIP) and not is_zipfile(path):
        raise CheckpointError(f"'{path}' is cut short or damaged (the end of the archive is missing); fetch it again")
    try:
        with safe_globals(_harmless()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice about old formats is not for the person who imports
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader fails in many ways on what others wrote; each becomes one line
        raise _refusal(path, error) from error


def _refusal(path: Path, error: Exception) -> CheckpointError:
    text = " ".join(str(error).split())
    asked = _ASKED.search(text)
    if asked or _CALLED.search(text):
        return CheckpointError(_code(path, _globals(path) or ([asked[1]] if asked else [])))
    unread = not text or text.startswith("Weights only load failed")
    reason = "its list of tensors cannot be read" if unread else text.split(". ")[0][:160]
    return CheckpointError(f"'{path}' is cut short or damaged ({reason}); fetch it again")


def _globals(path: Path) -> list[str]:
    """Classes and functions the file asks for beyond tensors, read without calling any."""
    try:
        found = get_unsafe_globals_in_checkpoint(path)
    except Exception:  # a legacy or damaged file: its names stay unknown
        return []
    return sorted(name for name in found if not name.startswith(("numpy.", "_codecs.")))


def _code(path: Path, found: list[str]) -> str:
    model = next((name for name in found if name.startswith(WHOLE_MODEL)), None)
    if model is None:
        what = f" ({found[0]})" if found else ""
        return f"'{path}' holds Python objects{what}: reading it would run code from the file; only tensors are read"
    return (
        f"'{path}' is a pickled whole model ({model}), as YOLOR's paper branch writes it: reading it would run code "
        "from the file, and its networks are other functions than those of the main branch; take the main branch's "
        "state-dict file (yolor_p6.pt, not yolor-p6.pt)"
    )


def _harmless() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """numpy scalars and arrays, under the names of numpy 1 and 2."""
    multiarray = import_module("numpy._core.multiarray")
    functions = [
        (getattr(multiarray, name), f"{root}.{name}") for root in FITNESS for name in ("scalar", "_reconstruct")
    ]
    numbers = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32")]
    return [*functions, np.ndarray, np.dtype, *numbers, codecs.encode]


def first_bytes(path: Path) -> bytes:
    """The beginning of a file.

    Raises:
        CheckpointError: it is missing, a folder, empty or unreadable.
    """
    if path.is_dir():
        raise CheckpointError(f"'{path}' is a folder; give an official file such as yolor_p6.pt")
    if not path.is_file():
        raise CheckpointError(f"no file at '{path}'; give an official file such as yolor_p6.pt")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {error.strerror or error}") from error
    if not start:
        raise CheckpointError(f"'{path}' is empty; fetch it again")
    return start


def seems(path: Path, start: bytes) -> str:
    """What a file looks like that is none of ours."""
    header = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and header < path.stat().st_size:
        return "it looks like safetensors"
    if start.lstrip()[:1] == b"<":
        return "it looks like a web page: the download failed"
    return f"it begins with {start[:8]!r}"


def _what(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    if ("optimizer" in content and content.get("model") is None) or {"state", "param_groups"} <= content.keys():
        return "an optimizer's state and no network"
    if "model" in content:
        return f"a 'model' of type {type(content['model']).__name__}"
    return f"a dict of {', '.join(repr(k) for k in list(content)[:3]) or 'nothing'}"
