# SPDX-License-Identifier: Apache-2.0
"""DarkNet weights: a header and one long row of float32, in the order of the cfg's sections.

A convolution with norm stores bias, scale, mean, variance and then its weight; one without norm its bias and weight;
an implicit section its z. Nothing in the file says which network it belongs to: its length does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unified.contracts.errors import CheckpointError
from unified.official.design import DESIGNS, Design
from unified.official.layout import Section, layout

STORED = ("bias", "weight", "running_mean", "running_var")  # of a norm, in file order


def read_weights(path: Path, designs: Sequence[Design] = tuple(DESIGNS.values())) -> dict[str, Tensor]:
    """The tensors of a ``.weights`` file by their official names.

    Raises:
        CheckpointError: no weights file, or one whose length or values fit none of ``designs``.
    """
    floats = _floats(path)
    fitting = [(design, k) for design in designs if (k := classes_of(design, len(floats)))]
    if not fitting:
        raise CheckpointError(_misfit(path, len(floats), designs))
    states = [as_state(floats, layout(design, k)) for design, k in fitting]
    sound = [state for state in states if _plausible(state)]
    if len(sound) != 1:
        names = ", ".join(design.name for design, _ in fitting)
        what = "has impossible values (a negative variance) in that order" if not sound else "fits more than one"
        hint = "it was written by another cfg, or is damaged" if not sound else "say which with --arch"
        raise CheckpointError(f"'{path}' has the length of {names} but {what}; {hint}")
    return sound[0]


def classes_of(design: Design, floats: int) -> int | None:
    """The number of classes for which a network of this design stores so many floats; None where there is none."""
    one, two = (sum(_size(section) for section in layout(design, k)) for k in (1, 2))
    extra, rest = divmod(floats - one, two - one)
    return extra + 1 if not rest and extra >= 0 else None


def as_state(floats: NDArray[np.float32], sections: Sequence[Section]) -> dict[str, Tensor]:
    """A row of floats cut into tensors by official name, in the order of a state dict."""
    cut: dict[str, Tensor] = {}
    place = 0
    for section in sections:
        for key, shape in _stored(section):
            end = place + math.prod(shape)
            cut[key] = torch.from_numpy(floats[place:end].reshape(shape).copy())
            place = end
    keys = [key for section in sections for key, _ in section.tensors()]
    return {key: cut[key] if key in cut else torch.zeros((), dtype=torch.int64) for key in keys}


def as_floats(state: dict[str, Tensor], sections: Sequence[Section]) -> NDArray[np.float32]:
    """The reverse of :func:`as_state`: tensors by official name in one row."""
    return np.concatenate([state[key].float().numpy().ravel() for s in sections for key, _ in _stored(s)])


def _stored(section: Section) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Key and shape of what a section stores, in file order."""
    shapes = dict(section.tensors())
    root = f"module_list.{section.index}"
    names = {
        "conv": [*(f"BatchNorm2d.{name}" for name in STORED), "Conv2d.weight"],
        "output": ["Conv2d.bias", "Conv2d.weight"],
    }.get(section.kind, ["implicit"])
    yield from ((f"{root}.{name}", shapes[f"{root}.{name}"]) for name in names)


def _size(section: Section) -> int:
    return sum(math.prod(shape) for _, shape in _stored(section))


def _plausible(state: dict[str, Tensor]) -> bool:
    """Whether every value is finite and no variance negative: a wrong order puts weights where variances stand."""
    return all(
        bool(torch.isfinite(value).all()) and not (key.endswith("running_var") and bool((value < 0).any()))
        for key, value in state.items()
    )


def _floats(path: Path) -> NDArray[np.float32]:
    """Everything behind the header: three int32 of the version, then the images seen, int64 since version 0.2."""
    data = path.read_bytes()
    major, minor, _ = np.frombuffer(data[:12].ljust(12, b"\0"), dtype="<i4").tolist()
    header = 20 if major * 10 + minor >= 2 else 16
    if not (0 <= major < 10 and 0 <= minor < 100) or len(data) <= header:
        raise CheckpointError(
            f"'{path}' is no DarkNet weights file: it says version {major}.{minor}, {len(data)} bytes"
        )
    if (len(data) - header) % 4:
        raise CheckpointError(f"'{path}' is cut short: {len(data)} bytes are no whole number of values; fetch it again")
    return np.frombuffer(data, dtype="<f4", offset=header)


def _misfit(path: Path, floats: int, designs: Sequence[Design]) -> str:
    """Why a length fits nothing; a file of another writer may lack the implicit sections."""
    for design in designs:
        if design.implicit and classes_of(_without(design), floats):
            return (
                f"'{path}' fits {design.name} without its implicit sections, which its writer left out: the network "
                "cannot be rebuilt from it; take the .pt file"
            )
    sizes = ", ".join(f"{d.name} {sum(map(_size, layout(d, 80))):,}" for d in designs)
    return (
        f"'{path}' is cut short or of another network: it holds {floats:,} values, which fits no class count; "
        f"for 80 classes: {sizes}"
    )


def _without(design: Design) -> Design:
    from dataclasses import replace

    return replace(design, implicit=False)
