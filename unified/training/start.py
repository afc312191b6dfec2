# SPDX-License-Identifier: Apache-2.0
"""Weights to begin with: a trained model's, as far as they fit another run's network."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from unified.contracts.errors import CheckpointError
from unified.trained import trained_checkpoint

SHOWN = 12  # names of fresh tensors that are told


def begin_with(network: nn.Module, source: Path) -> str:
    """Gives ``network`` every averaged tensor of ``source`` whose name and shape agree; the others stay fresh.

    With another number of classes these are the output convolutions and the z behind them.

    Args:
        network: a new network.
        source: folder of a run or of a model.

    Returns:
        One line that says how many tensors were taken and which were not.

    Raises:
        CheckpointError: there is no checkpoint, or nothing of it fits.
    """
    given = trained_checkpoint(source, parts=("ema",)).checkpoint.tensors["ema"]
    own = network.state_dict()
    taken = {name: given[name] for name in own if name in given and given[name].shape == own[name].shape}
    if not taken:
        raise CheckpointError(
            f"--from {source}: none of its {len(given)} tensors fits this network; is --model the same?"
        )
    network.load_state_dict(taken, strict=False)
    fresh = [name for name in own if name not in taken]
    line = f"begun with {len(taken)} of {len(own)} tensors from {source}"
    if not fresh:
        return line
    more = f" and {len(fresh) - SHOWN} more" if len(fresh) > SHOWN else ""
    return f"{line}; fresh: {', '.join(fresh[:SHOWN])}{more}"
