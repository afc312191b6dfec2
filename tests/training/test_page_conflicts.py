# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from unified.training.conflict import FILE
from unified.training.page.conflicts import conflicts

LOOK: dict[str, Any] = {
    "stages": ["stem", "trunk"],
    "shared": {"a~<b>": False},
    "norm": {"a": [1.0, 2.0], "<b>": [2.0, 1.0]},
    "agreement": {"a": [0.5, 0.25], "<b>": [None, None]},
    "images": 8,
    "seconds": 0.1,
}


def _run(folder: Path, cosines: list[list[float | None]]) -> Path:
    looks = [{**LOOK, "step": 10 * (k + 1), "cosine": {"a~<b>": row}} for k, row in enumerate(cosines)]
    (folder / FILE).write_text("".join(f"{json.dumps(look)}\n" for look in looks))
    return folder


def test_every_cosine_is_a_cell_of_its_sign_and_strength(tmp_path: Path) -> None:
    drawn = conflicts(_run(tmp_path, [[0.25, -0.1], [-0.5, None]]))
    cells = re.findall(r'<rect class="(\w+)".*?fill-opacity="([\d.]+)"', drawn)
    assert cells == [("along", "0.50"), ("apart", "1.00"), ("apart", "0.20")]


def test_names_are_text_and_what_the_numbers_are_held_against_is_said(tmp_path: Path) -> None:
    drawn = conflicts(_run(tmp_path, [[0.25, -0.1]]))
    assert "<b>" not in drawn and "&lt;b&gt;" in drawn
    assert "a +0.25" in drawn
    assert "different pictures, which says little" in drawn


def test_nothing_measured_is_nothing_drawn(tmp_path: Path) -> None:
    assert conflicts(tmp_path) == ""
