# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "inference"))  # for its small model

NEEDED = ("starlette", "uvicorn", "prometheus_client", "python_multipart")


@pytest.fixture(autouse=True, scope="session")
def _extra() -> None:
    for name in NEEDED:
        pytest.importorskip(name, reason=f"needs {name} (extra 'serve')")


@pytest.fixture(scope="session")
def model(_extra: None) -> Iterator[object]:
    from live import lively_model

    yield lively_model()


@pytest.fixture(scope="session")
def folder(model: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a folder that commands can be given."""
    return model.save_pretrained(tmp_path_factory.mktemp("served") / "spare")  # type: ignore[attr-defined]
