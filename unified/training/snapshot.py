# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint holds of things that are no modules: an optimizer's moments, and any part's own state.

A part with state offers ``state()``, plain data in which tensors may stand, and ``restore(state)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from unified.contracts.errors import CheckpointError
from unified.training.sharding import spread

_MARK = "tensor:"  # before the name of a tensor that stood there


@runtime_checkable
class Stateful(Protocol):
    """Something that goes on where it was."""

    def state(self) -> Mapping[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


def taken_apart(value: Any, name: str) -> tuple[Any, dict[str, Tensor]]:
    """Plain data without its tensors, and the tensors by the path at which they stood."""
    if isinstance(value, Tensor):
        return f"{_MARK}{name}", {name: value}
    tensors: dict[str, Tensor] = {}
    if isinstance(value, Mapping):
        plain: Any = {}
        for key, item in value.items():
            plain[key], more = taken_apart(item, f"{name}/{key}")
            tensors |= more
        return plain, tensors
    if isinstance(value, Sequence) and not isinstance(value, str):
        plain = []
        for i, item in enumerate(value):
            one, more = taken_apart(item, f"{name}/{i}")
            plain.append(one)
            tensors |= more
        return plain, tensors
    return value, {}


def put_together(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What :func:`taken_apart` took apart; tuples have become lists."""
    if isinstance(plain, str) and plain.startswith(_MARK):
        return tensors[plain.removeprefix(_MARK)]
    if isinstance(plain, Mapping):
        return {key: put_together(item, tensors) for key, item in plain.items()}
    return [put_together(item, tensors) for item in plain] if isinstance(plain, list) else plain


def states_of(parts: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The plain state and the tensors of those parts that have any."""
    plain: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        if isinstance(part, Stateful):
            plain[name], more = taken_apart(part.state(), name)
            tensors |= more
    return plain, tensors


def restore_parts(parts: Mapping[str, Any], plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Gives every part its state back; one of which the checkpoint knows nothing stays as it is."""
    for name, part in parts.items():
        if isinstance(part, Stateful) and name in plain:
            part.restore(put_together(plain[name], tensors))


def flat(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors ``index/slot`` and the JSON of its groups."""
    tensors = {f"{i}/{name}": value for i, slots in state["state"].items() for name, value in slots.items()}
    plain = {k: v for k, v in tensors.items() if not isinstance(v, Tensor)}
    if plain:
        raise CheckpointError(f"optimizer state {sorted(plain)[0]} is not a tensor and cannot be saved")
    return tensors, {"groups": state["param_groups"]}


def nested(
    tensors: Mapping[str, Tensor], groups: Mapping[str, Any], optimizer: torch.optim.Optimizer, source: str
) -> dict[str, Any]:
    """What :func:`flat` made, as an optimizer loads it.

    Raises:
        CheckpointError: the optimizer has other groups.
    """
    mine = [len(g["params"]) for g in optimizer.param_groups]
    theirs = [len(g["params"]) for g in groups["groups"]]
    if mine != theirs:
        raise CheckpointError(
            f"'{source}' is a checkpoint of another configuration: optimizer groups {theirs}, not {mine}"
        )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/", 1)
        state.setdefault(int(index), {})[name] = spread(
            value, parameters[int(index)]
        )  # fused ones walk both by address
    return {"state": state, "param_groups": groups["groups"]}
