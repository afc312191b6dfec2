# SPDX-License-Identifier: Apache-2.0
"""The fingerprint of an embedding space: vectors of equal fingerprints can be compared, others cannot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor

from unified.contracts.config import ModelConfig
from unified.data.picture import GREY
from unified.model.network import UnifiedNetwork

VERSION: Final = 1  # of what goes into the sum
_IDLE: Final = ("num_batches_tracked",)  # counts of training that change no answer


def fingerprint(network: UnifiedNetwork, model: ModelConfig, task: str, side: int) -> str:
    """A SHA-256 (64 hexadecimal digits) over all that decides an embedding task's vectors.

    These are the weights of the trunk, the neck, the task's own latents and head, how they are put together, and how
    a picture is fitted. Neither the task's name, nor other tasks, nor device and precision are part of it; a folded or
    retrained network is another space.

    Args:
        network: with its weights.
        model: how it was put together.
        task: which gives the vectors.
        side: of the network's input in pixels.

    Raises:
        ConfigError: an exported network, which knows its fingerprints, does not know the one at this side.
    """
    known = getattr(network, "fingerprint", None)
    if known is not None:
        return str(known(task, side))
    total = hashlib.sha256(json.dumps(_plan(network, model, task, side), sort_keys=True, default=str).encode())
    for name, tensor in sorted(_tensors(network, task)):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(_bytes(tensor))
    return total.hexdigest()


def _plan(network: UnifiedNetwork, model: ModelConfig, task: str, side: int) -> dict[str, Any]:
    """What the tensors do not say: how parts are joined and pictures fitted."""
    trunk = model.backbone.model_dump()
    trunk["options"] = {name: value for name, value in trunk["options"].items() if name != "pretrained"}
    return {
        "version": VERSION,
        "backbone": trunk,
        "neck": model.neck.model_dump(),
        "norm": model.norm.model_dump(),
        "activation": model.activation,
        "head": type(network.heads[task]).__name__,
        "latents": [(e.site, *e.words) for e in network.bank.entries() if e.task == task],
        "picture": {"side": side, "fit": "letterbox", "fill": GREY, "values": "rgb / 255"},
    }


def _tensors(network: UnifiedNetwork, task: str) -> Iterator[tuple[str, Tensor]]:
    parts: dict[str, Any] = {"backbone": network.backbone, "neck": network.neck, "head": network.heads[task]}
    if task in network.bank.tasks:
        parts["latents"] = network.bank.tasks[task]
    for part, module in parts.items():
        for name, tensor in module.state_dict().items():
            if not name.endswith(_IDLE):
                yield f"{part}.{name}", tensor


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
