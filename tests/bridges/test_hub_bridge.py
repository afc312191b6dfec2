# SPDX-License-Identifier: Apache-2.0
"""The hub's own mixin writes and reads our models; its cache on the disk stands for the hub, nothing is fetched."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from spare import spare_model

pytest.importorskip("huggingface_hub")

from huggingface_hub import HfApi

from unified import UnifiedModel
from unified.bridges.hub import HubModel
from unified.contracts.errors import CheckpointError, ConfigError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PICTURE = torch.randint(0, 255, (3, 90, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> UnifiedModel:
    return spare_model()


def cached(cache: Path, repo: str, folder: Path) -> None:
    """Puts a folder where the hub's client keeps what it has fetched."""
    at = cache / f"models--{repo.replace('/', '--')}"
    shutil.copytree(folder, at / "snapshots" / COMMIT)
    (at / "refs").mkdir()
    (at / "refs" / "main").write_text(COMMIT)


def test_what_is_pushed_is_what_comes_back(
    model: UnifiedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, Any] = {}

    def upload(api: HfApi, **given: Any) -> str:
        inspect.signature(UPLOAD).bind(api, **given)  # the real one would take these words
        sent.update(given, files=sorted(p.name for p in Path(given["folder_path"]).iterdir()))
        cached(tmp_path / "cache", given["repo_id"], given["folder_path"])
        return "commit"

    made = lambda api, repo_id, **given: type("Made", (), {"repo_id": repo_id})  # noqa: E731
    monkeypatch.setattr(HfApi, "create_repo", made)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    assert HubModel.of(model).push_to_hub("me/boxes") == "commit"
    assert sent["files"] == ["README.md", "config.json", "model.safetensors"]
    home = HubModel.from_pretrained("me/boxes", cache_dir=tmp_path / "cache", local_files_only=True, device="cpu")
    assert isinstance(home, HubModel) and home.tasks == model.tasks
    assert torch.equal(home.encode(PICTURE), model.encode(PICTURE))
    assert "unified" in (tmp_path / "cache/models--me--boxes/snapshots" / COMMIT / "README.md").read_text()


UPLOAD: Callable[..., Any] = HfApi.upload_folder


def test_a_folder_serves_as_well_and_only_some_tasks_are_read(model: UnifiedModel, tmp_path: Path) -> None:
    HubModel.of(model).save_pretrained(tmp_path / "handed")
    assert HubModel.from_pretrained(tmp_path / "handed", tasks=["det"], device="cpu").tasks == ("det",)
    assert UnifiedModel.from_pretrained(tmp_path / "handed", device="cpu").tasks == model.tasks
    with pytest.raises(ConfigError, match="no task 'dett'"):
        HubModel.from_pretrained(tmp_path / "handed", tasks=["dett"])


def test_a_repository_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        HubModel.from_pretrained("me/nothing", cache_dir=tmp_path, local_files_only=True)
    assert str(caught.value).startswith("model 'me/nothing' cannot be fetched: ") and "\n" not in str(caught.value)
