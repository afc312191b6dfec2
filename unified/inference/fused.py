# SPDX-License-Identifier: Apache-2.0
"""A network made quicker for inference, in the place of the one it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn, Self

from unified.contracts.config import ModelConfig
from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Backbone, Head, Neck
from unified.hardware import Hardware
from unified.inference.space import fingerprint
from unified.model.fusion import fuse
from unified.model.latents.bank import LatentBank
from unified.model.network import UnifiedNetwork
from unified.trained import Trained


class FusedNetwork(UnifiedNetwork):
    """Answers like the network it was made from, to rounding (1e-5 of scores and unit vectors); see :func:`fuse`.

    Its vectors are of the same embedding space. It cannot be saved, grown or taken apart.

    Args:
        backbone, neck, bank, heads: folded and fused.
        origin: the network itself, which tells its embedding spaces; neither moved nor changed.
        model: how it was put together.
    """

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck,
        bank: LatentBank,
        heads: Mapping[str, Head],
        origin: UnifiedNetwork,
        model: ModelConfig,
    ) -> None:
        super().__init__(backbone, neck, bank, heads)
        self._origin = (origin, model)  # in a tuple, so that it is no part of this module

    @classmethod
    def of(cls, trained: Trained) -> Self:
        """Made from a trained network, which stays as it is."""
        made = fuse(trained.network)
        heads: Any = {task: made.heads[task] for task in made.tasks}
        return cls(made.backbone, made.neck, made.bank, heads, trained.network, trained.config.model).eval()

    def fingerprint(self, task: str, side: int) -> str:
        """The fingerprint of an embedding task's space: that of the network it was made from."""
        origin, model = self._origin
        return fingerprint(origin, model, task, side)

    def refuse_changes(self) -> NoReturn:
        """Says that only the network itself can be saved, grown or packed.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "a fused model predicts and embeds, but cannot be saved, grown or packed; load it without fuse=True"
        )


def placeable(trained: Trained, fused: bool) -> UnifiedNetwork:
    """The network a model runs; an exported file's has no norms left and is taken as it is."""
    return FusedNetwork.of(trained) if fused and isinstance(trained.network, UnifiedNetwork) else trained.network


def own_precision(hardware: Hardware, trained: Trained) -> Hardware:
    """The hardware; an exported file's numbers are read in the precision that it was written for."""
    return hardware if isinstance(trained.network, UnifiedNetwork) else replace(hardware, precision="fp32")


def check_whole(network: UnifiedNetwork) -> None:
    """Whether a network has the weights that it was trained with.

    Raises:
        ConfigError: it was fused.
    """
    if isinstance(network, FusedNetwork):
        network.refuse_changes()
