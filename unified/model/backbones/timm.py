# SPDX-License-Identifier: Apache-2.0
"""Any timm model that offers ``features_only`` as the trunk."""

from __future__ import annotations

import difflib
from typing import Any

import timm
from torch import Tensor

from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Backbone
from unified.contracts.structures import Features, FeatureSpec


def _create(model: str, pretrained: bool, options: dict[str, Any]) -> Any:
    if model not in timm.list_models():
        near = difflib.get_close_matches(model, timm.list_models(), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "; timm.list_models() lists them"
        raise ConfigError(f"unknown timm model '{model}'{hint}")
    try:
        return timm.create_model(model, pretrained=pretrained, features_only=True, **options)
    except Exception as error:
        if (pretrained and "LocalEntryNotFound" in type(error).__name__) or isinstance(error, OSError):
            raise ConfigError(
                f"pretrained weights of timm model '{model}' cannot be fetched or found in the local cache; "
                "connect to the network once, or set pretrained: false"
            ) from error
        raise ConfigError(f"timm model '{model}' cannot serve as a feature pyramid: {error}") from error


class TimmBackbone(Backbone):
    """A timm network as the explicit trunk; the coarsest ``levels`` of its strides 8, 16, 32 (and 64) are used.

    Args:
        model: timm's name, such as ``convnext_tiny``.
        pretrained: fetch the published weights; nothing is fetched otherwise.
        levels: how many levels, from stride 8 on.
        options: passed on to ``timm.create_model``.

    Images arrive in [0, 1] and are normalised by the mean and deviation the model was trained with.
    """

    def __init__(self, model: str, pretrained: bool = False, levels: int = 3, **options: Any) -> None:
        super().__init__()
        self.body = _create(model, pretrained, options)
        info = self.body.feature_info
        wanted = [8 * 2**i for i in range(levels)]
        reductions = list(info.reduction())
        missing = [s for s in wanted if s not in reductions]
        if missing:
            raise ConfigError(f"timm model '{model}' has strides {reductions}, not {missing}; use fewer levels")
        self._indices = tuple(reductions.index(s) for s in wanted)
        channels = tuple(info.channels()[i] for i in self._indices)
        self.spec = FeatureSpec(tuple(f"p{i + 3}" for i in range(levels)), channels, tuple(wanted))
        data = getattr(self.body, "pretrained_cfg", None) or {}
        self.mean: Tensor
        self.std: Tensor
        self._register_statistics(data.get("mean", (0.485, 0.456, 0.406)), data.get("std", (0.229, 0.224, 0.225)))

    def _register_statistics(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        import torch

        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Features:
        maps = self.body((images - self.mean) / self.std)
        return Features(tuple(maps[i] for i in self._indices), self.spec.levels, self.spec.strides)
