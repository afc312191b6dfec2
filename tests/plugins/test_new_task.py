# SPDX-License-Identifier: Apache-2.0
"""What ``unified-new`` writes is a whole package that passes its own tests as generated."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import wheels

from unified.cli import new


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "unified-crowd-level"
    with pytest.raises(SystemExit) as caught:
        new.main(["task", "crowd_level", "--out", str(folder)])
    assert not caught.value.code
    return folder


def test_nothing_is_left_to_fill_in(package: Path) -> None:
    files = [path for path in package.rglob("*") if path.is_file()]
    assert len(files) == 7
    for path in files:
        assert not re.search(r"\$\{?[a-zA-Z]|TODO", path.read_text()), path
        if path.suffix == ".py":
            compile(path.read_text(), str(path), "exec")
    points = tomllib.loads((package / "pyproject.toml").read_text())["project"]["entry-points"]
    assert points["unified.tasks"] == {"crowd_level": "unified_crowd_level.task:CrowdLevelTask"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["task", "Crowd-Level"], "cannot be a task's name"),
        (["task", "class"], "cannot be a task's name"),
        (["task", "det"], "task 'det' of package 'unified-networks'"),
        (["head", "x"], "unknown kind 'head'; known: task"),
    ],
)
def test_words_that_cannot_be_are_one_line(
    words: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        new.main(words)
    err = capsys.readouterr().err
    assert caught.value.code == 2 and line in err and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("keep")
    with pytest.raises(SystemExit) as caught:
        new.main(["task", "level", "--out", str(tmp_path / "mine")])
    assert caught.value.code == 2 and "is there already" in capsys.readouterr().err
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "notes"]


def own_tests(package: Path, site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, timeout=500)


def test_it_keeps_the_contract_from_its_own_wheel(package: Path, tmp_path: Path) -> None:
    site = wheels.installed(tmp_path / "site", package)
    done = own_tests(package, site, "-k", "not trains")
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout


@pytest.mark.slow
def test_it_passes_all_its_own_tests(package: Path, tmp_path: Path) -> None:
    site = wheels.installed(tmp_path / "site", package, wheels.ROOT)
    done = own_tests(package, site)
    assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout
