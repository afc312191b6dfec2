# SPDX-License-Identifier: Apache-2.0
"""The packages of docs/plugins, from their own wheels in a place of their own: nothing of the platform is changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import wheels
from PIL import Image

PACKAGES = [wheels.ROOT / "docs" / "plugins" / name for name in ("unified-counting", "unified-heading")]
DATA = tiny.DATA.replace("emb: all", "count: all, heading: all")
TASKS = "det,count,heading"


class Place:
    """A folder to work in, and a site with the wheels."""

    def __init__(self, folder: Path, *more: Path) -> None:
        self.folder = folder
        self.site = wheels.installed(folder / "site", *PACKAGES, *more)
        path = [str(self.site), *([] if more else [str(wheels.ROOT)])]
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}
        self.environment["UNIFIED_CACHE"] = str(folder / "cache")

    def run(self, *words: str, site: bool = True) -> subprocess.CompletedProcess[str]:
        environment = self.environment if site else {**self.environment, "PYTHONPATH": str(wheels.ROOT)}
        command = [sys.executable, *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.folder, env=environment, timeout=550)

    def call(self, script: str, *words: str, site: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("-c", f"from unified.cli.{script} import main; main()", *words, site=site)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("packages"))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_passes_its_own_tests(place: Place, package: Path) -> None:
    done = place.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(package), str(package / "tests"))
    assert done.returncode == 0, done.stdout


def test_they_are_listed_with_their_origin(place: Place) -> None:
    done = place.call("list", "tasks", "--foreign", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert {name: row["package"] for name, row in rows.items()} == {
        "count": "unified-counting",
        "heading": "unified-heading",
    }
    assert all(row["summary"] and not row["error"] for row in rows.values())


@pytest.mark.slow
def test_from_install_to_export_in_a_clean_place(tmp_path: Path) -> None:
    """The platform itself is a wheel here too. Train, evaluate, predict, draw, export."""
    place = Place(tmp_path, wheels.ROOT)
    tiny.write_model(tmp_path)
    tiny.write_recipe(tmp_path)
    tiny.write_data(tmp_path, DATA)
    words = ["--model", "tiny.yaml", "--data", "data/shapes.yaml", "--recipe", "recipe.yaml", "--quiet", "--json"]
    done = place.call("train", *words, "--tasks", TASKS, "--max-steps", "4", "--out", "run")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    assert {"count/MAE", "heading/Acc30", "heading/MedErr"} <= set(metrics)
    again = place.call("eval", "run", "--json")
    assert json.loads(again.stdout)["count/MAE"] == pytest.approx(metrics["count/MAE"], rel=1e-3)
    predicts(place)
    exports(place)
    gone = place.call("eval", "run", site=False)
    assert gone.returncode == 2 and len(gone.stderr.splitlines()) == 1
    assert "task 'count' and head 'density' of package 'unified-counting' 0.1.0, which is not installed" in gone.stderr


def predicts(place: Place) -> None:
    Image.new("RGB", (120, 80), (90, 90, 90)).save(place.folder / "grey.png")
    done = place.call("predict", "run", "grey.png", "--conf", "0.0001", "--out", "seen")
    assert done.returncode == 0 and "objects" in done.stdout, done.stderr
    said = json.loads((place.folder / "seen" / "predictions.json").read_text())[0]
    assert said["extras"]["count"].keys() == {"total", "counts"}
    assert len(said["extras"]["heading"]["degrees"]) == len(said["boxes"]) > 0
    with Image.open(place.folder / "seen" / "grey.png") as drawn:
        assert max(drawn.size) >= 480 and len(drawn.convert("RGB").getcolors(1 << 24) or ()) > 50


def exports(place: Place) -> None:
    pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    done = place.call("export", "run", "--format", "onnx", "--out", "model")
    assert done.returncode == 0, done.stderr
