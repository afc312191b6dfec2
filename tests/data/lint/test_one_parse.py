# SPDX-License-Identifier: Apache-2.0
"""What the linter reads before a run, the run does not read again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from unified.contracts.config import DataConfig
from unified.data.formats import coco_table
from unified.data.lint import part
from unified.data.lint.linter import refuse_faults
from unified.data.mixing import open_mixture


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("UNIFIED_CACHE", str(home))
    return home


def coco(root: Path, boxes: int) -> DataConfig:
    from PIL import Image

    Image.new("RGB", (64, 64)).save(root / "0.png")
    images = [{"id": 0, "file_name": "0.png", "width": 64, "height": 64}]
    for split in ("train", "val"):
        box = [{"id": k, "image_id": 0, "category_id": 1, "bbox": [k % 50, k // 50 % 50, 9, 9]} for k in range(boxes)]
        document = {"images": images, "annotations": box, "categories": [{"id": 1, "name": split and "dog"}]}
        (root / f"{split}.json").write_text(json.dumps({**document, "info": split}))
    parts: dict[str, Any] = {s: {"images": ".", "annotations": f"{s}.json"} for s in ("train", "val")}
    return DataConfig.model_validate({"datasets": {"zoo": {"path": str(root), **parts, "labelled": {"det": "all"}}}})


@pytest.mark.parametrize("boxes", [40, 20_000])  # in memory; over a megabyte, in the cache
def test_a_run_that_begins_parses_every_file_once(boxes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, parsed = coco(tmp_path, boxes), Counter[str]()

    def counted(module: Any, name: str, key: Any) -> None:
        real = getattr(module, name)

        def call(*given: Any) -> Any:
            parsed[key(given)] += 1
            return real(*given)

        monkeypatch.setattr(module, name, call)

    counted(part, "parse", lambda given: Path(given[1]).name)
    counted(coco_table, "read_lists", lambda given: given[0].name)
    assert refuse_faults(config, tmp_path, "mix.yaml", {"det": "det"}) is not None
    for split in ("train", "val"):
        mixture = open_mixture(config, {"det": "boxes"}, split=split, size=64, base=tmp_path)  # type: ignore[arg-type]
        assert len(mixture.sources["zoo"].read(0).annotations) == boxes
    assert parsed == {"train.json": 1, "val.json": 1}
    file = tmp_path / "train.json"
    file.write_text(file.read_text().replace('"info": "train"', '"info": "later"'))  # the control
    open_mixture(config, {"det": "boxes"}, split="train", size=64, base=tmp_path)
    assert parsed == {"train.json": 2, "val.json": 1}
