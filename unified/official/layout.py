# SPDX-License-Identifier: Apache-2.0
"""How the official cfg files number their sections, from a network's repeats alone.

Every section takes a number, those without weights too (routes, shortcuts, pools, upsamplings, output layers); a file
names its tensors ``module_list.NUMBER....``. The order of the sections is also the order of a DarkNet weights file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from unified.official.design import Design

Kind = Literal["conv", "output", "add", "mul"]  # a convolution with norm, one with bias, z to add, z to multiply by

NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Section:
    """A numbered section that holds weights, and the part it plays in the network."""

    index: int
    kind: Kind
    role: str  # such as stage.1.blocks.0.1, fpn.2.lateral, head.0.out
    inputs: int  # channels; 0 for z
    outputs: int
    kernel: int = 1

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Official key and shape of each tensor, in the order of a state dict."""
        root = f"module_list.{self.index}"
        if self.kind in ("add", "mul"):
            yield f"{root}.implicit", (1, self.outputs, 1, 1)
            return
        yield f"{root}.Conv2d.weight", (self.outputs, self.inputs, self.kernel, self.kernel)
        if self.kind == "output":
            yield f"{root}.Conv2d.bias", (self.outputs,)
            return
        yield from ((f"{root}.BatchNorm2d.{name}", (self.outputs,)) for name in NORM)
        yield f"{root}.BatchNorm2d.num_batches_tracked", ()


class _Tape:
    """Counts sections and follows the channels from one to the next."""

    def __init__(self, channels: int) -> None:
        self.sections: list[Section] = []
        self.index = 0
        self.channels = channels

    def skip(self, channels: int | None = None, count: int = 1) -> None:
        """Sections without weights; ``channels`` is what they hand on, if that is something else."""
        self.index += count
        self.channels = self.channels if channels is None else channels

    def conv(self, role: str, outputs: int, kernel: int = 1, kind: Kind = "conv") -> None:
        self.sections.append(Section(self.index, kind, role, self.channels, outputs, kernel))
        self.skip(outputs)

    def latent(self, role: str, kind: Kind, channels: int) -> None:
        self.sections.append(Section(self.index, kind, role, 0, channels))
        self.skip()

    def blocks(self, role: str, depth: int, residual: bool) -> None:
        """Bottlenecks that keep their channels; a shortcut is a section."""
        for i in range(depth):
            self.conv(f"{role}.blocks.{i}.0", self.channels)
            self.conv(f"{role}.blocks.{i}.1", self.channels, 3)
            self.skip(count=residual)


@cache
def layout(design: Design, classes: int) -> tuple[Section, ...]:
    """The sections with weights of a network for so many classes, in order."""
    tape = _Tape(3)
    _stem(tape, design)
    for i, (width, depth) in enumerate(zip(design.widths, design.depths, strict=True)):
        _stage(tape, f"stage.{i}", width, depth, design.exits)
    _pools(tape, design.neck[-1], design.spp_depth)
    levels = range(len(design.neck))
    for i in reversed(levels[:-1]):
        _down_from_coarse(tape, design, i)
    for i in levels[1:]:
        _up_from_fine(tape, design, i)
    _heads(tape, design, classes)
    return tuple(tape.sections)


def _stem(tape: _Tape, design: Design) -> None:
    if design.reorg:
        tape.skip(4 * tape.channels)
    for i, width in enumerate(design.stem):
        tape.conv(f"stem.{i}", width, 3)
    if design.residual_stem:
        width = tape.channels
        tape.conv("stem.block.0", width // 2)
        tape.conv("stem.block.1", width, 3)
        tape.skip()


def _stage(tape: _Tape, role: str, width: int, depth: int, exits: bool) -> None:
    tape.conv(f"{role}.down", width, 3)
    tape.conv(f"{role}.side", width // 2)
    tape.skip(width)
    tape.conv(f"{role}.main", width // 2)
    tape.blocks(role, depth, residual=True)
    if exits:
        tape.conv(f"{role}.exit", width // 2)
    tape.skip(width)
    tape.conv(f"{role}.fuse", width)


def _pools(tape: _Tape, width: int, depth: int) -> None:
    """Spatial pyramid pooling inside a CSP block: pools 13, 9, 5 and the map itself, concatenated in that order."""
    before = tape.channels
    tape.conv("spp.side", width)
    tape.skip(before)
    for i, kernel in enumerate((1, 3, 1)):
        tape.conv(f"spp.enter.{i}", width, kernel)
    tape.skip(4 * width, count=6)
    for i in range(depth):
        tape.conv(f"spp.leave.{2 * i}", width)
        tape.conv(f"spp.leave.{2 * i + 1}", width, 3)
    tape.skip(2 * width)
    tape.conv("spp.fuse", width)


def _down_from_coarse(tape: _Tape, design: Design, level: int) -> None:
    width, role = design.neck[level], f"fpn.{level}"
    stage = len(design.widths) - len(design.neck) + level
    tape.conv(f"{role}.reduce", width)
    tape.skip(design.widths[stage], count=2)  # upsampling; the backbone's map
    tape.conv(f"{role}.lateral", width)
    _mix(tape, role, width, design.neck_depth)


def _up_from_fine(tape: _Tape, design: Design, level: int) -> None:
    width, role = design.neck[level], f"pan.{level}"
    tape.conv(f"{role}.down", width, 3)
    _mix(tape, role, width, design.neck_depth)


def _mix(tape: _Tape, role: str, width: int, depth: int) -> None:
    """Two maps of a width become one."""
    tape.skip(2 * width)
    tape.conv(f"{role}.enter", width)
    tape.conv(f"{role}.side", width)
    tape.skip(width)
    tape.blocks(role, depth, residual=False)
    tape.skip(2 * width)
    tape.conv(f"{role}.fuse", width)


def _heads(tape: _Tape, design: Design, classes: int) -> None:
    rows = design.outputs(classes)
    if design.implicit:
        for i, width in enumerate(design.neck):
            tape.latent(f"head.{i}.add", "add", 2 * width)
        for i in range(len(design.neck)):
            tape.latent(f"head.{i}.mul", "mul", rows)
    for i, width in enumerate(design.neck):
        tape.skip(width)
        tape.conv(f"head.{i}.hidden", 2 * width, 3)
        tape.skip(count=design.implicit)
        tape.conv(f"head.{i}.out", rows, kind="output")
        tape.skip(count=design.implicit + 1)
