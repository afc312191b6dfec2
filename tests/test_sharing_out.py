# SPDX-License-Identifier: Apache-2.0
"""All tests are shared out among processes, once: a process that was started for a share starts no others."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

SOURCE = pytest.Config.ArgsSource


def processes(pytestconfig: pytest.Config, source: Any = SOURCE.TESTPATHS, given: Any = None, **more: Any) -> Any:
    """What a session takes that was started like that, on a machine with three cores; ``given``: by ``-n``."""
    option = {"numprocesses": given, "dist": "no", "usepdb": False, "capture": "fd", "markexpr": "not slow"}
    option |= {key: more.pop(key) for key in option if key in more}
    config = SimpleNamespace(option=SimpleNamespace(**option), args_source=source, **more)
    hooks: Any = pytestconfig.pluginmanager.get_plugin(str(Path(__file__).parent / "conftest.py"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
        hooks.pytest_cmdline_main(config)
    return config.option.numprocesses


def test_all_tests_take_all_cores(pytestconfig: pytest.Config) -> None:
    assert processes(pytestconfig) == 3


def test_a_process_for_a_share_starts_no_others(pytestconfig: pytest.Config) -> None:
    assert processes(pytestconfig, workerinput={"workerid": "gw0"}) is None


@pytest.mark.parametrize(
    "how", [{"source": SOURCE.ARGS}, {"usepdb": True}, {"capture": "no"}, {"markexpr": "slow"}, {"given": 0}]
)
def test_else_one_process_does_it(pytestconfig: pytest.Config, how: dict[str, Any]) -> None:
    assert not processes(pytestconfig, **how)
