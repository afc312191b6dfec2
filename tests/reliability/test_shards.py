# SPDX-License-Identifier: Apache-2.0
"""Two ranks that share everything: parts of the network, evaluations, bad steps and short memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from sitting import ends_with, sit, small_config

from unified.contracts.document import dump_run_config
from unified.contracts.errors import ConfigError
from unified.hardware import Hardware
from unified.training.evaluator import evaluate_run
from unified.training.folder import RunFolder
from unified.training.run import make_balancer, train
from unified.training.sharding import check

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
SAME = ("optimizer=sgd", "warmup=0", "lr=0.0002", "model.norm.kind=group", "max_steps=8", "evaluate_every=0.5")
SCENES = ("whole", "whole-parted", "plain-parted", "cut-parted", "nan", "nan-parted", "short", "short-parted")
SHARE = ("whole-parted",)  # what the ordinary run sees
OWN_NORMS = ("plain-parted", "cut-parted")  # batch norms, whose statistics each rank has for itself
FULL = pytest.mark.reliability
Told = Mapping[str, tuple[dict[str, Any], dict[str, Any]]]


def played(place: Path, *scenes: str) -> Told:
    """What both ranks tell of each scene."""
    for scene in scenes:
        words = [*SAME, *(["shard=true"] if scene.endswith("parted") else [])]
        words += ["model.norm.kind=batch"] if scene in OWN_NORMS else []
        config, _ = small_config(place, *words)
        (place / f"{scene}.yaml").write_text(dump_run_config(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(HERE / "scenes.py"), str(place), *scenes]
    paths = os.pathsep.join(map(str, (ROOT, HERE, HERE.parent)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, cwd=place)
    assert done.returncode == 0, done.stderr[-4000:]
    told = {scene: [json.loads((place / f"{scene}-{rank}.json").read_text()) for rank in (0, 1)] for scene in scenes}
    return {scene: (first, second) for scene, (first, second) in told.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@pytest.fixture(scope="module")
def told(place: Path, request: pytest.FixtureRequest) -> Told:
    few = "not reliability" in request.config.option.markexpr
    return played(place, *(SHARE if few else SCENES))


@pytest.fixture(scope="module")
def alone(place: Path, told: Told) -> Path:
    config, base = small_config(place, *SAME)
    sit(config, base, place / "alone")
    return place / "alone"


def tensors(run: Path, part: str = "model") -> dict[str, torch.Tensor]:
    return dict(RunFolder.open(run).load("last").tensors[part])


def farthest(a: Path, b: Path, part: str = "model") -> float:
    one, other = tensors(a, part), tensors(b, part)
    assert {n: t.shape for n, t in one.items()} == {n: t.shape for n, t in other.items()}
    return max(float((one[n].double() - other[n].double()).abs().max()) for n in one if one[n].numel())


@pytest.mark.parametrize("scene", [pytest.param("whole", marks=FULL), "whole-parted"])
def test_two_ranks_are_one_process(place: Path, alone: Path, scene: str) -> None:
    for part in ("model", "ema"):
        assert farthest(alone, place / scene, part) <= 1e-6
    largest = max(float(t.abs().max()) for t in tensors(alone, "optimizer").values())
    assert farthest(alone, place / scene, "optimizer") <= 1e-5 * largest


@FULL
def test_each_rank_has_about_half(place: Path, told: Told) -> None:
    first, second = told["whole-parted"]
    whole = told["whole"][0]["parts"]
    assert first["parts"] + second["parts"] == whole
    assert second["parts"] > 0.4 * whole
    assert told["whole"][1]["parts"] == whole


@FULL
def test_a_stopped_run_in_parts_ends_with_the_same_bits(place: Path, told: Told) -> None:
    assert ends_with(place / "cut-parted") == ends_with(place / "plain-parted")
    assert ends_with(place / "plain-parted") != ends_with(place / "whole-parted")
    assert [*told["cut-parted"][0]["weights"]] == [str(k) for k in range(1, 9)]


@pytest.mark.parametrize("scene", [pytest.param("whole", marks=FULL), "whole-parted"])
def test_scores_of_two_ranks_are_those_of_one(told: Told, scene: str) -> None:
    first, second = told[scene]
    assert first["scores"] == first["alone"]
    assert (first["scores"]["images"], second["scores"]["images"], second["alone"]["images"]) == (4, 2, 0)
    assert len(first["scores"]["metrics"]) > 5
    assert first["scores"]["curves"]
    assert not second["scores"]["metrics"]


def test_a_run_in_parts_is_a_model_of_its_own(place: Path, told: Told) -> None:
    """Its checkpoint is that of one process: it loads, answers and goes on without ranks."""
    run = place / "whole-parted"
    assert {"det/AP", "cls/mAP"} <= evaluate_run(run).keys()
    config = RunFolder.open(run).read_config()
    assert config.train.shard
    summary = train(config, place, resume=run)
    assert summary.steps == 8


@FULL
@pytest.mark.parametrize("scene", ["nan", "nan-parted"])
def test_ranks_leave_out_a_bad_step_together(place: Path, told: Told, scene: str) -> None:
    for rank in told[scene]:
        assert rank["weights"]["3"] == rank["weights"]["2"]
        assert rank["weights"]["4"] != rank["weights"]["3"]
        assert (rank["skipped"]["2"], rank["skipped"]["3"], rank["skipped"]["8"]) == (0, 1, 1)
    lines = [json.loads(line) for line in (place / scene / "log.jsonl").read_text().splitlines()]
    faults = [line["fault"] for line in lines if "fault" in line]
    assert len(faults) == 1
    assert "step 3: NaN or Inf in loss det/" in faults[0]


@FULL
@pytest.mark.parametrize("scene", ["short", "short-parted"])
def test_ranks_halve_their_batches_together(place: Path, alone: Path, told: Told, scene: str) -> None:
    """Only the second rank's memory is short; the images of the step stay, and so do the weights but for rounding."""
    for rank in told[scene]:
        assert [rank["portions"][k] for k in ("2", "3", "8")] == [1, 2, 2]
    assert farthest(alone, place / scene) <= 1e-6


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("optimizer=muon", "optimizer: muon needs whole matrices"),
        ("balance=pcgrad", "balance: pcgrad compares whole gradients"),
        ("train.diagnostics.every=10", "diagnostics compare whole gradients"),
        ("compile=true", "compile has not been tried with it"),
    ],
)
def test_what_parts_cannot_do_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, reason: str
) -> None:
    if word.startswith("balance"):
        pytest.importorskip("torchjd", reason="needs TorchJD (extra 'balance')")
    config, _ = small_config(tmp_path, "shard=true", word)
    balancer, hardware = make_balancer(config), Hardware(torch.device("cpu"), "fp32")
    check(config, balancer, hardware)  # one process has no parts
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=reason):
        check(config, balancer, hardware)
    plain, _ = small_config(tmp_path, "shard=true")
    check(plain, make_balancer(plain), hardware)
