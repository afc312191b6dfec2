# SPDX-License-Identifier: Apache-2.0
"""Plug-ins that are a file: loaded on request, named when they fail, remembered by what they made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

import unified
from unified.contracts import plugins, protocols
from unified.contracts.config import DataConfig, ModelConfig, PartConfig, RunConfig, TaskConfig
from unified.contracts.registry import RegistryError

ROOT = Path(__file__).resolve().parent.parent.parent

HEAD = """
import unified
from torch import nn
from unified.contracts.protocols import Head
from unified.contracts.structures import TagOutput


@unified.register_head("file_head")
class FileHead(Head):
    '''Reads the coarsest level.'''

    reads = ("p5",)

    def __init__(self, spec, outputs):
        super().__init__()
        self.sites = {}
        self.out = nn.Linear(spec.channels[-1], outputs)

    def forward(self, features, modulate):
        assert features.levels == ("p5",)
        return TagOutput(self.out(features.maps[0].mean(dim=(2, 3))))


@unified.register_metric("file_metric")
class FileMetric:
    '''Counts images.'''

    def __init__(self, task, *, unit=1.0):
        self.unit, self.seen = unit, 0

    def update(self, output, predictions, batch):
        self.seen += len(batch)

    def compute(self):
        return {"seen": self.unit * self.seen}

    def curves(self):
        return {}
"""


@pytest.fixture(autouse=True)
def unchanged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(plugins.VARIABLE, "")
    monkeypatch.setattr(plugins, "_files", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    for registry in protocols.registries():
        monkeypatch.setattr(registry, "_local", {**registry._local})


def write(name: str, text: str = HEAD) -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def refused(path: Path | str) -> str:
    with pytest.raises(RegistryError) as caught:
        unified.load_plugin(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_registers_its_parts_and_is_named_as_their_origin() -> None:
    file = unified.load_plugin(write("file_plugin_a.py"))
    part = protocols.heads.part("file_head")
    assert (part.origin, part.summary) == (f"plug-in file '{file}'", "Reads the coarsest level.")
    assert os.environ[plugins.VARIABLE] == str(file)
    assert unified.load_plugin("file_plugin_a.py") == file  # twice is once
    sys.modules.pop("file_plugin_a")


def test_a_file_that_cannot_be_loaded_is_named_with_its_line() -> None:
    assert "'gone.py' is no Python file" in refused("gone.py")
    assert refused(write("file_plugin_b.py", "x = 1\n\nraise ValueError('no key')\n")) == (
        "plug-in file 'file_plugin_b.py' cannot be loaded: line 3: ValueError: no key"
    )
    assert "line 1: SyntaxError" in refused(write("file_plugin_c.py", "def ("))
    assert "registers nothing; write @unified.register_head" in refused(write("file_plugin_d.py", "x = 1\n"))
    assert "has the name of another module" in refused(write("json.py"))
    assert "no name of a module" in refused(write("my-plugin.py"))
    taken = HEAD.replace("file_head", "multilabel")
    assert "line 8: head 'multilabel' is taken by package 'unified-networks'" in refused(
        write("file_plugin_e.py", taken)
    )
    assert os.environ[plugins.VARIABLE] == "" and "file_plugin_b" not in sys.modules


def test_a_wrong_class_is_refused_where_it_is_registered() -> None:
    wrong = HEAD.replace("def __init__(self, spec, outputs)", "def __init__(self, channels)")
    line = refused(write("file_plugin_f.py", wrong))
    assert "line 8: head 'file_head' of file_plugin_f.FileHead is built from (channels)" in line


def test_the_variable_loads_files_for_whole_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    file = write("file_plugin_g.py").resolve()
    monkeypatch.setattr(plugins, "_named", set())
    monkeypatch.setenv(plugins.VARIABLE, str(file))
    assert "file_head" in protocols.heads.names()
    sys.modules.pop("file_plugin_g")


def config(**task: Any) -> RunConfig:
    return RunConfig(model=ModelConfig(), tasks={"cls": TaskConfig(task="cls", **task)}, data=DataConfig(datasets={}))


def test_what_others_gave_is_noted_and_asked_for_again() -> None:
    file = unified.load_plugin(write("file_plugin_h.py"))
    with_head = config(head=PartConfig(name="file_head"))
    said = plugins.noted(with_head)
    assert said == [{"kind": "head", "name": "file_head", "file": str(file)}]
    assert plugins.noted(config()) == []
    plugins.require(said, with_head, "runs/x")
    protocols.heads._local.pop("file_head")
    with pytest.raises(RegistryError) as caught:
        plugins.require(said, with_head, "runs/x")
    assert str(caught.value) == (
        f"'runs/x' needs head 'file_head' of the plug-in file '{file}', which is not loaded: --plugin {file}, "
        "or unified.load_plugin(...)"
    )
    plugins.require(said, config(), "runs/x")  # a task that does without it can be read
    sys.modules.pop("file_plugin_h")


def test_a_package_that_is_gone_is_asked_for_by_its_version() -> None:
    said = [{"kind": "head", "name": "gone", "package": "unified-gone", "version": "1.2"}]
    with pytest.raises(RegistryError, match=r"pip install 'unified-gone==1\.2'"):
        plugins.require(said, config(head=PartConfig(name="gone")), "runs/x")


def test_files_in_commands_from_training_to_prediction(tmp_path: Path) -> None:
    """With a metric of its own; and without the file a line says what is missing."""
    tiny.cache_at(tmp_path)
    file = write("file_plugin_i.py").resolve()
    words = ["--model", tiny.write_model(tmp_path), "--data", tiny.write_data(tmp_path), "--tasks", "cls", "--quiet"]
    words += ["--recipe", tiny.write_recipe(tmp_path), "--max-steps", "2", "--out", "run", "--json"]
    words += ["--set", "tasks.cls.head=file_head", "--set", "tasks.cls.metrics=[{name: file_metric, unit: 2.0}]"]
    done = call("train", *words, "--plugin", str(file))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["cls/seen"] == 16.0
    state = json.loads(next(Path("run/checkpoints").glob("step-*/state.json")).read_text())
    assert {"kind": "head", "name": "file_head", "file": str(file)} in state["plugins"]
    without = call("eval", "run")
    assert without.returncode == 2 and without.stderr.startswith("error: 'run' needs metric 'file_metric' and head")
    assert len(without.stderr.splitlines()) == 1 and f"--plugin {file}" in without.stderr
    assert call("eval", "run", "--json", f"--plugin={file}").returncode == 0


def call(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment.pop(plugins.VARIABLE, None)
    command = [sys.executable, "-c", f"from unified.cli.{script} import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def test_what_runs_wrong_is_named_with_its_plug_in() -> None:
    """A loss that is a number, and an error in a plug-in's own code."""
    from unified.cli.command import _explained
    from unified.contracts.structures import LossTerm
    from unified.training.joint import checked

    text = "import unified\nfrom unified.contracts.protocols import tasks\n\n\n@unified.register_task('file_task')\n"
    text += "class FileTask(tasks.get('cls')):\n    def spoil(self):\n        return {}['key']\n"
    file = unified.load_plugin(write("file_plugin_j.py", text))
    task = protocols.tasks.get("file_task").__new__(protocols.tasks.get("file_task"))
    term = LossTerm(torch.zeros(()), torch.zeros(()))
    assert checked({"all": term}, task) == {"all": term}
    for wrong, what in ((torch.zeros(()), "Tensor"), ({"all": torch.zeros(())}, "dict")):
        with pytest.raises(RegistryError) as caught:
            checked(wrong, task)
        assert str(caught.value).startswith(f"task 'file_task' of plug-in file '{file}': loss() returned a {what}; ")
    with pytest.raises(KeyError) as broken:
        task.spoil()
    line, code = _explained(broken.value)
    assert code == 1 and line.startswith(f"error: task 'file_task' of plug-in file '{file}' failed: KeyError: ")
    assert _explained(ValueError("ours"))[0].startswith("internal error: ValueError: ours")
    sys.modules.pop("file_plugin_j")
