# SPDX-License-Identifier: Apache-2.0
"""A checkpoint: a folder of safetensors and JSON under a manifest of SHA-256 sums, written whole or not at all.

Nothing in it can run code. A folder becomes visible by a rename after everything in it has reached the disk, and
``load_checkpoint`` refuses what does not match its manifest.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from unified.contracts.errors import CheckpointError
from unified.disk import NEW, clear, make_folder, read_regular, sync, unwritable, write_bytes, write_new
from unified.manifest import MANIFEST, STATE, Entry, Manifest, damaged, read_manifest
from unified.tensors import pieces, unpacked

__all__ = ["MANIFEST", "Checkpoint", "fit_state", "load_checkpoint", "save_checkpoint", "unwritable", "write_bytes"]

LARGEST: Final = 1 << 40  # bytes of a file whose manifest does not tell its size


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by part (``ema``, ``model``, ``optimizer`` ...) and the JSON state beside them."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]

    def said(self, key: str) -> Any:
        """A value of the state.

        Raises:
            CheckpointError: it is not there, as in a checkpoint that was made for something else.
        """
        if key not in self.state:
            raise CheckpointError(
                f"the checkpoint does not say its '{key}'; it says {', '.join(self.state) or 'nothing'}"
            )
        return self.state[key]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint whole or not at all; an older one of the same name gives way at the last moment.

    Between that moment's two renames neither stands there: who must survive a power cut gives every checkpoint a name
    of its own.

    Raises:
        CheckpointError: the folder cannot be written; an older checkpoint is left as it was.
    """
    try:
        place_checkpoint(folder, checkpoint)
    except OSError as error:
        raise unwritable(folder.parent, error) from error


def place_checkpoint(folder: Path, checkpoint: Checkpoint) -> str:
    """As :func:`save_checkpoint`, for those who have their own words for a disk that is full.

    Returns:
        SHA-256 of the manifest and, through it, of everything in the checkpoint.

    Raises:
        OSError: the folder cannot be written; an older checkpoint is left as it was.
    """
    temporary = folder.parent / f"{NEW}{folder.name}-{secrets.token_hex(4)}"
    try:
        make_folder(folder.parent)
        os.mkdir(temporary)  # noqa: PTH102
        digest = _fill(temporary / "whole", checkpoint, folder.name)
        _swap(temporary / "whole", folder, aside=temporary / "older")
        sync(folder.parent)
        return digest
    finally:
        clear(temporary)


def _swap(whole: Path, folder: Path, aside: Path) -> None:
    """Puts a folder into the place of another, or leaves that one where it was."""
    if not os.path.lexists(folder):
        whole.rename(folder)
        return
    folder.rename(aside)
    try:
        whole.rename(folder)
    except OSError:
        aside.rename(folder)
        raise


def _fill(folder: Path, checkpoint: Checkpoint, name: str) -> str:
    state = json.dumps(checkpoint.state, indent=1, allow_nan=False).encode()
    os.mkdir(folder)  # noqa: PTH102
    files = {f"{part}.safetensors": pieces(tensors) for part, tensors in checkpoint.tensors.items()}
    sums = {file: Entry(*write_new(folder / file, each)) for file, each in files.items()}
    sums[STATE] = Entry(*write_new(folder / STATE, [state]))
    digest, _ = write_new(folder / MANIFEST, [Manifest(sums, name).dump()])
    sync(folder)
    return digest


def load_checkpoint(folder: Path, parts: tuple[str, ...] | None = None, name: str | None = None) -> Checkpoint:
    """Reads and verifies a checkpoint, or only some of its parts.

    Args:
        folder: where it is.
        parts: names of the tensors' files; by default all.
        name: what it must have been written as, where it matters that no other was put in its place.

    Raises:
        CheckpointError: there is none, a file is missing or does not match its sum, or it is of a newer format.
    """
    manifest = read_manifest(folder)
    if name is not None and manifest.name not in (None, name):
        raise damaged(folder, f"it was written as {manifest.name}")
    wanted = manifest.parts if parts is None else [f"{part}.safetensors" for part in parts]
    absent = next((file for file in wanted if file not in manifest.files), None)
    if absent is not None:
        part, known = absent.removesuffix(".safetensors"), ", ".join(sorted(manifest.files))
        raise CheckpointError(f"checkpoint '{folder}' has no part '{part}'; it has {known}")
    state = _state(folder, _verified(folder / STATE, manifest.files.get(STATE)))
    return Checkpoint({f.removesuffix(".safetensors"): _tensors(folder / f, manifest) for f in wanted}, state)


def _state(folder: Path, data: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(folder, f"{STATE} is no JSON ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise damaged(folder, f"{STATE} holds a {type(content).__name__}, expected an object")
    return content


def _tensors(path: Path, manifest: Manifest) -> Mapping[str, Tensor]:
    try:
        return unpacked(_verified(path, manifest.files[path.name]))
    except ValueError as error:
        raise damaged(path.parent, f"{path.name} is no safetensors file ({error})") from error


def _verified(path: Path, expected: Entry | None) -> bytes:
    """What a file holds, read once: the bytes that were summed are those that are used."""
    if expected is None:
        raise damaged(path.parent, f"{path.name} is missing")
    try:
        data = read_regular(path, LARGEST if expected.size is None else expected.size)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise damaged(path.parent, f"{path.name} is missing") from error
    except OSError as error:
        raise damaged(path.parent, f"{path.name} cannot be read ({error.strerror})") from error
    if not expected.fits(data):
        raise damaged(path.parent, f"{path.name} does not match its SHA-256")
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
