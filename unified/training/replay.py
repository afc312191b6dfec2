# SPDX-License-Identifier: Apache-2.0
"""A step that went wrong, run again: ``python -m unified.training.replay RUN/faults/step-00000012``.

It takes the weights of the run's last checkpoint, which bad steps never reach, and tells where the first number stops
being one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unified.checkpoint import Checkpoint, fit_state
from unified.contracts.config import RunConfig
from unified.contracts.errors import UnifiedError
from unified.contracts.structures import Batch, Vocabulary
from unified.model.build import assemble
from unified.training.balance import normalised
from unified.training.faults import read_batches
from unified.training.folder import RunFolder
from unified.training.guard import all_finite
from unified.training.joint import JointModel


def replay(place: Path, rank: int = 0) -> list[str]:
    """Runs a kept step forward and backward on the CPU, in fp32, and says what it saw, line by line.

    Raises:
        CheckpointError: the step or the run's checkpoint cannot be read.
    """
    fault, batches = read_batches(place, rank)
    run = place.resolve().parent.parent
    model = _model(RunFolder.open(run).load("last", parts=("model",)), str(run)).train()
    told = [f"step {fault['step']}: {fault['where']} (task {', '.join(fault['tasks'])})"]
    for batch in batches:
        told += _run(model, batch)
    return told


def _model(checkpoint: Checkpoint, source: str) -> JointModel:
    config = RunConfig.model_validate(checkpoint.state["config"])
    words = {name: tuple(words) for name, words in checkpoint.state["vocabulary"].items()}
    parts = assemble(config.model, config.tasks, Vocabulary(**words), fetch=False, growth=config.growth)
    model = JointModel(parts.network, parts.tasks)
    fit_state(model, checkpoint.tensors["model"], source)
    return model


def _run(model: JointModel, batch: Batch) -> list[str]:
    model.zero_grad(set_to_none=True)
    seen: list[str] = []
    hooks = [module.register_forward_hook(_watch(name, seen)) for name, module in model.named_modules() if name]
    try:
        terms = model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    told = [f"dataset {batch.dataset}: {len(batch)} images, {_named(batch)}"]
    told += [f"first output that is not finite: {seen[0]}"] if seen else ["all outputs of modules are finite"]
    total = torch.zeros(())
    for task, items in terms.items():
        for name, term in items.items():
            loss = normalised(term, term.count.detach().float())
            total = total + loss
            told.append(f"loss {task}/{name}: {float(loss.detach()):.6g}")
    torch.autograd.backward(total)
    bad = [name for name, p in model.named_parameters() if not all_finite(p.grad)]
    told.append(f"gradients that are not finite: {len(bad)}" + (f", the first of {bad[0]}" if bad else ""))
    return told


def _named(batch: Batch) -> str:
    bad = [f.image_id for f, image in zip(batch.frames, batch.images, strict=True) if not all_finite(image)]
    return f"not finite in the input of {', '.join(bad)}" if bad else "all finite"


def _watch(name: str, seen: list[str]) -> Any:
    def look(module: nn.Module, given: Any, output: Any) -> None:
        if not seen and not all(all_finite(tensor) for tensor in _tensors(output)):
            seen.append(name)

    return look


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in a module's output, whatever it is made of."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "__dataclass_fields__"):
        yield from _tensors(vars(value))


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what :func:`replay` says."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) not in (1, 2) or words[0].startswith("-"):
        print("usage: python -m unified.training.replay RUN/faults/step-N [RANK]", file=sys.stderr)
        return 2
    try:
        print("\n".join(replay(Path(words[0]), int(words[1]) if len(words) == 2 else 0)))
    except UnifiedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
