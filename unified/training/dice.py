# SPDX-License-Identifier: Apache-2.0
"""Random generators of every kind, as tensors that bring them back bit for bit."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from unified.contracts.errors import CheckpointError

_WORDS = 624  # of a Mersenne twister


def sown(seed: int) -> None:
    """Seeds torch, numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def of_torch(device: torch.device) -> dict[str, Tensor]:
    """Where torch's generators stand; quick enough for every step."""
    found = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def picked_up(device: torch.device) -> dict[str, Tensor]:
    """Where this process's generators stand: (n,) uint8 each, of one length on every rank."""
    return of_torch(device) | {"numpy": _of_numpy(), "python": _of_python()}


def laid_down(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Puts the generators where they stood when ``states`` were picked up; one that is missing stays as it is.

    Raises:
        CheckpointError: a state is not one.
    """
    try:
        if "torch" in states:
            torch.set_rng_state(states["torch"].clone())  # a row of a larger tensor is read from the wrong place
        if "cuda" in states and device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"].clone(), device)
        if "numpy" in states:
            _to_numpy(states["numpy"])
        if "python" in states:
            _to_python(states["python"])
    except (RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(f"the checkpoint's random state cannot be used: {str(error).splitlines()[0]}") from error


def _packed(words: object, more: tuple[int, int], gauss: float) -> Tensor:
    """A twister's words, two whole numbers and the normal deviate it has in hand."""
    parts = [np.asarray(words, np.uint32), np.array(more, np.uint32), np.array([gauss], np.float64).view(np.uint32)]
    return torch.from_numpy(np.concatenate(parts).view(np.uint8).copy())


def _unpacked(state: Tensor, words: int) -> tuple[list[int], tuple[int, int], float]:
    whole = state.numpy().copy().view(np.uint32)
    if len(whole) != words + 4:
        raise ValueError(f"{len(whole)} words, expected {words + 4}")
    first, second = (int(word) for word in whole[words : words + 2])
    return whole[:words].tolist(), (first, second), float(whole[words + 2 :].copy().view(np.float64)[0])


def _of_numpy() -> Tensor:
    _, words, place, has_gauss, gauss = np.random.get_state(legacy=True)
    return _packed(words, (int(place), int(has_gauss)), float(gauss))


def _to_numpy(state: Tensor) -> None:
    words, (place, has_gauss), gauss = _unpacked(state, _WORDS)
    np.random.set_state(("MT19937", np.array(words, np.uint32), place, has_gauss, gauss))


def _of_python() -> Tensor:
    version, words, gauss = random.getstate()
    return _packed(words, (version, int(gauss is not None)), gauss or 0.0)


def _to_python(state: Tensor) -> None:
    words, (version, has_gauss), gauss = _unpacked(state, _WORDS + 1)
    random.setstate((version, tuple(words), gauss if has_gauss else None))
