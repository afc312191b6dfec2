# SPDX-License-Identifier: Apache-2.0
"""The rehearsal of a run: all of it happens, nothing of it stays."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import tiny

from unified.cli import train as command
from unified.contracts.errors import ConfigError, UnifiedError
from unified.training import rehearsal
from unified.training.monitor import EvaluationRecord, Monitor, RunSummary
from unified.training.rehearsal import rehearse, shortened


class Ear(Monitor):
    def __init__(self) -> None:
        self.evaluations: list[EvaluationRecord] = []
        self.ends: list[RunSummary] = []

    def evaluation(self, record: EvaluationRecord) -> None:
        self.evaluations.append(record)

    def end(self, summary: RunSummary) -> None:
        self.ends.append(summary)


def everything(folder: Path) -> set[str]:
    """Names of what lies there; torch's own cache of compiled code is none of ours."""
    return {path.name for path in folder.iterdir() if not path.name.startswith("torchinductor")}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny.cache_at(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


def test_all_of_it_happens_and_nothing_stays(place: Path) -> None:
    words = ("batch=auto", "max_steps=500", "patience=1", "max_minutes=60")
    more = ("model.norm=group", "course=one-cycle", "layer_decay=0.8")
    config, base = tiny.config(place, *words, *more)
    ear = Ear()
    done = rehearse(config, base, monitor=ear)
    assert (done.steps, [record.images for record in ear.evaluations], ear.ends) == (3, [8], [])
    assert {"det/AP", "cls/mAP", "emb/R@1"} <= set(done.metrics)
    assert done.megabytes > 0.1
    assert done.line().startswith("all is well: 3 steps, an evaluation with")
    assert everything(place / "here") == set()
    assert everything(place / "temporary") == set()


def test_what_breaks_is_told_and_nothing_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, base = tiny.config(place, "size=100")
    with pytest.raises(ConfigError, match="size 100 is no multiple"):
        rehearse(config, base)

    def broken(path: Path) -> None:
        raise UnifiedError(f"cannot be read: {path.name}")

    monkeypatch.setattr(rehearsal, "load_trained", broken)
    config, base = tiny.config(place)
    with pytest.raises(UnifiedError, match="cannot be read: run"):
        rehearse(config, base)
    assert everything(place / "here") == everything(place / "temporary") == set()


def test_only_the_length_is_another(place: Path) -> None:
    config, _ = tiny.config(place, "max_steps=2", "lr=0.5")
    short = shortened(config)
    assert {k for k, v in short.train if v != getattr(config.train, k)} == {"val_images"}
    assert shortened(tiny.config(place, "batch=auto", "val_images=5")[0]).train.val_images == 5
    assert shortened(tiny.config(place, "max_steps=7")[0]).train.max_steps == 3


def words(place: Path, *more: str) -> list[str]:
    files = ["--model", tiny.write_model(place), "--data", tiny.write_data(place), "--recipe", tiny.write_recipe(place)]
    return [*files, *more]


def test_on_the_command_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(words(place, "--fast-dev-run", "--json"))
    assert caught.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["steps"], "det/AP" in told["metrics"]) == (3, True)
    assert everything(place / "here") == set()


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (("--fast-dev-run", "--dry-run"), "error: --dry-run and --fast-dev-run do different things; give one of them"),
        (("--find-lr", "--resume", "x"), "error: --find-lr looks at a new run; leave out --resume"),
        (("--batch", "many"), "error: Invalid value for '--batch': 'many' is no number of images; write one, or auto"),
        (("--course", "hill"), "error: --course hill: train.course: got 'hill'; expected 'cosine', 'linear'"),
    ],
)
def test_wrong_words_are_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], line: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(words(place, *more) if "--resume" not in more else list(more))
    told = capsys.readouterr().err
    assert caught.value.code == 2
    assert told.startswith(line)
    assert len(told.splitlines()) == 1
