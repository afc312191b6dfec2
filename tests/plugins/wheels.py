# SPDX-License-Identifier: Apache-2.0
"""Packages as a person gets them: built to a wheel, installed into a folder of their own, offline."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
_LEFT_OUT = ("__pycache__", "build", ".git", "*.egg-info", ".mypy_cache", ".ruff_cache", ".venv", "tests", "runs")


def installed(site: Path, *packages: Path) -> Path:
    """The folder ``site`` with the wheels of some packages in it; nothing is fetched."""
    pytest.importorskip("setuptools", "77", reason="wheels are built with setuptools")
    with tempfile.TemporaryDirectory() as folder:
        for package in packages:
            copy = Path(folder) / "sources" / package.name
            shutil.copytree(package, copy, ignore=shutil.ignore_patterns(*_LEFT_OUT))
            _pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", f"{folder}/wheels", str(copy))
        found = [str(path) for path in Path(folder, "wheels").glob("*.whl")]
        _pip("install", "--no-deps", "--no-index", "--target", str(site), *found)
    return site


def _pip(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *words, "-q"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
