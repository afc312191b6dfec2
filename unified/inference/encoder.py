# SPDX-License-Identifier: Apache-2.0
"""Vectors in the form they are kept: shortened, normalised, and as floats, bytes or bits.

Legend: n vectors of width D. The words and layouts are those people know from sentence-transformers.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unified.contracts.errors import ConfigError, DataError, suggestion

Precision: TypeAlias = Literal["float32", "float16", "int8", "binary"]
PRECISIONS: Final = ("float32", "float16", "int8", "binary")


def default_ranges(width: int) -> Tensor:
    """(2, D) float32: least and greatest value that bytes stand for where nothing was calibrated.

    -1 and 1, the same for every call, so that vectors made at different times can be compared and nothing of a unit
    vector is cut off; a cosine is then off by about 0.003.
    """
    return torch.tensor([[-1.0], [1.0]]).expand(2, width).contiguous()


def calibrate(vectors: Tensor) -> Tensor:
    """(2, D) float32: least and greatest value of every coordinate among ``vectors`` (n, D).

    Give the result to every later call: bytes of different ranges cannot be compared.

    Raises:
        DataError: fewer than two vectors, or values that are no numbers.
    """
    if vectors.ndim != 2 or len(vectors) < 2 or not vectors.is_floating_point():
        raise DataError(f"calibration takes two or more floating vectors (n, D); got shape {tuple(vectors.shape)}")
    if not torch.isfinite(vectors).all():
        raise DataError("calibration vectors hold values that are no numbers")
    return torch.stack([vectors.amin(dim=0), vectors.amax(dim=0)]).float()


def shorten(vectors: Tensor, width: int | None, normalize: bool) -> Tensor:
    """The first ``width`` coordinates of unit vectors (n, D), at unit length again if ``normalize``.

    Raises:
        ConfigError: the vectors have fewer.
    """
    if width is None or width == vectors.shape[-1]:
        return vectors  # of unit length already; once more would move the last bit
    if not 1 <= width < vectors.shape[-1]:
        raise ConfigError(f"truncate_dim {width} does not fit vectors of width {vectors.shape[-1]}")
    return F.normalize(vectors[..., :width], dim=-1) if normalize else vectors[..., :width]


def quantize(vectors: Tensor, precision: Precision = "float32", ranges: Tensor | None = None) -> Tensor:
    """Vectors (n, D) float32 in a smaller form.

    Args:
        vectors: what the network says.
        precision: ``float32`` and ``float16`` (n, D); ``int8`` (n, D), each coordinate's range in 255 steps;
            ``binary`` (n, D / 8) uint8, a bit a coordinate (1: above zero), the first in the highest place.
        ranges: (2, D) of :func:`calibrate`, for ``int8``; by default :func:`default_ranges`.

    Raises:
        ConfigError: an unknown precision, ranges of another width, or bits of a width that is no multiple of 8.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"unknown precision '{precision}'{suggestion(precision, PRECISIONS)}")
    if precision == "binary":
        return _packed(vectors)
    if precision == "int8":
        low, step = _steps(ranges, vectors.shape[-1])
        return ((vectors.float() - low) / step - 128).round().clamp(-128, 127).to(torch.int8)
    return vectors.half() if precision == "float16" else vectors.float()


def dequantize(vectors: Tensor, ranges: Tensor | None = None) -> Tensor:
    """Vectors float16, float32 or int8 as float32; bits become -1 and +1.

    Raises:
        ConfigError: ranges of another width.
        DataError: another type.
    """
    if vectors.dtype == torch.int8:
        low, step = _steps(ranges, vectors.shape[-1])
        return (vectors.float() + 128) * step + low
    if vectors.dtype == torch.uint8:
        bits = np.unpackbits(np.ascontiguousarray(vectors.cpu().numpy()), axis=-1)
        return torch.from_numpy(bits).float() * 2 - 1
    if not vectors.is_floating_point():
        raise DataError(f"vectors must be float32, float16, int8 or packed uint8; got {vectors.dtype}")
    return vectors.float()


def similarity(a: Tensor, b: Tensor, ranges: Tensor | None = None) -> Tensor:
    """Cosine similarity of every vector of ``a`` with every one of ``b``.

    Args:
        a: (n, D) or (D,), in any form that :func:`quantize` gives.
        b: (m, D) or (D,); both packed bits or neither. Of bits it is 1 - 2 * (share of bits that differ).
        ranges: (2, D), those the int8 vectors were made with.

    Returns:
        (n, m) float32 in -1..1; a single vector counts as one row.

    Raises:
        DataError: widths that differ, or bits against numbers.
    """
    if (a.dtype == torch.uint8) != (b.dtype == torch.uint8):
        raise DataError(f"packed bits can only be compared with packed bits; got {a.dtype} and {b.dtype}")
    left, right = (_rows(dequantize(each, ranges)) for each in (a, b))
    if left.shape[-1] != right.shape[-1]:
        raise DataError(f"vectors of width {left.shape[-1]} and {right.shape[-1]} cannot be compared")
    return F.normalize(left, dim=-1) @ F.normalize(right, dim=-1).T


def _rows(vectors: Tensor) -> Tensor:
    return vectors[None] if vectors.ndim == 1 else vectors


def _packed(vectors: Tensor) -> Tensor:
    if vectors.shape[-1] % 8:
        raise ConfigError(
            f"binary vectors need a width that is a multiple of 8, got {vectors.shape[-1]}; "
            f"give truncate_dim={vectors.shape[-1] // 8 * 8}"
        )
    return torch.from_numpy(np.packbits((vectors > 0).cpu().numpy(), axis=-1))


def _steps(ranges: Tensor | None, width: int) -> tuple[Tensor, Tensor]:
    """Least value and step (D,) of every coordinate."""
    used = default_ranges(width) if ranges is None else ranges.float()
    if used.shape != (2, width):
        raise ConfigError(f"ranges must be (2, {width}) for vectors of width {width}; got {tuple(used.shape)}")
    return used[0], ((used[1] - used[0]) / 255).clamp(min=1e-12)
