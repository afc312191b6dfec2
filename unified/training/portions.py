# SPDX-License-Identifier: Apache-2.0
"""Batches in portions, for memory that is too short for a whole one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from unified.contracts.structures import Batch, LossTerm

_WORDS = ("out of memory", "can't allocate memory", "not enough memory")  # CUDA and MPS; the CPU's allocator


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def portioned(batch: Batch, parts: int) -> list[Batch]:
    """A batch as at most ``parts`` batches of neighbours, as equal as can be.

    Portions are of an even size where the batch is: two views of an image stand side by side and stay together.
    """
    many = len(batch)
    if parts <= 1 or many <= 1:
        return [batch]
    size = -(-many // parts)
    size += size % 2 if many % 2 == 0 and size > 1 else 0
    rows = [slice(first, min(first + size, many)) for first in range(0, many, size)]
    return [
        replace(batch, images=batch.images[r], annotations=batch.annotations[r], frames=batch.frames[r]) for r in rows
    ]


def shrunk(parts: int, images: int) -> tuple[int, str] | None:
    """Twice as many portions and the line that says so; None where a portion is one image already.

    Args:
        parts: portions of a batch so far.
        images: of the largest batch that did not fit.
    """
    if -(-images // parts) <= 1:
        return None
    return 2 * parts, (
        f"out of memory: batches of {images} images go through {-(-images // (2 * parts))} at a time from here on; "
        "a step's images and their order stay as they were (batch norm sees each portion on its own)"
    )


def added(terms: Sequence[Mapping[str, Mapping[str, LossTerm]]]) -> dict[str, dict[str, LossTerm]]:
    """The terms of a whole from those of its portions: sums and counts add up."""
    return {
        task: {
            name: LossTerm(
                torch.stack([each[task][name].sum for each in terms]).sum(),
                torch.stack([each[task][name].count for each in terms]).sum(),
                term.weight,
            )
            for name, term in items.items()
        }
        for task, items in terms[0].items()
    }
