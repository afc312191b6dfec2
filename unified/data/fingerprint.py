# SPDX-License-Identifier: Apache-2.0
"""The fingerprint of a dataset: a digest of its index, so that a run notices when its data is no longer the same.

The index is which images there are, in which order and of what size, and everything that is said of them: for a table
its arrays, whatever files they came from. Pixels are not read.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from unified.data.source import Source

if TYPE_CHECKING:
    from unified.data.mixing import Mixture

_INDEX: Final = ("table", "store")  # attributes of a source in which its index stands
_PIXELS: Final = ("images", "folder", "warnings")  # of an index: what is no part of it


def fingerprints(splits: Mapping[str, Mixture]) -> dict[str, str]:
    """The fingerprint of every dataset of every split, by ``dataset (split)``."""
    return {
        f"{name} ({split})": fingerprint(source)
        for split, mixture in splits.items()
        for name, source in mixture.sources.items()
    }


def fingerprint(source: Source) -> str:
    """32 hexadecimal digits that change with anything the index says."""
    digest = hashlib.sha256()
    _add(digest, [len(source), source.vocabulary, list(source.tag_classes)])
    index = next((found for name in _INDEX if (found := getattr(source, name, None)) is not None), None)
    if index is None:
        _add(digest, [[source.image_id(k), source.size(k)] for k in range(len(source))])
    else:
        _add(digest, index)
    return digest.hexdigest()[:32]


def _add(digest: Any, value: Any) -> None:
    """Every part with its kind and its length before it, so that no two values look alike."""
    if isinstance(value, np.ndarray):
        digest.update(f"array {value.dtype.str} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value).data)
    elif dataclasses.is_dataclass(value):
        _add_named(digest, {f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    elif isinstance(value, Mapping):
        _add_named(digest, value)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        digest.update(f"{len(value)} items ".encode())
        for item in value:
            _add(digest, item)
    elif hasattr(value, "__dict__"):
        _add_named(digest, vars(value))
    else:
        text = repr(value).encode()
        digest.update(f"{type(value).__name__} {len(text)} ".encode() + text)


def _add_named(digest: Any, items: Mapping[str, Any]) -> None:
    kept = {k: v for k, v in items.items() if k not in _PIXELS and not isinstance(v, Path) and not callable(v)}
    digest.update(f"{len(kept)} named ".encode())
    for key in sorted(kept):
        digest.update(f"{key} ".encode())
        _add(digest, kept[key])
