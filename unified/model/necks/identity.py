# SPDX-License-Identifier: Apache-2.0
"""No neck: heads read the backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unified.contracts.protocols import Neck
from unified.contracts.structures import Features, FeatureSpec
from unified.model.attention import LevelAttention


class IdentityNeck(Neck):
    """Hands the backbone's features on as they are.

    Args:
        spec: levels of the backbone.
        attention: blocks behind chosen levels, such as ``{p5: nonlocal}``.
    """

    def __init__(self, spec: FeatureSpec, attention: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.attention = LevelAttention(dict(zip(spec.levels, spec.channels, strict=True)), attention)

    def forward(self, features: Features) -> Features:
        return features.with_maps(tuple(self.attention.at(level, x) for level, x in features))
