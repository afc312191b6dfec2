# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from test_comparison import result, whole
from test_design import written

from unified.cli import ablate, report
from unified.study.result import Result


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    tiny.cache_at(folder)
    return folder


def finished(study: Path, results: list[Result]) -> Path:
    """A study's folder as its jobs leave it."""
    for k, one in enumerate(results):
        job = study / "jobs" / f"job-{k}"
        job.mkdir(parents=True)
        (job / "job.json").write_text(json.dumps({"arm": one.arm}))
        (job / "result.json").write_text(json.dumps(one.as_json()))
    return study


def told(command: object, *words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        command.main(list(words))  # type: ignore[attr-defined]
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


def test_a_dry_run_tells_jobs_and_budget(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(ablate, written(place), "--dry-run", "--json", "seeds=1,2", "steps=4", capsys=capsys)
    assert code == 0
    said = json.loads(out)
    assert [job["job"] for job in said["jobs"]][:3] == ["single (det), seed 1", "single (cls), seed 1", "joint, seed 1"]
    assert len(said["jobs"]) == 8 and {job["steps"] for job in said["jobs"]} == {4}
    assert said["labelled"] == {"det": 32, "cls": 32}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--seeds", "a"), "--seeds: expected whole numbers such as 0,1,2, got 'a'"),
        (("--seeds", "1,1"), "--seeds: 1,1 has one twice"),
        (("--steps", "0"), "--steps must be 1 or more, got 0"),
        (("--jobs", "-1"), "--jobs must be 1 or more, got -1"),
        (("lr=fast",), "train.lr: got 'fast'; expected a number"),
    ],
)
def test_bad_words_are_one_line(
    place: Path, words: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = told(ablate, written(place), "--dry-run", *words, capsys=capsys)
    assert code == 2
    assert line in err and len(err.strip().splitlines()) == 1


def test_a_report_of_a_study_that_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = finished(tmp_path / "study", whole((0, 1, 2)))
    code, out, _ = told(report, str(study), "--out", str(tmp_path / "out"), "--json", capsys=capsys)
    assert code == 0
    said = json.loads(out)
    assert said["baseline"] == "single" and said["seeds"] == [0, 1, 2]
    assert said["arms"]["joint"]["delta_m"] == pytest.approx([2.5, 7.5, 12.5])
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".csv", ".json", ".md", ".png", ".txt"]
    code, out, _ = told(report, str(study), capsys=capsys)
    assert "single" in out.split("joint")[0]  # the baseline comes first
    assert "±" in out and "3 seeds" in out


@pytest.mark.parametrize(
    ("results", "words", "line"),
    [
        ([result("joint", 0, {"det": 0.5, "cls": 0.4})], (), "no single-task runs to compare with"),
        (whole(), ("--baseline", "singel"), "no runs of the baseline 'singel'; known: joint, single (did you mean"),
        (whole()[:-1], (), "joint has no run with seed 1"),
    ],
)
def test_a_report_refuses_in_one_line(
    tmp_path: Path, results: list[Result], words: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = told(report, str(finished(tmp_path / "s", results)), *words, capsys=capsys)
    assert code == 2 and line in err and len(err.strip().splitlines()) == 1


def test_no_runs_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not exist" in told(report, str(tmp_path / "no"), capsys=capsys)[2]
    (tmp_path / "empty" / "jobs").mkdir(parents=True)
    assert "has no finished job yet" in told(report, str(tmp_path / "empty"), capsys=capsys)[2]
