# SPDX-License-Identifier: Apache-2.0
"""Whatever is wrong with a stranger's package, one line names the package and the part; others are not harmed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from unified.contracts import protocols, registry
from unified.contracts.config import ModelConfig, PartConfig, TaskConfig
from unified.contracts.document import load_data
from unified.contracts.errors import UnifiedError
from unified.contracts.structures import Vocabulary
from unified.model.build import assemble
from unified.testing import check_head, check_task

PARTS = """
from torch import nn
from unified.contracts.protocols import Head, tasks
from unified.contracts.structures import LossTerm, TagOutput


class Fine(Head):
    def __init__(self, spec, outputs):
        super().__init__()
        self.sites = {"pre.mine": spec.channels[-1]}
        self.reads = spec.levels[-1:]
        self.out = nn.Linear(spec.channels[-1], outputs)

    def forward(self, features, modulate):
        return TagOutput(self.out(modulate("pre.mine", features.maps[-1].mean(dim=(2, 3)))))


class Signature(Fine):
    def __init__(self, channels): ...


class NoSites(Fine):
    def __init__(self, spec, outputs):
        super().__init__(spec, outputs)
        del self.sites


class MissingSite(Fine):
    def forward(self, features, modulate):
        return TagOutput(self.out(features.maps[-1].mean(dim=(2, 3))))


class Newer(Fine):
    protocol = 99


class Crashing(Fine):
    def __init__(self, spec, outputs):
        raise RuntimeError("no weights here")


class Mean(tasks.get("cls")):
    def loss(self, output, batch):
        terms = super().loss(output, batch).items()
        return {name: LossTerm(t.sum / t.count.clamp(min=1), t.count * 0 + 1) for name, t in terms}


nothing = 3
"""
POINTS = """[unified.heads]
x_fine = x_parts:Fine
x_import = x_broken:Head
x_old = x_ancient:Head
x_signature = x_parts:Signature
x_no_sites = x_parts:NoSites
x_missing_site = x_parts:MissingSite
x_newer = x_parts:Newer
x_crashing = x_parts:Crashing
x_number = x_parts:nothing
x_clash = x_parts:Fine

[unified.tasks]
x_mean = x_parts:Mean
x_broken_task = x_broken:Task

[unified.datasets]
x_broken_format = x_broken:Format
"""
OTHER = "[unified.heads]\nx_clash = y_parts:Other\n"


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two strangers' packages as wheels leave them."""
    for name, points in (("package-x", POINTS), ("package-y", OTHER)):
        info = tmp_path / f"{name.replace('-', '_')}-2.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
        (info / "entry_points.txt").write_text(points)
    (tmp_path / "x_parts.py").write_text(PARTS)
    (tmp_path / "x_broken.py").write_text("raise ValueError('no licence key\\nsecond line')\n")
    (tmp_path / "x_ancient.py").write_text("from unified.contracts.registry import HeadRegistry\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_told", set())
    for each in protocols.registries():
        monkeypatch.setattr(each, "_installed", None)
        monkeypatch.setattr(each, "_clashes", {})
        monkeypatch.setattr(each, "_local", {})
    for name in ("x_parts", "x_broken", "x_ancient"):
        sys.modules.pop(name, None)
    return tmp_path


LINES = {
    "x_import": "head 'x_import' of package 'package-x' (x_broken:Head) cannot be imported: ValueError: no licence key",
    "x_old": "it was written for another version of unified than this one",
    "x_signature": "head 'x_signature' of package 'package-x' 2.0 is built from (channels); expected (spec, outputs, *",
    "x_newer": "head 'x_newer' of package 'package-x' 2.0 is written for plug-in protocol 99, and this unified",
    "x_number": "head 'x_number' of package 'package-x' 2.0 is 3; expected a class",
    "x_clash": "head 'x_clash' is offered twice: by package 'package-",
}


@pytest.mark.parametrize("name", LINES)
def test_what_cannot_be_a_part_is_one_line(name: str) -> None:
    with pytest.raises(UnifiedError) as caught:
        protocols.heads.get(name)
    line = str(caught.value)
    assert LINES[name] in line and "package-x" in line and "\n" not in line
    assert protocols.heads.part(name).error == line


def built(head: str) -> str:
    model = ModelConfig(backbone=PartConfig(name="csp", options={"channels": [8] * 5, "depths": [1] * 4}))
    tasks = {"cls": TaskConfig(task="cls", head=PartConfig(name=head))}
    with pytest.raises(UnifiedError) as caught:
        assemble(model, tasks, Vocabulary(tags=("a", "b")))
    return str(caught.value)


def test_what_cannot_be_built_is_one_line() -> None:
    assert built("x_no_sites").startswith("head 'x_no_sites' of package 'package-x' 2.0 declares no sites; set")
    crashed = "head 'x_crashing' of package 'package-x' 2.0 cannot be built: RuntimeError: no weights here"
    assert built("x_crashing") == crashed


def test_what_breaks_its_contract_is_one_line() -> None:
    check_head("x_fine")
    with pytest.raises(UnifiedError) as caught:
        check_head("x_missing_site")
    expected = "declares site 'pre.mine' and never calls modulate there"
    assert str(caught.value) == f"head 'x_missing_site' of package 'package-x' 2.0: {expected}"
    with pytest.raises(UnifiedError) as caught:
        check_task("x_mean")
    line = str(caught.value)
    assert line.startswith("task 'x_mean' of package 'package-x' 2.0: loss '") and line.endswith("not a mean")


def test_others_are_not_harmed_and_hear_of_it_once(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Recognising a folder asks every format and every task."""
    for kind in ("cat", "dog"):
        (site / "pets" / "train" / kind).mkdir(parents=True)
        (site / "pets" / "train" / kind / "1.jpg").write_bytes(b"")
    for _ in range(2):
        config, _ = load_data(str(site / "pets"))
        assert list(config.datasets) == ["pets"]
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert [line.split("'")[1] for line in notes] == ["x_broken_format", "x_broken_task"]
    assert all("package-x" in line and line.endswith("it is left out") for line in notes)
    assert protocols.heads.get("multilabel").__name__ == "MultilabelHead"
