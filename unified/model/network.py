# SPDX-License-Identifier: Apache-2.0
"""The network: one look at the image, many answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from unified.contracts.errors import ConfigError, suggestion
from unified.contracts.protocols import Backbone, Head, Neck
from unified.contracts.structures import Features
from unified.model.latents.bank import LatentBank


def as_input(images: Tensor) -> Tensor:
    """uint8 images (B, 3, H, W) -> float in [0, 1]; floating images pass unchanged."""
    return images if images.is_floating_point() else images.to(torch.get_default_dtype()).div_(255)


def multiple(side: int, stride: int) -> int:
    """The side of an input in pixels, if it is a positive multiple of the coarsest stride.

    Raises:
        ConfigError: it is not.
    """
    if side < 1 or side % stride:
        near = max(stride, round(side / stride) * stride)
        raise ConfigError(f"size {side} is no multiple of the network's coarsest stride {stride}; try {near}")
    return side


class UnifiedNetwork(nn.Module):
    """Explicit trunk, implicit latents, a head for each task: y_t = head_t(neck(backbone(x)) * z_t) (YOLOR eq. 3-5)."""

    def __init__(self, backbone: Backbone, neck: Neck, bank: LatentBank, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.bank = bank
        self.heads = nn.ModuleDict(dict(heads))
        self.standing: tuple[nn.Module, ...] = ()  # parts that stay in evaluation mode while all else trains

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation, for all parts but those that stand still."""
        super().train(mode)
        for part in self.standing:
            part.eval()
        return self

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.heads)

    @property
    def stride(self) -> int:
        """The coarsest stride in pixels, of which the sides of an input must be multiples."""
        return max(self.neck.spec.strides)

    def check_size(self, side: int) -> int:
        """The side of a square input in pixels, if it suits the strides.

        Raises:
            ConfigError: it is no positive multiple of the coarsest stride.
        """
        return multiple(side, self.stride)

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Any]:
        """Runs the trunk once and then each task asked for (all by default).

        A task with latents inside the trunk has a pass of its own, see :meth:`trunk_passes`.

        images: (B, 3, H, W), uint8 or float in [0, 1]; H and W multiples of the coarsest stride.
        Returns the output structure of each task's head by task name.

        Raises:
            ConfigError: a task this network does not have.
        """
        asked = self._known(self.tasks if tasks is None else tasks)
        images = as_input(images)
        features = {task: self.trunk(images, task) for task in asked if self.bank.in_trunk(task)}
        if others := [task for task in asked if task not in features]:
            features |= dict.fromkeys(others, self.trunk(images))
        return {task: self.answer(task, features[task]) for task in asked}

    def trunk(self, images: Tensor, task: str | None = None) -> Features:
        """Backbone and neck, as everybody shares them or with the latents that a task has inside the backbone.

        images: (B, 3, H, W), float in [0, 1].
        """
        features = self.backbone(images, self.bank.modulate(task)) if task else self.backbone(images)
        return self.neck(features)  # type: ignore[no-any-return]

    def trunk_passes(self, tasks: Sequence[str] | None = None) -> int:
        """How often the trunk runs to answer these tasks (all by default)."""
        inside = [self.bank.in_trunk(task) for task in set(self._known(self.tasks if tasks is None else tasks))]
        return sum(inside) + (not all(inside))

    def trunk_note(self) -> str | None:
        """What latents inside the trunk cost, in one line; None where there are none."""
        inside = [task for task in self.tasks if self.bank.in_trunk(task)]
        if not inside:
            return None
        passes = self.trunk_passes()
        return (
            f"latents stand inside the trunk for {', '.join(inside)}: answering all tasks takes "
            f"{passes} trunk passes{' instead of 1' if passes > 1 else ', as without them'}"
        )

    def answer(self, task: str, features: Features) -> Any:
        """One task's output from the shared features: its latents align them, its head reads them."""
        modulate, head = self.bank.modulate(task), self.heads[task]
        read = features.only(head.reads)  # type: ignore[arg-type]
        aligned = read.with_maps(tuple(modulate(f"align.{level}", x) for level, x in read))
        return head(aligned, modulate)

    def _known(self, tasks: Sequence[str]) -> Sequence[str]:
        for task in tasks:
            if task not in self.heads:
                raise ConfigError(f"this network has no task '{task}'{suggestion(task, self.tasks)}")
        return tasks
