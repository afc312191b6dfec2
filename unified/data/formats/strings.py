# SPDX-License-Identifier: Apache-2.0
"""Many texts as two arrays, which a file can hold and every process can map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Strings(Sequence[str]):
    """Texts laid end to end as UTF-8; text ``i`` is ``data[offsets[i]:offsets[i + 1]]``, decoded when it is asked."""

    data: NDArray[np.uint8]  # bytes of all texts
    offsets: NDArray[np.int64]  # (texts + 1,)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Strings:
        """The texts, packed. Halves of surrogate pairs, which JSON may hold, are kept as they are."""
        parts = [text.encode("utf-8", "surrogatepass") for text in texts]
        lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(np.frombuffer(b"".join(parts), dtype=np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        index %= len(self)
        part = self.data[int(self.offsets[index]) : int(self.offsets[index + 1])]
        return part.tobytes().decode("utf-8", "surrogatepass")
