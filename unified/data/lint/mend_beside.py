# SPDX-License-Identifier: Apache-2.0
"""Repairs of the fields beside an annotation's box."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from unified.data.lint.annotations import OVER, beside
from unified.data.lint.boxes import number
from unified.data.lint.finding import shown

_YES: Final = {"1": 1, "true": 1, "yes": 1, "0": 0, "false": 0, "no": 0, "": 0}


def mend_beside(record: dict[str, Any], tell: Callable[[str], None]) -> bool:
    """Mends a record in place. False: its flags cannot be understood, so it cannot be used."""
    for fault, field, _ in beside(record):
        if fault == "crowd-value":
            value = record[field]
            read = _YES.get(str(value).strip().casefold()) if isinstance(value, str) else None
            if read is None:
                tell(f"left out: nobody can say what {field} {shown(value)} means")
                return False
            tell(f"{field} {shown(value)} becomes {read}")
            record[field] = read
        elif fault == "keypoints-malformed":
            tell("key points left out")
            record.pop("keypoints", None)
            record.pop("num_keypoints", None)
        else:
            tell(f"{field} left out" if field != "area" else "area of the box written")
            record.pop(field, None)
            if field == "area":
                record["area"] = round(record["bbox"][2] * record["bbox"][3], 2)
    own = record["bbox"][2] * record["bbox"][3]
    if (area := number(record.get("area"))) is not None and area > OVER * own + 1:
        tell(f"area {area:g} becomes {own:g}, that of the box")
        record["area"] = own
    return True
