# SPDX-License-Identifier: Apache-2.0
"""Texts in the space of a model's image vectors, for models that learned from captions (task ``cap``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from unified.contracts.errors import ConfigError, DataError
from unified.inference.encoder import shorten

if TYPE_CHECKING:
    from unified.inference.model import UnifiedModel


def encode_text(self: UnifiedModel, texts: str | Sequence[str], truncate_dim: int | None = None) -> Tensor:
    """Vectors of texts, to be compared with those of :meth:`encode`: of the pictures that show what the texts say.

    Args:
        texts: one or several.
        truncate_dim: keep only the first so many coordinates; give :meth:`encode` the same.

    Returns:
        (n, D) float32 of unit length on the CPU, or (D,) for a single text.

    Raises:
        ConfigError: the model has not learned from captions, or its sentence encoder is not on this machine.
        DataError: an empty text.
    """
    several = [texts] if isinstance(texts, str) else list(texts)
    if any(not text.strip() for text in several):
        raise DataError("an empty text says nothing to look for")
    vectors = shorten(_speaker(self).encode_texts(several), truncate_dim, True)
    return vectors[0] if isinstance(texts, str) else vectors


def _speaker(model: UnifiedModel) -> Any:
    """The task that understands texts; the last one, as :meth:`UnifiedModel.space` has it."""
    speaking = [task for name in model.tasks if hasattr(task := model.trained.tasks[name], "encode_texts")]
    if not speaking:
        raise ConfigError(
            f"this model has not learned from captions; its tasks are {', '.join(model.tasks)}: train one with task cap"
        )
    if speaking[-1].name != list(model.spaces)[-1]:
        raise ConfigError(
            f"this model's pictures are embedded by task '{list(model.spaces)[-1]}', which knows no texts; load it "
            f"with tasks=['{speaking[-1].name}'], and index with that"
        )
    return speaking[-1]
