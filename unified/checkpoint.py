# SPDX-License-Identifier: Apache-2.0
"""A checkpoint: a folder of safetensors and JSON under a manifest of SHA-256 sums, written whole or not at all.

Nothing in it can run code. A folder becomes visible by a rename after everything in it has reached the disk, and
``load`` refuses what does not match its manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from unified.contracts.errors import CheckpointError

MANIFEST = "manifest.json"
STATE = "state.json"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by part (``ema``, ``model``, ``optimizer`` ...) and the JSON state beside them."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def _sync(path: Path) -> None:
    """Brings a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces a file as a whole: written beside it, synced, renamed.

    Raises:
        CheckpointError: the folder cannot be written, with the reason and the free bytes.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise unwritable(path.parent, error) from error


def unwritable(folder: Path, error: OSError) -> CheckpointError:
    """The error of a folder that cannot be written."""
    near = next((p for p in (folder, *folder.parents) if p.is_dir()), Path("/"))
    return CheckpointError(
        f"cannot write to '{folder}': {error.strerror or error} ({shutil.disk_usage(near).free} bytes free); "
        "choose another folder with --out"
    )


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint whole or not at all; an older one of the same name gives way at the last moment.

    Between that moment's two renames neither stands there: who must survive a power cut gives every checkpoint a name
    of its own.

    Raises:
        CheckpointError: the folder cannot be written; an older checkpoint is left as it was.
    """
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".new-{folder.name}-"))
        _fill(temporary / "whole", checkpoint)
        _swap(temporary / "whole", folder, aside=temporary / "older")
        _sync(folder.parent)
    except OSError as error:
        raise unwritable(folder.parent, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(whole: Path, folder: Path, aside: Path) -> None:
    """Puts a folder into the place of another, or leaves that one where it was."""
    if not folder.exists():
        whole.rename(folder)
        return
    folder.rename(aside)
    try:
        whole.rename(folder)
    except OSError:
        aside.rename(folder)
        raise


def _fill(folder: Path, checkpoint: Checkpoint) -> None:
    contents = {f"{part}.safetensors": _packed(tensors) for part, tensors in checkpoint.tensors.items()}
    contents[STATE] = json.dumps(checkpoint.state, indent=1, allow_nan=False).encode()
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    contents[MANIFEST] = json.dumps({"format": FORMAT, "sha256": sums}, indent=1).encode()
    folder.mkdir()
    for name, data in contents.items():
        with (folder / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    _sync(folder)


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def load_checkpoint(folder: Path, parts: tuple[str, ...] | None = None) -> Checkpoint:
    """Reads and verifies a checkpoint, or only some of its parts.

    Raises:
        CheckpointError: there is none, a file is missing or does not match its sum, or it is of a newer format.
    """
    manifest = _manifest(folder)
    names = [n for n in manifest if n.endswith(".safetensors") and (parts is None or n.split(".")[0] in parts)]
    contents = {name: _verified(folder / name, manifest.get(name)) for name in [*names, STATE]}
    for part in parts or ():
        if f"{part}.safetensors" not in names:
            raise CheckpointError(f"checkpoint '{folder}' has no part '{part}'; it has {', '.join(sorted(manifest))}")
    return Checkpoint({n.split(".")[0]: load(contents[n]) for n in names}, json.loads(contents[STATE]))


def _manifest(folder: Path) -> Mapping[str, str]:
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at '{folder}': it holds no {MANIFEST}")
    try:
        content = json.loads(path.read_text())
        version, sums = int(content["format"]), dict(content["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint '{folder}' is damaged: {MANIFEST} cannot be read ({error})") from error
    if version > FORMAT:
        raise CheckpointError(
            f"checkpoint '{folder}' has format {version}, this version reads {FORMAT}; update unified"
        )
    strange = [name for name in sums if name != STATE and (not name.endswith(".safetensors") or "/" in name)]
    if strange or version < 1:
        what = f"lists '{strange[0]}'" if strange else f"has format {version}"
        raise CheckpointError(f"checkpoint '{folder}' is damaged: {MANIFEST} {what}")
    return sums


def _verified(path: Path, expected: str | None) -> bytes:
    """What a file holds, read once: the bytes that were summed are those that are used."""
    if expected is None or not path.is_file():
        raise CheckpointError(f"checkpoint '{path.parent}' is damaged: {path.name} is missing")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != expected:
        raise CheckpointError(f"checkpoint '{path.parent}' is damaged: {path.name} does not match its SHA-256")
    return data


def fit_state(module: torch.nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Loads tensors into a module only if every name and shape fits.

    Raises:
        CheckpointError: names the first tensors that are missing, left over or of another shape; nothing is loaded.
    """
    own = module.state_dict()
    faults = [f"missing {k}" for k in own.keys() - tensors.keys()]
    faults += [f"left over {k}" for k in tensors.keys() - own.keys()]
    faults += [
        f"{k} is {tuple(tensors[k].shape)}, expected {tuple(own[k].shape)}"
        for k in own.keys() & tensors.keys()
        if own[k].shape != tensors[k].shape
    ]
    if faults:
        shown = "; ".join(sorted(faults)[:3])
        raise CheckpointError(
            f"'{source}' is a checkpoint of another configuration: {len(faults)} tensors differ ({shown})"
        )
    module.load_state_dict(dict(tensors))
