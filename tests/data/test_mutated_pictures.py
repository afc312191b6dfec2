# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys
from pathlib import Path

import picture_mutator
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CHILDREN = 2


def check(folder: Path, number: int, timeout: float) -> str:
    """Reads mutated pictures in child processes; what happened, in one line."""
    part = -(-number // CHILDREN)
    ranges = [(first, min(first + part, number)) for first in range(0, number, part)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen(
            [sys.executable, picture_mutator.__file__, str(folder), str(first), str(last)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for first, last in ranges
    ]
    reports = []
    for child, (first, _) in zip(children, ranges, strict=True):
        out, errors = child.communicate(timeout=timeout)
        where = (folder / f"{first}.now").read_text() if (folder / f"{first}.now").exists() else "none"
        assert child.returncode == 0, f"a child ended with {child.returncode} at picture {where}: {errors[-500:]}"
        reports.append(json.loads(out))
    assert [fault for report in reports for fault in report["faults"]] == []
    slowest = max(reports, key=lambda report: report["slowest"])
    assert slowest["slowest"] < 1.0, slowest
    read, refused = (sum(report[key] for report in reports) for key in ("read", "refused"))
    assert read + refused == number and min(read, refused) > number // 20
    return (
        f"{number} mutated pictures in {len(ranges)} processes: 0 deaths (at 95 % under {3 / number:.4%} of pictures), "
        f"{read} read, {refused} refused, the slowest {slowest['slowest']:.2f} s, "
        f"at most {max(report['megabytes'] for report in reports):.0f} MB"
    )


def test_mutated_pictures_are_read_or_refused(tmp_path: Path) -> None:
    print(check(tmp_path, 10_000, 600))


@pytest.mark.reliability
def test_a_hundred_thousand_mutated_pictures_are_read_or_refused(tmp_path: Path) -> None:
    print(check(tmp_path, 100_000, 3600))


def test_the_mutator_damages_pictures_in_its_own_way_every_time() -> None:
    pictures = picture_mutator.whole_pictures()
    first = [picture_mutator.mutated(pictures, k) for k in range(300)]
    assert first == [picture_mutator.mutated(pictures, k) for k in range(300)]
    assert len({*first} - {*pictures}) > 280
