# SPDX-License-Identifier: Apache-2.0
"""What writes a network in a format that other programs run, and runs what it wrote.

Legend: B images in a batch, N boxes shown of an image, H W height and width of the input in pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from numpy.typing import NDArray
from torch import nn

INPUT = "images"  # the one input of every graph: (B, 3, H, W) float32, RGB in 0..1


class Runner(Protocol):
    """A written file, ready to answer. Threads may share it."""

    def __call__(self, images: NDArray[Any], outputs: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        """Outputs by name. images: (B, 3, H, W) float32 in 0..1, contiguous."""


class Pictures(Protocol):
    """Pictures to calibrate with, as often as they are asked for."""

    def __call__(self) -> Iterator[NDArray[Any]]:
        """One (1, 3, H, W) float32 in 0..1 after another."""


@dataclass(frozen=True)
class Blueprint:
    """A network that only needs to be written down."""

    graph: nn.Module  # (B, 3, H, W) float32 in 0..1 -> a tuple of tensors; for inference, on the CPU
    outputs: tuple[str, ...]  # names of the tensors
    size: int  # pixels: the side it was trained for; any multiple of ``stride`` must work
    stride: int
    precision: str
    about: str  # JSON that says what is needed to run it; a format may carry it inside the file
    pictures: Pictures | None = None  # for a precision that is calibrated


class Exporter(ABC):
    """A format. Built as ``cls()``; what it needs is imported when it works, not before."""

    suffix: ClassVar[str]  # of the file, such as ``.onnx``
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    suppresses: ClassVar[bool] = False  # whether non-maximum suppression may stand in the graph

    @abstractmethod
    def check(self, precision: str) -> None:
        """Whether all that it needs is installed.

        Raises:
            ConfigError: names what is missing.
        """

    @abstractmethod
    def write(self, blueprint: Blueprint, file: Path) -> None:
        """Writes ``file`` and whatever belongs beside it, for any batch and any multiple of the stride."""

    @abstractmethod
    def open(self, file: Path, outputs: Sequence[str], device: str) -> Runner:
        """What was written, ready to run.

        Args:
            file: as it was written.
            outputs: names of all that it gives, in order.
            device: ``cpu``, ``cuda`` ...; one that the program cannot use falls back to the CPU.

        Raises:
            CheckpointError: it cannot be opened.
        """

    @abstractmethod
    def runtime(self) -> str:
        """The program that runs it, with its version, such as ``onnxruntime 1.32.0``."""

    def about(self, file: Path) -> str | None:
        """The JSON that a file carries inside; None where the format carries none."""
        return None


@dataclass(frozen=True)
class Suppression:
    """How a graph that suppresses repeats chooses the boxes it shows; a task's ``selection`` has the same fields."""

    confidence: float = 0.05  # least score
    nms_iou: float = 0.65  # a box that overlaps a better one of its class by more is a repeat; 1: none is
    max_boxes: int = 300
    candidates: int = 1000  # best-scored boxes of an image that are compared
    multi_label: bool = True  # one point may answer with several classes
