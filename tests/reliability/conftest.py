# SPDX-License-Identifier: Apache-2.0
"""The harness that breaks things on purpose, and its table.

``pytest -m reliability`` runs everything at full counts and ends with a table: trials, failures, what 0 failures in n
trials bound the rate by (the rule of three: at most 3/n with 95 % confidence), and how often the control failed.
``UNIFIED_RELIABILITY=0.1`` takes a tenth of the counts. The ordinary ``pytest`` takes a small share of each, within
seconds. ``-k`` and single files work as ever: ``pytest -m reliability tests/reliability/test_kills.py``.

To add a harness, write a test that takes ``tally``::

    def test_workers_killed(tally: Tally, tmp_path: Path) -> None:
        tally.begin("data workers killed", "one of two, while it decodes")  # the row: its name, what is done
        for trial in range(tally.count(20, share=2)):  # 20 at full scale, 2 in the ordinary run
            tally.add(ended_well, f"trial {trial}: waited {seconds:.1f} s")  # the text tells of a failure
        tally.control(trials=3, failures=3, what="without the guard")  # the way that must fail
        tally.verdict()  # makes the row; 0 failures, and a control that failed

Every such test exists twice: ``[share]`` in the ordinary run and ``[full]`` behind the marker, so give no marker of
your own. A control is the plain or blind way of doing the same thing; a harness whose control does not fail sees
nothing, and ``verdict`` says so. ``tally.note(text)`` adds a fact to the row, such as how many kills fell into a save.
``memory`` is a fresh folder that is no disk, for what is saved thousands of times.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from tally import ROW, Tally, table

sys.path.append(str(Path(__file__).parents[1] / "data"))  # for its menagerie of data sets

FAILED = pytest.StashKey[bool]()
FULL = float(os.environ.get("UNIFIED_RELIABILITY", "1.0"))


@pytest.fixture(params=[pytest.param(0.0, id="share"), pytest.param(FULL, id="full", marks=pytest.mark.reliability)])
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Counts trials and failures of one harness, and makes its row of the table."""
    counted = Tally(request.param, request.node.user_properties)
    yield counted
    assert counted.told or request.node.stash.get(FAILED, True), "a harness ends with tally.verdict()"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.outcome != "passed"
    return report


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A fresh folder in memory where the system has one, since a kill or a damaged byte is the same there."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="unified-reliability-") as folder:
        yield Path(folder)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table, after everything else."""
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, [])]
    rows = [value for each in reports if each.when == "call" for name, value in each.user_properties if name == ROW]
    if rows:
        terminalreporter.section("reliability")
        terminalreporter.write_line(table(rows))
        terminalreporter.write_line(f"{time.strftime('%Y-%m-%d')}; counts x {FULL:g} under -m reliability")
