# SPDX-License-Identifier: Apache-2.0
"""Values out of a JSON record, each refused in one line where it is not what it must be."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from unified.contracts.errors import DataError, suggestion
from unified.contracts.structures import LabelState
from unified.data.formats.table import Said, listed

Record = Mapping[str, Any]


def get(record: Record, key: str, where: str, kinds: tuple[type, ...]) -> Any:
    """A key that must be there, of one of the kinds."""
    if key not in record:
        raise DataError(f"{where} has no '{key}'")
    value = record[key]
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise DataError(
            f"{where}: '{key}' must be {' or '.join(kind.__name__ for kind in kinds)}, got {str(value)[:60]!r}"
        )
    return value


def finite(value: Any) -> float:
    """A number as a float; NaN for what no float32 picture could hold."""
    return float(value) if abs(value) < 1e9 else math.nan


def is_number(value: Any) -> bool:
    """Whether a value is a number; yes and no are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def known(ident: Hashable, index: Mapping[Hashable, int], kind: str, where: str) -> int:
    """The place of an id that another record must have."""
    if ident not in index:
        raise DataError(f"{where} names the {kind} {ident!r}, which is not in the file ({len(index)} known)")
    return index[ident]


def said_of(value: Any, field: str) -> Said | None:
    """What a tag field says: a value, a list of values, yes or no to its own name, or yes and no by word."""
    if value is None:
        return None
    if isinstance(value, bool):
        return listed((field,)) if value else Said({field: int(LabelState.NEGATIVE)})
    if isinstance(value, dict):
        states = {True: LabelState.POSITIVE, False: LabelState.NEGATIVE}
        return Said({str(w): int(states[s]) for w, s in value.items() if isinstance(s, bool)}, whole=False)
    return listed(str(item) for item in value) if isinstance(value, list) else listed((str(value),))


def absent(field: str, kind: str, keys: Iterable[str]) -> str:
    """The remark for a field that no record has."""
    return f"no {kind} has the field '{field}'{suggestion(field, keys)}"
