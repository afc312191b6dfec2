# SPDX-License-Identifier: Apache-2.0
"""A trainer's whole state as a checkpoint, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unified.checkpoint import Checkpoint, fit_state
from unified.training import dice
from unified.training.progress import Progress
from unified.training.sharding import fitted, whole
from unified.training.snapshot import flat, nested, restore_parts, states_of

if TYPE_CHECKING:
    from unified.training.trainer import Trainer


def state_of(trainer: Trainer) -> Checkpoint:
    """Everything a later session needs to go on, and ``ema`` alone to predict. Every rank must call it."""
    network = trainer.average.network if trainer.average else trainer.model.network
    slots, groups = flat(trainer.optimizer.state_dict())
    parts, more = states_of(trainer.parts)
    scaler = trainer.accelerator.scaler
    tensors = {
        "ema": whole(network.state_dict()),
        "model": whole(trainer.model.state_dict()),
        "optimizer": whole(slots),
        "random": trainer.ranks.stacked(dice.picked_up(trainer.accelerator.device)),
        **({"parts": more} if more else {}),
    }
    state = {
        **trainer.describe,
        "progress": trainer.progress.state(),
        "ema_updates": trainer.average.updates if trainer.average else 0,
        "optimizer": groups,
        "parts": parts,
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    return Checkpoint(tensors, state)


def restore(trainer: Trainer, checkpoint: Checkpoint, source: str) -> None:
    """Puts a trainer where it was.

    Raises:
        CheckpointError: the checkpoint is of another configuration.
    """
    tensors, state = checkpoint.tensors, checkpoint.state
    fit_state(trainer.model, fitted(tensors["model"], trainer.model), source)
    if trainer.average:
        fit_state(trainer.average.network, fitted(tensors["ema"], trainer.average.network), source)
        trainer.average.updates = state["ema_updates"]
    optimizer = trainer.optimizer
    optimizer.load_state_dict(nested(tensors["optimizer"], state["optimizer"], optimizer, source))
    if trainer.accelerator.scaler is not None and state.get("scaler"):
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    restore_parts(trainer.parts, state.get("parts", {}), tensors.get("parts", {}))
    begun = {"passes": trainer.course.begins(state["progress"]["step"])}
    trainer.progress = Progress.of({**begun, **state["progress"]})
    dice.laid_down(trainer.ranks.own(tensors["random"]), trainer.accelerator.device)
