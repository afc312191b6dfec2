# SPDX-License-Identifier: Apache-2.0
"""The published networks in numbers: what decides the sections of their cfg files (Wang et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unified.contracts.errors import ConfigError, suggestion


@dataclass(frozen=True)
class Design:
    """One published network.

    ``widths`` are the channels of the stages, of which the last ``len(neck)`` feed the neck; ``depths`` their
    bottlenecks; ``neck`` the channels of its levels, finest first.
    """

    name: str  # of the configuration in configs/models
    stem: tuple[int, ...]  # channels of the 3x3 convolutions before the first stage
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    neck: tuple[int, ...]
    neck_depth: int
    size: int  # pixels: input side of the published evaluation
    anchors: int = 3  # a cell
    implicit: bool = True  # +z before and xz behind every output convolution
    reorg: bool = False  # 2x2 pixels become channels before the stem
    residual_stem: bool = False  # one bottleneck behind the stem
    exits: bool = True  # a 1x1 at the end of a backbone stage's main branch
    spp_depth: int = 1  # pairs of 1x1 and 3x3 behind the pools

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the output levels, finest first: ``p3``, ``p4``, ..."""
        return tuple(f"p{i + 3}" for i in range(len(self.neck)))

    def outputs(self, classes: int) -> int:
        """Rows of an output convolution."""
        return self.anchors * (5 + classes)


def _csp(name: str, implicit: bool) -> Design:
    return Design(
        name=name,
        stem=(32, 64),
        residual_stem=True,
        widths=(128, 256, 512, 1024),
        depths=(2, 8, 8, 4),
        neck=(128, 256, 512),
        neck_depth=2,
        size=640,
        implicit=implicit,
    )


def _csp_x(name: str, implicit: bool) -> Design:
    return Design(
        name=name,
        stem=(32, 80),
        residual_stem=True,
        widths=(160, 320, 640, 1280),
        depths=(3, 10, 10, 5),
        spp_depth=2,
        neck=(160, 320, 640),
        neck_depth=3,
        size=640,
        implicit=implicit,
    )


def _six(name: str, widths: tuple[int, ...], neck: tuple[int, ...]) -> Design:
    return Design(
        name=name,
        stem=(64,),
        reorg=True,
        exits=False,
        widths=widths,
        depths=(3, 7, 7, 3, 3),
        neck=neck,
        neck_depth=3,
        size=1280,
    )


def _large(name: str, size: int, width: int, levels: int, neck: tuple[int, ...]) -> Design:
    """Scaled-YOLOv4's P6 and P7: CSP stages from stride 2 on."""
    growing = (2, 4, 8, 16, 32, *(32,) * (levels - 3))
    return Design(
        name=name,
        stem=(width,),
        widths=tuple(width * n for n in growing),
        depths=(1, 3, 15, 15, 7, *(7,) * (levels - 3)),
        neck=neck,
        neck_depth=3,
        size=size,
        anchors=4,
        implicit=False,
    )


DESIGNS: Mapping[str, Design] = {
    design.name: design
    for design in (
        _csp("yolor-csp", implicit=True),
        _csp("yolov4-csp", implicit=False),
        _csp_x("yolor-csp-x", implicit=True),
        _csp_x("yolov4-csp-x", implicit=False),
        _six("yolor-p6", (128, 256, 384, 512, 640), (128, 192, 256, 320)),
        _six("yolor-w6", (128, 256, 512, 768, 1024), (128, 256, 384, 512)),
        _large("yolov4-p6", 1280, 32, 4, (128, 256, 512, 512)),
        _large("yolov4-p7", 1536, 40, 5, (160, 320, 640, 640, 640)),
    )
}


def design_named(name: str) -> Design:
    """A design by the name a person gave; ``yolor_csp_x_star.pt`` is as good as ``yolor-csp-x``.

    Raises:
        ConfigError: there is none.
    """
    plain = name.lower().removesuffix(".pt").removesuffix(".weights").replace("_", "-").removesuffix("-star")
    if plain not in DESIGNS:
        raise ConfigError(f"no official file of '{name}' can be imported{suggestion(plain, DESIGNS)}")
    return DESIGNS[plain]
