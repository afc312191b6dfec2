# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from unified.checkpoint import Checkpoint
from unified.cli.display import Display, closing, metric_table
from unified.training.folder import RunFolder
from unified.training.monitor import DatasetPlan, EvaluationRecord, Plan, RunSummary, StepRecord


def plan(max_seconds: float | None = None) -> Plan:
    datasets = {"fod": DatasetPlan(2232, ("det", "cls"))}
    return Plan(Path("runs/x"), ("det", "cls"), datasets, 1_300_000, 100, 16, 320, "cpu", "fp32", max_seconds)


def record(step: int, seconds: float, wait: float = 0.0) -> StepRecord:
    losses = {"det": 3.0, "det/box": 1.0, "cls": 0.5}
    return StepRecord(step, 100, step / 10, seconds, "fod", 1e-3, losses, 80.0, wait)


def shown(terminal: bool = False) -> tuple[Display, io.StringIO]:
    text = io.StringIO()
    return Display(Console(file=text, force_terminal=terminal, width=120)), text


def test_a_pipe_gets_plain_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("unified.cli.display.time.monotonic", lambda: clock[0])
    display, text = shown()
    display.start(plan())
    before = len(text.getvalue())
    for step in range(1, 100):
        clock[0] += 1
        display.step(record(step, float(step)))
    lines = text.getvalue()[before:].splitlines()
    assert len(lines) == 10  # one in ten seconds
    assert "det 3.000" in lines[-1]
    assert "det/box" not in lines[-1]
    assert "\x1b" not in text.getvalue()


def test_time_left_is_the_shorter_of_steps_and_budget() -> None:
    display, _ = shown()
    display.start(plan())
    display.step(record(1, 1.0))
    display.step(record(11, 21.0))
    assert display.left(record(11, 21.0)) == pytest.approx(89 * 2.0)
    display.plan = plan(max_seconds=60.0)
    assert display.left(record(11, 21.0)) == pytest.approx(39.0)
    assert display.share(record(11, 30.0)) == pytest.approx(0.5)


def test_a_terminal_is_live_and_is_given_back() -> None:
    display, text = shown(terminal=True)
    display.start(plan())
    assert display.live is not None
    display.step(record(1, 1.0, wait=0.5))
    display.evaluation(EvaluationRecord(1, {"det/AP50": 0.61, "det/AP": 0.4, "det/AR": 0.9}, 50, 2.0, True))
    display.close()
    assert display.live is None
    assert "waiting for data 50%" in text.getvalue()
    assert text.getvalue().rfind("\x1b[?25h") > text.getvalue().rfind("\x1b[?25l")  # the cursor is back
    display.close()


def test_an_evaluation_is_one_line_with_each_tasks_first_scores() -> None:
    display, text = shown()
    metrics = {"det/AP50": 0.61, "det/AP": 0.4, "det/AR": 0.9, "cls/mAP": 0.7}
    display.evaluation(EvaluationRecord(500, metrics, 50, 2.0, True))
    line = text.getvalue()
    assert len(line.splitlines()) == 1
    assert all(part in line for part in ("500", "det/AP50 0.610", "det/AP 0.400", "cls/mAP 0.700", "best"))
    assert "det/AR" not in line


def test_the_last_screen_names_numbers_places_and_commands(tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    RunFolder(tmp_path).save(100, Checkpoint({"ema": {"a": torch.zeros(1)}}, {}), best=True)
    console = Console(file=io.StringIO(), width=200)
    console.print(closing(RunSummary(tmp_path, {"det/AP50": 0.61}, 100, 3725.0, False)))
    text = "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]
    for part in (
        "0.6100",
        "1:02:05",
        "checkpoints/step-00000100\n",
        "plots",
        f"unified-predict {tmp_path}",
        "--data your.yaml",
    ):
        assert part in text
    assert "--resume" not in text
    console.print(closing(RunSummary(tmp_path, {}, 100, 1.0, True)))
    assert f"unified-train --resume {tmp_path}" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_table_holds_every_score() -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(metric_table({"det/AP50": 0.123456, "det/AP": 1.0, "emb/R@1": 0.5}))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(part in text for part in ("0.1235", "1.0000", "R@1"))
