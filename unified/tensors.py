# SPDX-License-Identifier: Apache-2.0
"""Tensors as a safetensors file, piece by piece and without a copy of them in memory.

The layout is the published one (Hugging Face, "safetensors format"): eight bytes with the length of a JSON header, the
header with type, shape and place of every tensor, then their bytes one after the other. The library reads them back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

import torch
from safetensors.torch import load
from torch import Tensor

from unified.contracts.errors import CheckpointError
from unified.disk import Piece

TYPES: Final = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
BLOCK: Final = 1 << 20  # bytes: small tensors go to the disk together


def pieces(tensors: Mapping[str, Tensor]) -> Iterator[Piece]:
    """The bytes of a safetensors file; a tensor that is not on the CPU or not dense is copied when its turn comes.

    Raises:
        CheckpointError: a tensor is of a type that the format does not know.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # every tensor stays aligned
    yield _header(tensors, names)
    block = bytearray()
    for name in names:
        piece = _bytes(tensors[name])
        if len(piece) < BLOCK:
            block += piece
        if len(piece) >= BLOCK or len(block) >= BLOCK:
            yield bytes(block)
            block.clear()
        if len(piece) >= BLOCK:
            yield piece
    yield bytes(block)


def _header(tensors: Mapping[str, Tensor], names: list[str]) -> bytes:
    header, start = {}, 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in TYPES or name == "__metadata__":
            raise CheckpointError(f"tensor '{name}' of type {tensor.dtype} cannot be saved; known: {_known()}")
        end = start + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _known() -> str:
    return ", ".join(str(kind).removeprefix("torch.") for kind in TYPES)


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def unpacked(data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: it is none.
    """
    try:
        return load(data)
    except Exception as error:  # the library has errors of many kinds for what others wrote
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0][:160]) from error
