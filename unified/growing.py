# SPDX-License-Identifier: Apache-2.0
"""A model in the hand that learns one more task; all that it knew stays as it was."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unified.trained import load_trained
from unified.training.growth import Wish, grown_run
from unified.training.monitor import Monitor, RunSummary
from unified.training.run import train

if TYPE_CHECKING:
    from unified.inference.model import UnifiedModel


def grow(
    model: UnifiedModel,
    tasks: str | Sequence[str] = (),
    data: str = "shapes",
    *,
    classes: str | None = None,
    latents: str | None = None,
    unfreeze: Sequence[str] = (),
    distill: float = 0.0,
    recipe: str | None = None,
    out: str | Path | None = None,
    settings: Sequence[str] = (),
    monitor: Monitor | None = None,
) -> RunSummary:
    """Trains new tasks on a model's network and gives them to the model; see :meth:`UnifiedModel.add_task`."""
    with tempfile.TemporaryDirectory(prefix="unified-grow-") as place:
        start = model.save_pretrained(Path(place) / model.trained.config.model.name)
        wish = Wish(
            start=start,
            tasks=(tasks,) if isinstance(tasks, str) else tuple(tasks),
            classes=classes,
            latents=latents,
            unfreeze=tuple(unfreeze),
            distill=distill,
        )
        options: dict[str, Any] = {"train.device": str(model.hardware.device)}
        config, base = grown_run(wish, data, recipe, settings, options)
        summary = train(config, base, out=None if out is None else Path(out), monitor=monitor, start=start)
    model.become(load_trained(summary.folder))
    return summary
