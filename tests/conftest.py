# SPDX-License-Identifier: Apache-2.0
"""How the tests run. All of them are shared out among a process for each core; files and folders by name run in one.

``-n 0`` is one process for all, as with ``-s``, ``--pdb``, ``-m slow`` and ``-m reliability``, or without pytest-xdist.
"""

import os
import sys

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core each; before torch is loaded, and for the children as well

import unified  # noqa: F401, I001  (first: it lets torchvision be imported beside a CPU-only torch)

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

MOST_PROCESSES = 4  # each loads torch, which takes half a gigabyte


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    option, source = config.option, pytest.Config.ArgsSource
    if (
        hasattr(config, "workerinput")
        or config.args_source is not source.TESTPATHS
        or "not slow" not in option.markexpr
    ):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores > 1 and getattr(option, "numprocesses", 0) is None and not option.usepdb and option.capture != "no":
        option.numprocesses = min(cores, MOST_PROCESSES)
        option.dist = "worksteal"  # neighbours stay together, and with them what a file has made once


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photographs and published reference numbers; tests that need it are skipped without it."""
    default = Path(__file__).resolve().parent.parent.parent / "shared"
    folder = Path(os.environ.get("UNIFIED_TEST_DATA", default))
    if not (folder / "data").is_dir():
        pytest.skip(f"no test data at {folder}; set UNIFIED_TEST_DATA to a folder with data/ and fixtures/")
    return folder


@pytest.fixture(scope="session", autouse=True)
def undrawn() -> Iterator[None]:
    """Runs end without their plots, which take longer than all else of a run of six steps; see ``tiny.drawn``."""
    with pytest.MonkeyPatch.context() as patch:
        if "unified.training.run" in sys.modules:
            patch.setattr("unified.training.run.report", lambda *_: [])
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
