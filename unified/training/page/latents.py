# SPDX-License-Identifier: Apache-2.0
"""Every z of a network as it was at the start and as it is now: ``report.safetensors``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from unified.contracts.errors import CheckpointError
from unified.disk import write_bytes
from unified.model.network import UnifiedNetwork
from unified.training.page.record import LatentNote

NAME = "report.safetensors"


def latent_notes(network: UnifiedNetwork) -> tuple[LatentNote, ...]:
    """What each z is, in the bank's order."""
    return tuple(
        LatentNote(
            key=f"{entry.task}/{entry.site}/{number}",
            task=entry.task,
            site=entry.site,
            latent=entry.words[0],
            operator=entry.words[1],
        )
        for number, entry in enumerate(network.bank.entries())
    )


@torch.no_grad()
def latent_values(network: UnifiedNetwork, when: str) -> dict[str, Tensor]:
    """z (width,) by ``WHEN/KEY``, float32 on the CPU; and under ``identity/KEY`` the z that would change nothing."""
    found = {}
    for note, entry in zip(latent_notes(network), network.bank.entries(), strict=True):
        found[f"{when}/{note.key}"] = entry.latent().detach().float().cpu().clone()
        found[f"identity/{note.key}"] = entry.operator.identity().detach().float().cpu().clone()
    return found


def read_values(run: Path) -> dict[str, Tensor]:
    """What a run's folder holds; empty where there is no such file.

    Raises:
        CheckpointError: it is damaged.
    """
    path = run / NAME
    if not path.is_file():
        return {}
    try:
        return load(path.read_bytes())
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"'{path}' is damaged ({error}); remove it to do without") from error


def write_values(run: Path, values: Mapping[str, Tensor]) -> None:
    """Replaces the file as a whole.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    write_bytes(run / NAME, save({name: value.contiguous() for name, value in values.items()}))
