# SPDX-License-Identifier: Apache-2.0
"""Which network a state dict belongs to, from its keys and shapes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from unified.contracts.errors import CheckpointError
from unified.official.design import DESIGNS, Design
from unified.official.layout import Section, layout

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Recognised:
    """A published network and the number of classes of one file of it."""

    design: Design
    classes: int

    @property
    def sections(self) -> tuple[Section, ...]:
        return layout(self.design, self.classes)


def recognise(
    state: Mapping[str, Tensor], source: str, designs: Sequence[Design] = tuple(DESIGNS.values())
) -> Recognised:
    """The network whose keys and shapes are exactly those of ``state``.

    Args:
        state: tensors by official name.
        source: the file, for the error.
        designs: networks to compare with.

    Raises:
        CheckpointError: none fits; the nearest one and the first differences are named.
    """
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    if not any(key.startswith("module_list.") for key in shapes):
        raise CheckpointError(_foreign(shapes, source))
    near: list[tuple[int, str]] = []
    for design in designs:
        classes = _classes(design, shapes)
        faults = _faults(shapes, layout(design, classes or 80))
        if classes and not faults:
            return Recognised(design, classes)
        near.append((len(faults), _nearest(design, shapes, faults)))
    known = ", ".join(design.name for design in designs)
    raise CheckpointError(f"'{source}' {min(near)[1]}; known: {known}")


def _classes(design: Design, shapes: Shapes) -> int | None:
    """Classes by the rows of the finest output convolution; None where it is missing or its rows make no sense."""
    first = next(section for section in layout(design, 1) if section.kind == "output")
    shape = shapes.get(f"module_list.{first.index}.Conv2d.weight", ())
    classes, rest = divmod(shape[0], design.anchors) if len(shape) == 4 else (0, 1)
    return classes - 5 if not rest and classes > 5 else None


def _faults(shapes: Shapes, sections: Sequence[Section]) -> list[str]:
    """What is missing, left over or of another shape, in order of the sections."""
    expected = dict(tensor for section in sections for tensor in section.tensors())
    faults = [f"missing {key}" for key in expected if key not in shapes]
    faults += [f"left over {key}" for key in shapes if key not in expected]
    both = (key for key in expected if key in shapes and shapes[key] != expected[key])
    return faults + [f"{key} is {shapes[key]}, expected {expected[key]}" for key in both]


def _nearest(design: Design, shapes: Shapes, faults: Sequence[str]) -> str:
    """What keeps a file from being of a design; a class count that contradicts itself is said in its own words."""
    rows = _rows(design, shapes)
    if len(rows) == len(_ROWED[design.implicit]) * len(design.neck) and len(faults) <= 3 * len(rows):
        odd = {count for count in rows.values() if count % design.anchors or count <= 5 * design.anchors}
        if odd or len(set(rows.values())) > 1:
            said = ", ".join(f"{key} {count}" for key, count in rows.items())
            return (
                f"is of {design.name} but its class count contradicts itself: every output needs "
                f"{design.anchors} x (5 + classes) rows, got {said}"
            )
    shown = "; ".join(faults[:3])
    return f"is of no network that can be imported: {design.name} is nearest, {len(faults)} tensors differ ({shown})"


_ROWED = {False: ("output",), True: ("output", "mul")}  # kinds of sections with a row for every output


def _rows(design: Design, shapes: Shapes) -> dict[str, int]:
    """Rows of every output convolution and of the z behind it, as far as they are there."""
    rows = {}
    for section in layout(design, 80):
        if section.kind in _ROWED[design.implicit]:
            key, shape = next(section.tensors())
            axis = 1 if section.kind == "mul" else 0
            if len(shapes.get(key, ())) == len(shape):
                rows[key] = shapes[key][axis]
    return rows


def _foreign(shapes: Shapes, source: str) -> str:
    keys = ", ".join(list(shapes)[:2])
    if any(key.startswith("model.") and key.endswith((".conv.weight", ".implicit")) for key in shapes):
        return (
            f"'{source}' holds tensors of a YAML-built network ({keys}), as YOLOR's paper branch and YOLOv5 do: "
            "those are other functions than the main branch's; take a file whose keys begin with module_list."
        )
    return f"'{source}' is a state dict of another network: its keys ({keys}) do not begin with module_list."
