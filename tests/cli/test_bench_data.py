# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from unified.cli import bench

DATA = """
path: {folder}
format: coco
train: {{annotations: all.json}}
val: {{annotations: all.json}}
labelled: {{det: all}}
"""


def test_the_pace_of_pictures_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.cache_at(tmp_path)
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    images = [{"id": k, "file_name": f"{k}.jpg", "width": 200, "height": 120} for k in range(6)]
    for k in range(6):
        pixels = np.random.default_rng(k).integers(0, 256, (120, 200, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(zoo / f"{k}.jpg")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50]}
    whole = {"images": images, "annotations": [box], "categories": [{"id": 1, "name": "cat"}]}
    (zoo / "all.json").write_text(json.dumps(whole))
    data = tiny.write_data(tmp_path, DATA.format(folder=zoo))
    recipe, model = tiny.write_recipe(tmp_path), tiny.write_model(tmp_path)
    words = ["data", "--data", data, "--recipe", recipe, "--model", model, "--tasks", "det", "--size", "64"]
    words += ["--batch", "2", "--workers", "0", "--images", "4", "--repeats", "1", "--steps", "2", "--step-size", "64"]
    with pytest.raises(SystemExit) as end:
        bench.main([*words, "--json", "train.augment.mosaic=1"])
    assert not end.value.code
    result = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in result["stages"]] == [
        "decoded",
        "decoded within reach",
        "transformed",
        "transformed, cached",
        "delivered",
        "delivered, cached",
        "torchvision's floor",
    ]
    assert all(stage["images_per_second"] > 0 and stage["milliseconds"] > 0 for stage in result["stages"])
    assert result["steps"]["steps"] == 2 and 0 <= result["steps"]["share"] < 1
