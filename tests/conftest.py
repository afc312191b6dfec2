# SPDX-License-Identifier: Apache-2.0
import unified  # noqa: F401, I001  (first: it lets torchvision be imported beside a CPU-only torch)

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photographs and published reference numbers; tests that need it are skipped without it."""
    default = Path(__file__).resolve().parent.parent.parent / "shared"
    folder = Path(os.environ.get("UNIFIED_TEST_DATA", default))
    if not (folder / "data").is_dir():
        pytest.skip(f"no test data at {folder}; set UNIFIED_TEST_DATA to a folder with data/ and fixtures/")
    return folder


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
