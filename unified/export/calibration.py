# SPDX-License-Identifier: Apache-2.0
"""Pictures for an 8-bit network: those to take its ranges from, and those to score it on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from numpy.typing import NDArray

from unified.contracts.document import load_data
from unified.contracts.errors import DataError
from unified.contracts.exporting import Pictures
from unified.data.loader import EvalLoader, spoilage_of
from unified.data.mixing import Mixture, open_mixture
from unified.model.network import as_input
from unified.trained import Trained


def open_split(trained: Trained, data: str, split: Literal["train", "val"], size: int) -> Mixture:
    """A split of a dataset in the words of a trained network.

    Args:
        trained: knows the words.
        data: name or path of a data file, or a dataset's folder.
        split: ``train`` to calibrate, ``val`` to score.
        size: pixels: side of the input.

    Raises:
        UnifiedError: it cannot be opened.
    """
    kinds = {name: task.task for name, task in trained.config.tasks.items()}
    config, base = load_data(data, kinds)
    tasks = trained.tasks
    return open_mixture(
        config,
        {name: task.labels for name, task in tasks.items()},
        split=split,
        size=size,
        base=base,
        vocabulary=trained.vocabulary,
        breaks={name: task.breaks for name, task in tasks.items()},
    )


def loader(trained: Trained, mixture: Mixture, batch: int, limit: int | None) -> EvalLoader:
    """Its pictures in order, fitted to the input."""
    spoilage = spoilage_of(mixture, trained.config.train.unreadable)
    return EvalLoader(mixture, batch=batch, limit=limit, spoilage=spoilage)


def calibration_pictures(trained: Trained, data: str, size: int, samples: int) -> Pictures:
    """Pictures of the training split, shared out evenly over its datasets.

    Raises:
        DataError: it has none.
    """
    mixture = open_split(trained, data, "train", size)
    if not mixture.sources:
        raise DataError(f"'{data}' has no training split to calibrate with")
    each = -(-samples // len(mixture.sources))

    def pictures() -> Iterator[NDArray[Any]]:
        for batch in loader(trained, mixture, 8, each):
            yield from (image[None].numpy() for image in as_input(batch.images))

    return pictures
