# SPDX-License-Identifier: Apache-2.0
"""The guard: a step that went wrong leaves no trace in the network.

Weights, moments and the moving average change only after a step's gradients are known to be finite. What a forward pass
itself changes, such as the running statistics of batch norms, is remembered before and put back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from unified.training.sharding import local

LIMIT: Final = 3  # bad steps in a row that end a run


class Guard:
    """Watches the buffers of a model.

    Buffers are looked up by name each time: a module may put a new tensor in the place of an old one.
    """

    def __init__(self, model: nn.Module) -> None:
        self._slots = [
            (module._buffers, name, f"{place}.{name}")
            for place, module in model.named_modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        self._kept: list[Tensor] = []

    def remember(self) -> None:
        """What :meth:`restore` goes back to."""
        self._kept = self.copy()

    def restore(self) -> None:
        """Every buffer is bit for bit what it was."""
        self.put(self._kept)

    def copy(self) -> list[Tensor]:
        """The buffers as they are now: lines and single numbers in one tensor a kind, others one by one."""
        return [torch.cat(group) if group[0].ndim else torch.stack(group) for group in self._groups()]

    @torch.no_grad()
    def put(self, kept: Sequence[Tensor]) -> None:
        """Gives the buffers what :meth:`copy` took."""
        for group, whole in zip(self._groups(), kept, strict=True):
            parts = whole.split_with_sizes([len(b) for b in group]) if group[0].ndim else whole.unbind()
            for buffer, part in zip(group, parts, strict=True):
                buffer.copy_(part)

    def finite(self, numbers: Iterable[Tensor]) -> bool:
        """Whether scalars and all running statistics are finite; waits once for the device."""
        sums = [sum_ for group in self._groups() if group[0].is_floating_point() for sum_ in (_sum(group),)]
        found = [*(number.detach().float().reshape(()) for number in numbers), *sums]
        return bool(torch.isfinite(torch.stack(found)).all()) if found else True

    def strange(self) -> list[str]:
        """Names of the buffers that hold what is no number."""
        return [whole for slots, name, whole in self._slots if not all_finite(slots[name])]

    def _groups(self) -> list[list[Tensor]]:
        groups: dict[tuple[object, ...], list[Tensor]] = {}
        for slots, name, _ in self._slots:
            buffer = slots[name]
            if buffer is not None:
                key = (buffer.dtype, buffer.device, buffer.shape[1:] if buffer.ndim else None)
                groups.setdefault(key, []).append(buffer)
        return [*groups.values()]


def _sum(group: Sequence[Tensor]) -> Tensor:
    return (torch.cat([*group]) if group[0].ndim else torch.stack([*group])).sum().float()


def all_finite(tensor: Tensor | None) -> bool:
    """Whether a tensor, or this rank's part of it, holds neither NaN nor infinity."""
    return tensor is None or not tensor.is_floating_point() or bool(torch.isfinite(local(tensor)).all())
