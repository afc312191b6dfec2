# SPDX-License-Identifier: Apache-2.0
"""No neck: heads read the backbone."""

from __future__ import annotations

from unified.contracts.protocols import Neck
from unified.contracts.structures import Features, FeatureSpec


class IdentityNeck(Neck):
    """Hands the backbone's features on as they are."""

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, features: Features) -> Features:
        return features
