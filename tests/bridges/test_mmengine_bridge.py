# SPDX-License-Identifier: Apache-2.0
"""MMEngine's own Runner trains our network: what it hands to its hooks is what our own trainer would compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

pytest.importorskip("mmengine", reason="MMEngine is not installed: pip install 'unified-networks[mmengine]'")

from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from unified.bridges.mmengine import UnifiedMetric, UnifiedModel
from unified.bridges.workshop import Workshop
from unified.contracts.errors import ConfigError
from unified.hardware import pick
from unified.training.evaluator import evaluate
from unified.training.pace import step_once
from unified.training.run import make_balancer


class Noted(Hook):
    """Keeps what a Runner tells of every step and every validation."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []
        self.scores: dict[str, float] = {}

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.losses.append({name: float(value) for name, value in outputs.items()})

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self.scores = dict(metrics or {})


def workshop(folder: Path, *settings: str) -> Workshop:
    model, data, recipe = tiny.write_model(folder), tiny.write_data(folder), tiny.write_recipe(folder)
    return Workshop.of(["det", "cls", "emb"], data, model, recipe, settings)


def runner(folder: Path, shop: Workshop, model: UnifiedModel, *hooks: Hook, **given: Any) -> Runner:
    return Runner(
        model=model,
        work_dir=str(folder / "work"),
        train_dataloader=shop.train_loader(),
        val_dataloader=shop.val_loader(),
        train_cfg={"by_epoch": False, "max_iters": shop.steps, "val_interval": shop.steps},
        val_cfg={},
        val_evaluator=[UnifiedMetric(model)],
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.01}},
        custom_hooks=list(hooks),
        default_hooks={"logger": {"type": "LoggerHook", "interval": 1000}, "checkpoint": {"type": "CheckpointHook"}},
        experiment_name=f"trial-{folder.name}-{len(hooks)}",
        log_level="ERROR",
        **given,
    )


def by_hand(shop: Workshop) -> tuple[Any, list[float]]:
    """The same steps without MMEngine: weights, and the sum of the losses before each step."""
    model = shop.joint_model().train()
    optimizer, balancer = torch.optim.SGD(model.parameters(), lr=0.01), make_balancer(shop.config)
    totals = []
    for batch in shop.train_loader():
        with torch.no_grad():
            modes = {m: (m.running_mean.clone(), m.running_var.clone()) for m in norms(model)}
            totals.append(float(sum(shop.losses(model, batch).values())))
            for norm, (mean, var) in modes.items():
                norm.running_mean.copy_(mean), norm.running_var.copy_(var)
        step_once(model, batch, optimizer, balancer)
    return model, totals


def norms(model: torch.nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_a_runner_takes_the_steps_that_plain_pytorch_takes_and_scores_as_our_evaluator(tmp_path: Path) -> None:
    shop, noted = workshop(tmp_path), Noted()
    model = UnifiedModel(shop)
    runner(tmp_path, shop, model, noted).train()
    twin, totals = by_hand(workshop(tmp_path))
    assert len(noted.losses) == shop.steps == 6
    assert [losses["loss"] for losses in noted.losses] == pytest.approx(totals, rel=1e-4)
    assert set(noted.losses[0]) == {"loss", "loss_det", "loss_cls", "loss_emb"}
    for (name, ours), theirs in zip(twin.named_parameters(), model.joint.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5), name
    said = evaluate(model.joint.network, dict(model.joint.tasks.items()), shop.val_loader(), pick("cpu", "fp32"))
    assert noted.scores == pytest.approx(said.metrics) and "det/AP50" in noted.scores


def test_hooks_of_mmengine_work_on_it(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    model, average = UnifiedModel(shop), EMAHook(momentum=0.5)
    before = {name: p.detach().clone() for name, p in model.joint.named_parameters()}
    runner(tmp_path, shop, model, average).train()
    moved = [name for name, p in model.joint.named_parameters() if not torch.equal(p, before[name])]
    assert len(moved) > 0.95 * len(before), "all learn but those behind a gain that begins at zero"
    assert list((tmp_path / "work").glob("*.pth")), "its CheckpointHook wrote"
    kept = dict(average.ema_model.module.named_parameters())
    assert any(not torch.equal(kept[f"joint.{name}"], p) for name, p in model.joint.named_parameters())


def test_the_trained_network_comes_home(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    model = UnifiedModel(shop)
    runner(tmp_path, shop, model).train()
    ours = shop.finished(model.joint, "cpu")
    picture = torch.randint(0, 255, (3, 80, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    said = ours.predict(picture, conf=0.0)
    from unified import UnifiedModel as Public

    home = Public.from_pretrained(ours.save_pretrained(tmp_path / "handed"), device="cpu")
    assert torch.equal(home.predict(picture, conf=0.0).boxes.xyxy, said.boxes.xyxy)
    assert torch.equal(home.encode(picture), ours.encode(picture))


def test_a_config_of_words_builds_it(tmp_path: Path) -> None:
    from mmengine.registry import MODELS

    shop = workshop(tmp_path)
    words = {"tasks": ["det"], "data": tiny.write_data(tmp_path), "model": tiny.write_model(tmp_path)}
    built = MODELS.build({"type": "UnifiedModel", "workshop": {**words, "settings": ["size=96", "batch=8"]}})
    batch = next(iter(shop.train_loader()))
    assert set(built(batch, mode="tensor")) == {"det"} if batch.tasks == ("det",) else built.joint.tasks
    with pytest.raises(ConfigError, match="famo: MMEngine's Runner adds losses up"):
        UnifiedModel(workshop(tmp_path, "balance=famo"))
    with pytest.raises(ConfigError, match="accumulate=2"):
        workshop(tmp_path, "accumulate=2").train_loader()
