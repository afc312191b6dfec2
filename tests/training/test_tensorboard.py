# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import tiny
from PIL import Image

from unified.contracts.document import dump_run_config
from unified.contracts.errors import ConfigError
from unified.contracts.registry import RegistryError
from unified.training.listeners import Together, listeners
from unified.training.monitor import EvaluationRecord, Monitor, Plan, RunSummary, StepRecord


def told(monitor: Monitor, run: Path) -> None:
    """A short run as its listeners hear it."""
    monitor.start(Plan(run, ("det",), {}, 1, 20, 8, 96, "cpu", "fp32", command="unified-train --x"))
    for step in (1, 10, 20):
        losses = {"det": 3.0 / step, "det/box": 1.0 / step}
        monitor.step(StepRecord(step, 20, step / 3, step * 2.0, "shapes", 1e-3 * step, losses, 90.0, 0.25, 512.0))
    monitor.evaluation(EvaluationRecord(20, {"det/AP": 0.5, "det/AP50": 0.75}, 8, 1.0, True))
    monitor.end(RunSummary(run, {"det/AP": 0.5}, 20, 40.0))
    monitor.close()


def test_event_files_hold_scalars_pictures_and_settings(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install 'unified-networks[logging]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config, _ = tiny.config(tmp_path, "logging=[tensorboard]", "lr=0.0125")
    (tmp_path / "config.yaml").write_text(dump_run_config(config))
    (tmp_path / "plots").mkdir()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "plots" / "losses.png")
    (monitor,) = listeners(config)
    told(monitor, tmp_path)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    scalars = {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    assert scalars["loss/det"] == [(1, 3.0), (10, pytest.approx(0.3)), (20, pytest.approx(0.15))]
    assert scalars["det/AP50"] == [(20, 0.75)]
    assert scalars["pace/waiting"][-1] == (20, 0.25)
    assert scalars["learning_rate"][-1] == (20, pytest.approx(0.02))
    (picture,) = found.Images("losses")
    assert (picture.step, picture.width, picture.height) == (20, 40, 30)
    plugin = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"lr" in plugin
    assert b"tiny" in plugin


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config, _ = tiny.config(tmp_path, "logging=[tensorboard]")
    true = builtins.__import__

    def absent(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError("No module named 'tensorboard'")
        return true(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ConfigError, match=r"pip install 'unified-networks\[logging\]'") as caught:
        listeners(config)
    assert "\n" not in str(caught.value)


def test_an_unknown_listener_is_named(tmp_path: Path) -> None:
    config, _ = tiny.config(tmp_path, "logging=[tensorbord]")
    with pytest.raises(RegistryError, match=r"unknown logger 'tensorbord'.*did you mean 'tensorboard'"):
        listeners(config)


def test_several_listeners_hear_all_of_it_in_order(tmp_path: Path) -> None:
    heard: list[tuple[str, str]] = []

    def ear(name: str) -> Monitor:
        monitor = Monitor()
        for call in ("start", "step", "evaluation", "message", "end", "close"):
            setattr(monitor, call, lambda *_, call=call: heard.append((name, call)))
        return monitor

    both = Together([ear("a"), ear("b")])
    told(both, tmp_path)
    both.message("x")
    assert [call for name, call in heard if name == "a"] == [call for name, call in heard if name == "b"]
    assert heard[:2] == [("a", "start"), ("b", "start")]
    assert {call for _, call in heard} == {"start", "step", "evaluation", "message", "end", "close"}
