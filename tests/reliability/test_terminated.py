# SPDX-License-Identifier: Apache-2.0
"""SIGTERM: the step is finished, the checkpoint is on the disk, and the run goes on from it to the same bits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from sitting import STEPS, Child, ends_with, sit, small_config
from tally import Tally

from unified.training.folder import RunFolder

ROOT = Path(__file__).parents[2]
LIMIT = 10.0  # seconds


def terminated(child: Child, rng: random.Random, again: bool) -> tuple[int, float]:
    """The exit code after one SIGTERM or several, and the seconds until the end."""
    child.until(rng.randint(1, STEPS - 8))
    time.sleep(rng.uniform(0, 0.05))
    start = time.monotonic()
    os.kill(child.pid, signal.SIGTERM)
    if again:
        time.sleep(rng.uniform(0, 0.02))
        os.kill(child.pid, signal.SIGTERM)
    return child.end(), time.monotonic() - start


def test_terminated_runs(tally: Tally, memory: Path) -> None:
    tally.begin("runs ended by SIGTERM", "every second time twice; exit code 143 in 10 s, same bits at the end")
    config, base = small_config(memory, "save_every=3")
    losses: dict[int, str] = {}
    sit(config, base, memory / "whole", losses.__setitem__)
    digest, rng, slowest = ends_with(memory / "whole"), random.Random(1), 0.0
    for trial in range(tally.count(50, share=1)):
        out = memory / f"run-{trial}"
        child = Child(config, base, out)
        code, seconds = terminated(child, rng, again=trial % 2 == 1)
        step = RunFolder.open(out).load("last").state["progress"]["step"]
        slowest = max(slowest, seconds)
        rest = Child(config, base, out)
        good = rest.end() == 0 and ends_with(out) == digest and losses == child.losses | rest.losses
        tally.add(
            (code, step) == (143, max(child.losses)) and seconds <= LIMIT and good,
            f"trial {trial}: code {code}, step {step} of {max(child.losses)}, {seconds:.1f} s, same end: {good}",
        )
    tally.note(f"slowest {slowest:.1f} s")
    child = Child(config, base, memory / "blind")
    child.until(5)
    child.end(signal.SIGKILL)
    step = RunFolder.open(memory / "blind").load("last").state["progress"]["step"]
    tally.control(1, int(step < max(child.losses)), "SIGKILL instead: steps are lost")
    tally.verdict()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_ends_with_the_signals_code(tmp_path: Path, number: int, code: int) -> None:
    """The real command, in a process group whose every process gets the signal, its data worker too."""
    out = tmp_path / "run"
    words = ["--model", tiny.write_model(tmp_path), "--data", tiny.write_data(tmp_path), "--out", str(out)]
    words += ["--recipe", tiny.write_recipe(tmp_path), "max_steps=2000", "workers=1", "evaluate_every=1", "--quiet"]
    code_ = "import unified; from unified.cli.train import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "UNIFIED_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code_, *words]
    running = subprocess.Popen(command, env=environment, cwd=tmp_path, start_new_session=True)
    while not (out / "log.jsonl").is_file() or '"losses"' not in (out / "log.jsonl").read_text():
        assert running.poll() is None
        time.sleep(0.1)
    start = time.monotonic()
    os.killpg(running.pid, number)
    assert running.wait(60) == code
    assert time.monotonic() - start <= LIMIT
    assert RunFolder.open(out).load("last").state["progress"]["step"] > 0


def test_a_stop_file_ends_a_run_cleanly(tmp_path: Path) -> None:
    config, base = small_config(tmp_path)
    out = tmp_path / "run"

    def ask(trainer: object, step: int) -> None:
        if step == 5:
            (out / "stop").touch()
            time.sleep(0.6)  # the file is looked for twice a second

    summary = sit(config, base, out, meddle=ask)  # type: ignore[arg-type]
    assert (summary.interrupted, summary.signal, summary.steps) == (True, 0, 5)
    assert not (out / "stop").exists()
    assert RunFolder.open(out).load("last").state["progress"]["step"] == 5
