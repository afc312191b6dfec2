# SPDX-License-Identifier: Apache-2.0
"""Steps that went wrong: what is said of them, and the batch that is kept so that they can be looked at again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load, save
from torch import Tensor

from unified.contracts.errors import CheckpointError, UnifiedError
from unified.contracts.structures import Annotations, Batch, Frame
from unified.data.collate import COLUMNS
from unified.disk import write_bytes
from unified.training.guard import LIMIT, Guard, all_finite
from unified.training.joint import JointModel

NAMED: Final = 8  # images that a line names
FOLDER: Final = "faults"


class TrainingError(UnifiedError):
    """Training cannot go on: the numbers are no numbers any more."""


def describe(
    step: int, batches: Sequence[Batch], losses: Mapping[str, Tensor], model: JointModel, guard: Guard
) -> dict[str, Any]:
    """What went wrong in a step, as JSON: ``where``, ``tasks``, ``datasets``, ``images`` and ``step``."""
    images, buffers = [frame.image_id for batch in batches for frame in batch.frames], guard.strange()
    spoilt = [f.image_id for b in batches for f, image in zip(b.frames, b.images, strict=True) if not all_finite(image)]
    bad = sick(losses)
    gradients = [name for name, p in model.named_parameters() if not all_finite(p.grad)]
    served = list(dict.fromkeys(task for batch in batches for task in batch.tasks))
    owners = list(dict.fromkeys(name.split("/")[0] for name in bad)) or _owners(model, gradients)
    where = [
        *([f"the input of {len(spoilt)} images"] if spoilt else []),
        *([f"loss {', '.join(name for name in bad if '/' in name) or ', '.join(bad)}"] if bad else []),
        *([f"gradient of {gradients[0]}{_more(len(gradients) - 1)}"] if gradients and not bad else []),
        *([f"batch statistics {buffers[0]}{_more(len(buffers) - 1)}"] if buffers else []),
    ]
    return {
        "step": step,
        "own": bool(spoilt or bad or buffers),  # and not only gradients, which ranks share
        "where": "; ".join(where) or "another rank",
        "tasks": owners or served,
        "datasets": list(dict.fromkeys(batch.dataset for batch in batches)),
        "images": spoilt or images,
    }


def sick(losses: Mapping[str, Tensor]) -> list[str]:
    """Names of the losses that are no numbers."""
    return sorted(name for name, loss in losses.items() if not all_finite(loss))


def line(fault: Mapping[str, Any], in_a_row: int) -> str:
    """The fault in one line."""
    shown = ", ".join(fault["images"][:NAMED]) + _more(len(fault["images"]) - NAMED)
    return (
        f"step {fault['step']}: NaN or Inf in {fault['where']} (task {', '.join(fault['tasks'])}, dataset "
        f"{', '.join(fault['datasets'])}, images {shown}); the step is left out, {in_a_row} of {LIMIT} in a row"
    )


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def _owners(model: JointModel, names: Sequence[str]) -> list[str]:
    """The tasks of whose own parameters some are named; none where it is the trunk alone."""
    everything = dict(model.named_parameters())
    named = {id(everything[name]) for name in names}
    return [task for task in model.tasks if any(id(p) in named for p in model.parameters_of(task))]


def keep_batches(folder: Path, rank: int, fault: Mapping[str, Any], batches: Sequence[Batch]) -> Path:
    """Writes the batches of a step so that :mod:`unified.training.replay` can run it again.

    Args:
        folder: the run's.

    Returns:
        The folder they are in.
    """
    place = folder / FOLDER / f"step-{fault['step']:08d}"
    tensors: dict[str, Tensor] = {}
    plain = []
    for k, batch in enumerate(batches):
        said, found = _apart(batch)
        plain.append(said)
        tensors |= {f"{k}/{name}": tensor.detach().cpu().contiguous() for name, tensor in found.items()}
    write_bytes(place / f"rank{rank}.safetensors", save(tensors))
    write_bytes(place / f"rank{rank}.json", json.dumps({**fault, "batches": plain}, indent=1).encode())
    return place


def read_batches(place: Path, rank: int = 0) -> tuple[dict[str, Any], list[Batch]]:
    """The fault and the batches that :func:`keep_batches` wrote; extras such as masks were not kept.

    Raises:
        CheckpointError: they are not there or cannot be read.
    """
    try:
        fault = json.loads((place / f"rank{rank}.json").read_text())
        tensors = load((place / f"rank{rank}.safetensors").read_bytes())
        return fault, [_joined(said, tensors, f"{k}/") for k, said in enumerate(fault["batches"])]
    except FileNotFoundError as error:
        raise CheckpointError(f"no kept step at '{place}'; give a folder such as RUN/faults/step-00000012") from error
    except Exception as error:
        raise CheckpointError(f"the kept step '{place}' cannot be read ({str(error).splitlines()[0]})") from error


def _apart(batch: Batch) -> tuple[dict[str, Any], dict[str, Tensor]]:
    found = batch.annotations
    tensors = {name: torch.cat([getattr(each, name) for each in found]) for name in COLUMNS}
    tensors |= {f"states/{task}": torch.stack([each.states[task] for each in found]) for task in found[0].states}
    said = {
        "dataset": batch.dataset,
        "tasks": list(batch.tasks),
        "counts": [len(each) for each in found],
        "identities": [each.identity for each in found],
        "frames": [asdict(frame) for frame in batch.frames],
        "left_out": sorted({name for each in found for name in each.extras}),
    }
    return said, {"images": batch.images.contiguous(), **tensors}


def _joined(said: Mapping[str, Any], tensors: Mapping[str, Tensor], prefix: str) -> Batch:
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    columns: dict[str, Any] = {name: torch.split(own[name], said["counts"]) for name in COLUMNS}
    states = {name.removeprefix("states/"): t for name, t in own.items() if name.startswith("states/")}
    annotations = tuple(
        Annotations(
            **{name: parts[k] for name, parts in columns.items()},
            identity=identity,
            states={task: rows[k] for task, rows in states.items()},
        )
        for k, identity in enumerate(said["identities"])
    )
    frames = tuple(
        Frame(f["image_id"], tuple(f["size"]), tuple(f["scale"]), tuple(f["offset"])) for f in said["frames"]
    )
    return Batch(own["images"], annotations, frames, said["dataset"], tuple(said["tasks"]))
