# SPDX-License-Identifier: Apache-2.0
"""Attention blocks at chosen levels: an option of every native trunk and of every neck."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from unified.contracts.document import check_options
from unified.contracts.errors import ConfigError, suggestion
from unified.model.layers.attention import NonLocal, SelectiveKernel

BLOCKS: Mapping[str, type[nn.Module]] = {"nonlocal": NonLocal, "selective_kernel": SelectiveKernel}


class LevelAttention(nn.ModuleDict):
    """One block for each level that is given one; all other levels pass unchanged.

    Args:
        channels: of the levels where a block may stand, by name.
        blocks: level to block: a name (``{p5: nonlocal}``), or a name with options
            (``{p4: {name: nonlocal, pool: 2}}``).

    Raises:
        ConfigError: a level, block or option that is not known.
    """

    def __init__(self, channels: Mapping[str, int], blocks: Mapping[str, Any] | None) -> None:
        super().__init__()
        if not isinstance(blocks or {}, Mapping):
            raise ConfigError(f"attention: expected level: block, such as {{p5: nonlocal}}, got {blocks!r}")
        for level, given in (blocks or {}).items():
            if level not in channels:
                raise ConfigError(f"attention: unknown level '{level}'{suggestion(str(level), channels)}")
            self[level] = block(given, channels[level])

    def at(self, level: str, x: Tensor) -> Tensor:
        """x (B, C, H, W) of a level -> the same shape."""
        return self[level](x) if level in self else x  # type: ignore[no-any-return]


def block(given: Any, channels: int) -> nn.Module:
    """The block that a level is given.

    Raises:
        ConfigError: a block or option that is not known.
    """
    words = dict(given) if isinstance(given, Mapping) else {"name": given}
    name = str(words.pop("name", None))
    if name not in BLOCKS:
        raise ConfigError(f"unknown attention '{name}'{suggestion(name, BLOCKS)}")
    check_options("attention", name, BLOCKS[name], words, reserved=("channels",))
    return BLOCKS[name](channels, **words)
