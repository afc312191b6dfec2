# SPDX-License-Identifier: Apache-2.0
"""The network: one look at the image, many answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unified.contracts.errors import ConfigError, suggestion
from unified.contracts.protocols import Backbone, Head, Neck
from unified.contracts.structures import Features
from unified.model.latents.bank import LatentBank


def as_input(images: Tensor) -> Tensor:
    """uint8 images (B, 3, H, W) -> float in [0, 1]; floating images pass unchanged."""
    return images if images.is_floating_point() else images.to(torch.get_default_dtype()).div_(255)


class UnifiedNetwork(nn.Module):
    """Explicit trunk, implicit latents, a head for each task: y_t = head_t(neck(backbone(x)) * z_t) (YOLOR eq. 3-5)."""

    def __init__(self, backbone: Backbone, neck: Neck, bank: LatentBank, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.bank = bank
        self.heads = nn.ModuleDict(dict(heads))

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.heads)

    def check_size(self, side: int) -> int:
        """The side of a square input in pixels, if it suits the strides.

        Raises:
            ConfigError: it is no positive multiple of the coarsest stride.
        """
        stride = max(self.neck.spec.strides)
        if side < 1 or side % stride:
            near = max(stride, round(side / stride) * stride)
            raise ConfigError(f"size {side} is no multiple of the network's coarsest stride {stride}; try {near}")
        return side

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Any]:
        """Runs the trunk once and then each task asked for (all by default).

        images: (B, 3, H, W), uint8 or float in [0, 1]; H and W multiples of the coarsest stride.
        Returns the output structure of each task's head by task name.

        Raises:
            ConfigError: a task this network does not have.
        """
        asked = self._known(self.tasks if tasks is None else tasks)
        features = self.neck(self.backbone(as_input(images)))
        return {task: self.answer(task, features) for task in asked}

    def answer(self, task: str, features: Features) -> Any:
        """One task's output from the shared features: its latents align them, its head reads them."""
        modulate = self.bank.modulate(task)
        aligned = features.with_maps(tuple(modulate(f"align.{level}", x) for level, x in features))
        return self.heads[task](aligned, modulate)

    def _known(self, tasks: Sequence[str]) -> Sequence[str]:
        for task in tasks:
            if task not in self.heads:
                raise ConfigError(f"this network has no task '{task}'{suggestion(task, self.tasks)}")
        return tasks
