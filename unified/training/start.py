# SPDX-License-Identifier: Apache-2.0
"""Weights to begin with: a trained model's, as far as they fit another run's network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from unified.contracts.config import GrowthConfig
from unified.contracts.errors import CheckpointError
from unified.pretrained import TRUNK, part_of
from unified.trained import trained_tensors

SHOWN = 12  # names of fresh tensors that are told


def begin_with(network: nn.Module, source: Path, growth: GrowthConfig | None = None) -> str:
    """Gives ``network`` every averaged tensor of ``source`` whose name and shape agree; the others stay fresh.

    With another number of classes these are the output convolutions and the z behind them.

    Args:
        network: a new network.
        source: folder of a run, or of a model that was saved to be handed on.
        growth: what must come from there whole: the trunk and these tasks.

    Returns:
        One line that says how many tensors were taken and which were not.

    Raises:
        CheckpointError: there is no checkpoint, nothing of it fits, or not all does that must.
    """
    given = trained_tensors(source)
    own = network.state_dict()
    taken = {name: given[name] for name in own if name in given and given[name].shape == own[name].shape}
    if not taken:
        raise CheckpointError(
            f"--from {source}: none of its {len(given)} tensors fits this network; is --model the same?"
        )
    if growth and growth.tasks:
        _whole(own, taken, given, growth, source)
    network.load_state_dict(taken, strict=False)
    fresh = [name for name in own if name not in taken]
    line = f"begun with {len(taken)} of {len(own)} tensors from {source}"
    if not fresh:
        return line
    more = f" and {len(fresh) - SHOWN} more" if len(fresh) > SHOWN else ""
    return f"{line}; fresh: {', '.join(fresh[:SHOWN])}{more}"


def _whole(
    own: Mapping[str, Tensor],
    taken: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    growth: GrowthConfig,
    source: Path,
) -> None:
    """Whether trunk and old tasks are what they were, tensor by tensor."""
    parts = (TRUNK, *growth.tasks)
    lost = [name for name in own if part_of(name) in parts and name not in taken]
    lost += [name for name in given if part_of(name) in parts and name not in own]
    if lost:
        raise CheckpointError(
            f"--from {source}: its '{lost[0]}' does not fit this network, so old answers would change; "
            "leave out what changes the model"
        )
