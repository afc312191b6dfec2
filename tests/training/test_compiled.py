# SPDX-License-Identifier: Apache-2.0
"""Compiled and deterministic training: the same network, under the same names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor, nn

from unified import hardware
from unified.contracts.errors import ConfigError
from unified.hardware import compile_network, deterministic
from unified.trained import load_trained
from unified.training import trainer
from unified.training.folder import RunFolder
from unified.training.run import train

QUIET = ("evaluate_every=1", "max_steps=3")


def tensors(run: Path, *parts: str) -> dict[str, Tensor]:
    loaded = RunFolder.open(run).load("last", parts)
    return {f"{part}/{name}": t for part in parts for name, t in loaded.tensors[part].items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    tiny.cache_at(folder)
    return folder


def trained(place: Path, out: str, *words: str, tasks: tuple[str, ...] = ("cls",)) -> dict[str, Tensor]:
    config, base = tiny.config(place, *QUIET, *words, tasks=tasks)
    train(config, base, out=place / out)
    return tensors(place / out, "ema", "model")


def test_captured_code_trains_the_same_network(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graphs alone, run by torch's own operators: names, average, evaluation and checkpoint are those without."""
    graphs: list[int] = []

    def captured(network: nn.Module, device: torch.device, sizes_vary: bool) -> None:
        def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
            graphs.append(len(list(graph.graph.nodes)))
            return graph.forward

        network.compile(backend=backend, dynamic=None if sizes_vary else False)

    monkeypatch.setattr(trainer, "compile_network", captured)
    torch._dynamo.reset()
    plain, compiled = trained(place, "plain"), trained(place, "captured", "compile=true")
    assert max(graphs) > 100  # most of the network is one graph
    assert plain.keys() == compiled.keys()
    assert not [name for name in compiled if "_orig_mod" in name]
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-5, msg=name)
    model = load_trained(place / "captured")
    assert model.network._compiled_call_impl is None
    folder = RunFolder.open(place / "captured")
    assert train(folder.read_config(), place, resume=folder.path).steps == 3


@pytest.mark.slow
def test_compiled_code_trains_the_same_network(place: Path) -> None:
    """With a real compiler: about two minutes."""
    torch._dynamo.reset()
    plain, compiled = trained(place, "plain2"), trained(place, "compiled", "compile=true")
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_without_a_compiler_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"train.compile needs a C\+\+ compiler \(g\+\+ or clang\+\+\) on cpu"):
        compile_network(nn.Identity(), torch.device("cpu"), sizes_vary=False)
    monkeypatch.setattr(hardware, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"train\.compile needs triton on cuda"):
        compile_network(nn.Identity(), torch.device("cuda"), sizes_vary=False)


def test_a_deterministic_run_twice_is_one_run(place: Path) -> None:
    words = ("deterministic=true", "mosaic=0.5")
    every = ("det", "cls", "emb")
    first, second = (trained(place, f"same{k}", *words, tasks=every) for k in (0, 1))
    assert [name for name, value in first.items() if not torch.equal(value, second[name])] == []
    metrics = [json.loads((place / f"same{k}" / "metrics.json").read_text()) for k in (0, 1)]
    assert metrics[0] == metrics[1]
    assert not torch.are_deterministic_algorithms_enabled()


def test_determinism_ends_with_its_run() -> None:
    filling = torch.utils.deterministic  # type: ignore[attr-defined]
    before = filling.fill_uninitialized_memory
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(ZeroDivisionError), deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not filling.fill_uninitialized_memory
        assert not torch.backends.cudnn.benchmark
        _ = 1 / 0
    assert not torch.are_deterministic_algorithms_enabled()
    assert filling.fill_uninitialized_memory == before
