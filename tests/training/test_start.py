# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

import unified
from unified.checkpoint import load_checkpoint
from unified.cli import train
from unified.contracts.errors import CheckpointError
from unified.model.build import create_model
from unified.trained import checkpoint_folder
from unified.training.run import train as train_run
from unified.training.start import begin_with


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step that has learned boxes only."""
    folder = tmp_path_factory.mktemp("start")
    tiny.cache_at(folder)
    config, base = tiny.config(folder, "max_steps=1", tasks=("det",))
    train_run(config, base, out=folder / "detector")
    return folder / "detector"


def averaged(run: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(checkpoint_folder(run), parts=("ema",)).tensors["ema"])


def command(detector: Path, tmp_path: Path, *words: str) -> int:
    files = ("--data", tiny.write_data(tmp_path), "--recipe", tiny.write_recipe(tmp_path))
    with pytest.raises(SystemExit) as ended:
        train.main(["--from", str(detector), *files, "max_steps=1", "lr=1e-9", "--out", str(tmp_path / "run"), *words])
    return int(ended.value.code or 0)


def test_a_run_begins_with_anothers_network_weights_and_tasks(detector: Path, tmp_path: Path) -> None:
    tiny.cache_at(tmp_path)
    assert command(detector, tmp_path) == 0
    run = unified.load(tmp_path / "run", device="cpu")
    assert run.tasks == ("det",)
    assert run.trained.config.model == unified.load(detector, device="cpu").trained.config.model
    a, b = averaged(detector), averaged(tmp_path / "run")
    learned = [name for name in a if a[name].is_floating_point() and "running" not in name]
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in learned)


def test_what_is_new_is_told_and_starts_fresh(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.cache_at(tmp_path)
    assert command(detector, tmp_path, "--tasks", "det,cls") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "begun with" in said
    assert "heads.cls." in said.split("fresh:")[1]
    assert "heads.det." not in said.split("fresh:")[1]
    a, b = averaged(detector), averaged(tmp_path / "run")
    assert torch.allclose(a["backbone.stem.conv.weight"], b["backbone.stem.conv.weight"], atol=1e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--from", "nowhere"), "'nowhere' does not exist"), (("--from", "nowhere", "--resume", "x"), "leave out --from")],
)
def test_a_wrong_start_is_refused(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main(list(words))
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_network_of_which_nothing_fits_is_refused(detector: Path) -> None:
    other = torch.nn.ModuleDict({"other": torch.nn.Linear(2, 2)})
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"--from .*: none of its \d+ tensors fits"):
        begin_with(other, detector)
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())


def test_a_network_of_another_width_takes_only_what_fits(detector: Path) -> None:
    other = create_model("unified-n", tasks=("det",))
    line = begin_with(other, detector)
    taken = int(line.split()[2])
    own, given = other.state_dict(), averaged(detector)
    assert taken == sum(name in given and given[name].shape == own[name].shape for name in own)
    assert "and " in line.split("fresh:")[1]
