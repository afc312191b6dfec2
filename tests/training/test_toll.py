# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import tiny

import unified  # noqa: F401
from unified.training.toll import Toll, measure_toll


def test_what_saving_costs_is_measured_on_real_steps(tmp_path: Path) -> None:
    tiny.cache_at(tmp_path)
    config, base = tiny.config(tmp_path, "train.save_minutes=2", tasks=("det",))
    toll = measure_toll(config, base, saves=1, steps=1, folder=tmp_path)
    assert toll.bytes > 100_000 and toll.step > 0 and toll.steps_slowed >= 1
    assert toll.copied > 0 and toll.written > 0
    assert toll.interval >= 120
    assert not [path for path in tmp_path.iterdir() if "tmp" in path.name]


def test_a_share_is_of_all_the_time() -> None:
    toll = Toll(1, step=1.0, copied=1.0, written=9.0, added=5.0, in_turn=10.0, interval=95.0, steps_slowed=9)
    assert toll.share == pytest.approx(0.05)
