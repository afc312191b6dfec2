# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from unified.contracts.config import RunConfig
from unified.contracts.document import dump_run_config, load_run_config, read_run_config
from unified.contracts.protocols import heads
from unified.model.build import EXAMPLE_VOCABULARY, assemble
from unified.model.defaults import spelled_out


def _config(model: str, *overrides: str) -> RunConfig:
    return load_run_config(model=model, data="shapes", tasks=["det", "cls", "emb"], overrides=list(overrides))[0]


def _network(config: RunConfig) -> nn.Module:
    return assemble(config.model, config.tasks, EXAMPLE_VOCABULARY, fetch=False).network


def _shapes(network: nn.Module) -> dict[str, Any]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _widened(cls: type[nn.Module]) -> Callable[..., nn.Module]:
    def build(spec: Any, outputs: int, *, width: int = 20) -> nn.Module:
        return cls(spec, outputs, width=width)

    return build


def test_a_saved_run_still_builds_when_a_default_has_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config("unified-n")
    before = _shapes(_network(config))
    saved = tmp_path / "config.yaml"
    saved.write_text(dump_run_config(spelled_out(config)))
    moved = _widened(heads.get("embed"))
    get = heads.get
    monkeypatch.setattr(heads, "get", lambda name: moved if name == "embed" else get(name))
    assert _shapes(_network(read_run_config(saved))) == before
    assert _shapes(_network(config)) != before  # what would happen without


@pytest.mark.parametrize("model", ["unified-n", "yolor-csp", "yolor-p6"])
def test_spelling_out_changes_nothing_and_is_done_once(model: str) -> None:
    config = _config(model)
    said = spelled_out(config)
    assert spelled_out(said) == said
    assert said.model.backbone.options.keys() >= config.model.backbone.options.keys()
    if model == "unified-n":
        assert _shapes(_network(said)) == _shapes(_network(config))


def test_what_is_given_stands_and_what_is_not_is_written_down() -> None:
    said = spelled_out(_config("unified-n", "tasks.emb.options.dim=32", "tasks.cls.head=multilabel"))
    assert said.tasks["emb"].options["dim"] == 32
    assert said.tasks["emb"].options["temperature"] == 0.07
    assert said.model.heads["multilabel"]["width"] == 40  # the model's own word
    assert said.model.heads["embed"]["width"] == 48
    assert said.model.default_heads["det"] == "detect_free"


def test_a_trunk_named_by_its_model_keeps_its_name() -> None:
    said = spelled_out(_config("unified-n", "model.backbone={name: timm:resnet18}"))
    assert said.model.backbone.name == "timm:resnet18"
    assert "model" not in said.model.backbone.options
