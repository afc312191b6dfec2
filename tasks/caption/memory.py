# SPDX-License-Identifier: Apache-2.0
"""Vectors of texts, encoded once and kept on the disk: plain records with a checksum each, no pickle.

Legend: n texts, D width.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Encode = Callable[[Sequence[str]], Tensor]


class TextMemory:
    """Gives the vectors of texts, and asks the encoder only for those it has never seen.

    A record is the first 16 bytes of the text's SHA-256, the vector as float16, and the CRC-32 of both. Processes may
    share a file: records are added by one write each time. What is torn or damaged is dropped, and encoded again.

    Args:
        encode: texts to unit vectors (n, D).
        dim: D.
        path: the file; None: nothing is kept on the disk.
    """

    def __init__(self, encode: Encode, dim: int, path: Path | None) -> None:
        self._encode, self._path = encode, path
        self._record = np.dtype([("key", "V16"), ("vector", "<f2", (dim,)), ("check", "<u4")])
        self._rows: dict[bytes, NDArray[np.float16]] = {}
        if path is not None:
            self._rows = self._read(path)

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(n, D) float32 on the CPU, of unit length to float16's rounding."""
        keys = [_key(text) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._rows}
        if new:
            vectors = self._encode(list(new.values())).numpy().astype(np.float16)
            self._rows.update(zip(new, vectors, strict=True))
            self._keep(list(new), vectors)
        width = self._record["vector"].shape[0]
        found = np.stack([self._rows[key] for key in keys]) if keys else np.zeros((0, width), np.float16)
        return torch.from_numpy(found.astype(np.float32))

    def _keep(self, keys: Sequence[bytes], vectors: NDArray[np.float16]) -> None:
        if self._path is None:
            return
        records = np.zeros(len(keys), self._record)
        records["key"] = np.frombuffer(b"".join(keys), "V16")
        records["vector"] = vectors
        records["check"] = [_check(key, vector) for key, vector in zip(keys, vectors, strict=True)]
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, not the run
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            try:
                os.write(handle, records.tobytes())
            finally:
                os.close(handle)

    def _read(self, path: Path) -> dict[bytes, NDArray[np.float16]]:
        try:
            data = path.read_bytes()
        except OSError:
            return {}
        size = self._record.itemsize
        records: Any = np.frombuffer(data[: len(data) - len(data) % size], self._record)
        rows = {
            bytes(key): vector
            for key, vector, check in zip(records["key"], records["vector"], records["check"], strict=True)
            if _check(bytes(key), vector) == check
        }
        if len(rows) * size != len(data):  # torn: later records would stand askew
            with contextlib.suppress(OSError):
                path.unlink()
            again = list(rows)
            self._keep(again, np.stack(list(rows.values()))) if again else None
        return rows


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def _check(key: bytes, vector: NDArray[np.float16]) -> int:
    return zlib.crc32(vector.tobytes(), zlib.crc32(key))
