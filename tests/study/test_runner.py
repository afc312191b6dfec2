# SPDX-License-Identifier: Apache-2.0
"""The runner, with jobs that only pretend to train; one true training at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_comparison import result

from unified.contracts.document import read_run_config
from unified.contracts.errors import ConfigError
from unified.study import runner
from unified.study.job import INTERRUPTED, Job, JobFolder, work
from unified.study.runner import Slot, make_slots, run_jobs
from unified.training.folder import RunFolder
from unified.training.trainer import Trainer

FAKE = """
import json, os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1]); told = json.loads((folder / "job.json").read_text())
with (folder.parent.parent / "begun.txt").open("a") as file:
    file.write(f"{told['arm']} {os.environ.get('PLACE')} {time.time()}\\n")
def stop(*_): (folder / "saved").touch(); sys.exit(130)
signal.signal(signal.SIGTERM, stop)
if told["arm"] == "bad": print("the lake is frozen"); sys.exit(3)
if told["arm"] == "slow": time.sleep(60)
if told["arm"] == "killed": os.kill(os.getpid(), signal.SIGKILL)
time.sleep(0.2)
(folder / "result.json").write_text((folder.parent.parent / "answer.json").read_text())
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study's folder, whose jobs are processes that answer at once."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    monkeypatch.setattr(runner, "command", lambda folder: [sys.executable, str(script), str(folder.path)])
    monkeypatch.setattr(runner, "POLL", 0.02)
    place = tmp_path / "study"
    place.mkdir()
    (place / "answer.json").write_text(json.dumps(result("any", 0, {"det": 0.5}).as_json()))
    return place


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("jobs")
    tiny.cache_at(folder)
    return Job("plain", 0, *tiny.config(folder, tasks=("cls",)))


def jobs(config: Job, *arms: str) -> list[Job]:
    return [Job(arm, 0, config.config, config.base) for arm in arms]


def begun(study: Path) -> list[list[str]]:
    path = study / "begun.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.is_file() else []


def test_jobs_run_side_by_side_each_in_its_slot(study: Path, config: Job) -> None:
    outcome = run_jobs(jobs(config, "a", "b", "c", "d"), study, [Slot({"PLACE": "x"}), Slot({"PLACE": "y"})])
    assert len(outcome.results) == 4 and not outcome.failed and not outcome.interrupted
    told = begun(study)
    assert {place for _, place, _ in told[:2]} == {"x", "y"}
    assert sorted(place for _, place, _ in told) == ["x", "x", "y", "y"]


def test_what_is_finished_is_not_done_again(study: Path, config: Job) -> None:
    run_jobs(jobs(config, "a"), study, [Slot({})])
    lines: list[str] = []
    outcome = run_jobs(jobs(config, "a", "b"), study, [Slot({})], lines.append)
    assert [arm for arm, _, _ in begun(study)] == ["a", "b"]
    assert (outcome.kept, len(outcome.results)) == (1, 2)
    assert lines[0] == "1 of 2 jobs are finished already"


def test_a_failed_job_is_named_and_the_rest_goes_on(study: Path, config: Job) -> None:
    outcome = run_jobs(jobs(config, "bad", "killed", "a"), study, [Slot({})])
    assert len(outcome.results) == 1
    assert "the lake is frozen" in outcome.failed["bad, seed 0"]
    assert "ended by signal 9" in outcome.failed["killed, seed 0"]
    again = run_jobs(jobs(config, "bad"), study, [Slot({})])
    assert "bad, seed 0" in again.failed


def test_another_job_in_the_same_folder_is_refused(study: Path, config: Job) -> None:
    run_jobs(jobs(config, "a"), study, [Slot({})])
    train = config.config.train.model_copy(update={"lr": 0.5})
    other = Job("a", 0, config.config.model_copy(update={"train": train}), config.base)
    with pytest.raises(ConfigError, match=r"holds 'a, seed 0' with train.lr 0.001, not 0.5; give another --out"):
        run_jobs([other], study, [Slot({})])


def test_ctrl_c_lets_running_jobs_save(study: Path, config: Job) -> None:
    def interrupt() -> None:
        while len(begun(study)) < 2:
            time.sleep(0.02)
        time.sleep(0.3)  # the job has its handler by then
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    outcome = run_jobs(jobs(config, "a", "slow", "b"), study, [Slot({})])
    assert outcome.interrupted and len(outcome.results) == 1
    assert (study / "jobs" / "slow-0" / "saved").exists()
    assert [arm for arm, _, _ in begun(study)] == ["a", "slow"]


def test_slots_are_threads_on_a_cpu() -> None:
    slots = make_slots("cpu", 3)
    assert len(slots) == 3 and all(slot.environment["OMP_NUM_THREADS"] == "1" for slot in slots)
    assert len(make_slots("cpu", None)) >= 1
    with pytest.raises(ConfigError, match="--jobs must be 1 or more"):
        make_slots("cpu", 0)


def job_process(folder: JobFolder, **options: object) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parent.parent.parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    return subprocess.Popen(
        runner.command(folder),
        stdin=subprocess.PIPE,
        stdout=folder.output.open("ab"),
        stderr=subprocess.STDOUT,
        env=environment,
    )


def test_a_stopped_job_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its run has more settings by then than the job's file: the defaults, resolved."""
    tiny.cache_at(tmp_path)
    folder = JobFolder(tmp_path / "job")
    folder.prepare(Job("plain", 0, *tiny.config(tmp_path, "max_steps=4", tasks=("cls",))))
    step = Trainer._step

    def stopped(trainer: Trainer, batches: Any) -> Any:
        if trainer.progress.step == 1:
            signal.raise_signal(signal.SIGTERM)
        return step(trainer, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stopped)
        assert work(folder.path) == INTERRUPTED
    assert folder.result() is None
    assert RunFolder.open(folder.run).read_config() != read_run_config(folder.path / "config.yaml")
    assert work(folder.path) == 0
    told = folder.result()
    assert told is not None
    assert (told["steps"], told["labelled"]) == (4, {"cls": 32})


@pytest.mark.slow
def test_an_orphan_saves_and_its_job_goes_on(tmp_path: Path) -> None:
    """The study dies (its end of the pipe closes): the job saves; begun again it ends, and says what it was."""
    tiny.cache_at(tmp_path)
    job = Job("plain", 0, *tiny.config(tmp_path, "max_steps=40", "epochs=1000", tasks=("cls",)))
    folder = JobFolder(tmp_path / "job")
    folder.path.mkdir()
    folder.prepare(job)
    first = job_process(folder)
    while first.poll() is None and folder.steps() is None:
        time.sleep(0.1)
    assert first.stdin is not None
    first.stdin.close()
    assert first.wait(120) == 130, folder.last_words()
    assert folder.result() is None
    stopped = folder.steps()
    second = job_process(folder)
    assert second.wait(240) == 0, folder.last_words()
    told = folder.result()
    assert told is not None and told["steps"] == 40 and told["labelled"] == {"cls": 320}
    assert stopped is not None and stopped[0] < 40 and stopped[1] == 40
    assert set(told["scores"]) == {"cls"} and told["parameters"] > 1000 and told["flops"] > 1e6
