# SPDX-License-Identifier: Apache-2.0
"""What the checks of all kinds of parts share: a verdict in one line, and looks into whatever a part answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from unified.contracts.errors import UnifiedError
from unified.contracts.registry import Registry
from unified.contracts.structures import Features, FeatureSpec

Trial = TypeVar("Trial")

SPEC = FeatureSpec(("p3", "p4", "p5"), (32, 48, 64), (8, 16, 32))
"""Of the features that heads are tried with."""


class ContractError(UnifiedError, AssertionError):
    """A part does not keep what its kind promises."""


def resolved(registry: Registry[Any], part: str | type[Any]) -> tuple[type[Any], str]:
    """A part's class, and the part as an error names it.

    Args:
        registry: of its kind.
        part: a registered name, or a class that need not be registered.
    """
    if isinstance(part, str):
        cls = registry.get(part)
        return cls, registry.named(part)
    return part, f"{registry.kind} {part.__module__}.{part.__qualname__}"


def must(holds: bool, words: str) -> None:
    """Raises unless something holds; the runner puts the part's name before the words."""
    if not holds:
        raise ContractError(words)


def run(checks: Sequence[Callable[[Trial], None]], trial: Trial, who: str) -> None:
    """All checks, in their order, each with random numbers of its own; the first that fails ends it.

    Raises:
        ContractError: one line, with the part's name.
    """
    for check in checks:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                check(trial)
            except ContractError as error:
                raise ContractError(f"{who}: {error}") from None
            except Exception as error:  # a part may fail in any way
                what = _lower((check.__doc__ or check.__name__).splitlines()[0].rstrip("."))
                raise ContractError(f"{who}: {type(error).__name__} while testing that {what}: {error}") from error


def shaken(module: nn.Module) -> nn.Module:
    """The module with every weight moved a little, so that nothing is zero because it has not learned yet."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return module


def features(spec: FeatureSpec, batch: int = 2, size: tuple[int, int] = (64, 96)) -> Features:
    """Random maps as a neck of this kind gives them for an input of ``size`` (height, width) pixels."""
    pairs = zip(spec.channels, spec.strides, strict=True)
    maps = tuple(torch.randn(batch, c, size[0] // s, size[1] // s) for c, s in pairs)
    return Features(maps, spec.levels, spec.strides)


def identity(_: str, x: Tensor) -> Tensor:
    """No latent stands anywhere."""
    return x


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in an answer."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from tensors(each)
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors(getattr(value, field.name))


def flat(output: Any) -> Tensor:
    """Every number of an answer in a row, float32."""
    return torch.cat([x.flatten().float() for x in tensors(output)])


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
