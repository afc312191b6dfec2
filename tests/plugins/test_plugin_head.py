# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).resolve().parent.parent.parent

HEAD = """
from torch import nn
from unified.contracts.protocols import Head
from unified.contracts.structures import TagOutput


class MyHead(Head):
    def __init__(self, spec, outputs, *, gain=1.0):
        super().__init__()
        self.sites = {"pre.mine": spec.channels[-1]}
        self.gain = gain
        self.out = nn.Linear(spec.channels[-1], outputs)

    def forward(self, features, modulate):
        pooled = modulate("pre.mine", features.maps[-1].mean(dim=(2, 3)))
        return TagOutput(self.gain * self.out(pooled))
"""
POINTS = "[unified.heads]\nmy_head = my_plugin.parts:MyHead\nbroken_head = my_plugin.broken:Head\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stranger's package as a wheel leaves it: a module, and a dist-info folder beside it."""
    folder = tmp_path_factory.mktemp("plugin")
    tiny.cache_at(folder)
    info, package = folder / "site" / "my_plugin-1.0.dist-info", folder / "site" / "my_plugin"
    for each in (info, package):
        each.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text(HEAD)
    (package / "broken.py").write_text("raise ValueError('no licence key')\n")
    return folder


def call(place: Path, *words: str, script: str = "train", plugin: bool = True) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), *([str(place / "site")] if plugin else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", f"from unified.cli.{script} import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=place, env=environment, timeout=180)


def training(place: Path, head: str, out: str, *words: str) -> list[str]:
    files = ["--model", tiny.write_model(place), "--data", tiny.write_data(place), "--tasks", "cls", "--quiet"]
    files += ["--recipe", tiny.write_recipe(place)]
    return [*files, "--max-steps", "2", "--set", f"tasks.cls.head={head}", "--out", str(place / out), *words]


def test_a_strangers_head_trains_and_predicts(place: Path) -> None:
    """With an option of its own and a latent at a site of its own, without a change in the engine."""
    done = call(place, *training(place, "{name: my_head, gain: 2.0}", "run", "--json"))
    assert done.returncode == 0, done.stderr
    assert "cls/mAP" in json.loads(done.stdout)["metrics"]
    state = json.loads(next((place / "run" / "checkpoints").glob("step-*/state.json")).read_text())
    assert state["config"]["tasks"]["cls"]["head"] == {"name": "my_head", "options": {"gain": 2.0}}
    from safetensors import safe_open

    with safe_open(next((place / "run" / "checkpoints").glob("step-*/ema.safetensors")), "pt") as tensors:
        names = set(tensors.keys())
    assert {"heads.cls.out.weight", "bank.tasks.cls.pre/mine.latents.0.z"} <= names


def test_without_the_package_its_name_is_unknown(place: Path) -> None:
    done = call(place, *training(place, "my_head", "absent"), plugin=False)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: unknown head 'my_head'; known: caption, detect_anchor, detect_free, detr, embed, multilabel"
    )
    assert len(done.stderr.splitlines()) == 1
    assert not (place / "absent").exists()


def test_a_broken_package_is_named_only_when_asked_for(place: Path) -> None:
    """The test above trained beside it; here it is asked for."""
    done = call(place, *training(place, "broken_head", "broken"))
    assert done.returncode == 2
    expected = "error: head 'broken_head' of package 'my-plugin' (my_plugin.broken:Head) cannot be imported: "
    assert done.stderr == expected + "ValueError: no licence key\n"
    assert not (place / "broken").exists()
