# SPDX-License-Identifier: Apache-2.0
"""A trained network learns one more task; every old answer stays bit for bit what it was."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tiny
import torch
from grown_runs import HEADS, answers, base_run, grown_config
from torch import nn

import unified
from unified.checkpoint import load_checkpoint
from unified.inference.model import UnifiedModel
from unified.model.network import UnifiedNetwork
from unified.trained import checkpoint_folder
from unified.training.distillation import Teacher, _distance
from unified.training.evaluator import evaluate_run
from unified.training.joint import JointModel
from unified.training.monitor import Monitor, Plan
from unified.training.run import train

sys.path.append(str(Path(__file__).parents[1] / "inference"))
from spare import spare_model

HARD = (
    "optimizer=muon",
    "lr=0.05",
    "weight_decay=0.5",
    "momentum=0.9",
    "clip=0.1",
    "ema=0.9",
    "max_steps=4",
    "val_images=8",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a task for every kind of head."""
    return base_run(tmp_path_factory.mktemp("growth"))


def network_of(run: Path) -> UnifiedNetwork:
    return unified.load(run, device="cpu", precision="fp32").network


def names(tasks: tuple[str, ...]) -> list[str]:
    return [task.partition(":")[0] for task in tasks]


def grow(base: Path, tmp_path: Path, *overrides: str, start: Path | None = None, **wish: object) -> Path:
    config, place = grown_config(tmp_path, start or base, *overrides, **wish)
    train(config, place, out=tmp_path / "grown", start=start or base)
    return tmp_path / "grown"


@pytest.mark.parametrize(("new", "optimizer"), [("tags:cls", "muon"), ("det2:det", "sgd"), ("vec:emb", "adamw")])
def test_old_answers_stay_bit_for_bit_whatever_learns_and_however(
    base: Path, tmp_path: Path, new: str, optimizer: str
) -> None:
    before = answers(network_of(base), names(HEADS))
    grown = grow(base, tmp_path, *HARD, f"optimizer={optimizer}", tasks=(new,))
    network = network_of(grown)
    assert answers(network, names(HEADS)) == before
    assert {task: answers(network, [task])[task] for task in before} == before
    old, now = network_of(base).state_dict(), network.state_dict()
    assert all(torch.equal(old[name], now[name]) for name in old)
    assert len(now) > len(old)
    own = new.partition(":")[0]
    said, again = json.loads((grown / "metrics.json").read_text()), evaluate_run(grown, tasks=(own,))
    assert {key.partition("/")[0] for key in said} == {own}
    assert again == pytest.approx(said)


def test_what_is_new_learns(base: Path, tmp_path: Path) -> None:
    ear = Ear()
    config, place = grown_config(tmp_path, base, "max_steps=1", tasks=("tags:cls",))
    train(config, place, out=tmp_path / "one", start=base, monitor=ear)
    more = config.model_copy(update={"train": config.train.model_copy(update={"max_steps": 5})})
    train(more, place, out=tmp_path / "five", start=base)
    one, five = (load_checkpoint(checkpoint_folder(tmp_path / n), ("model",)).tensors["model"] for n in ("one", "five"))
    changed = {name for name in one if not torch.equal(one[name], five[name])}
    assert changed
    assert all(name.startswith(("network.heads.tags.", "network.bank.tasks.tags.")) for name in changed)
    assert any(name.startswith("network.bank.tasks.tags.") for name in changed)
    learned = sum(p.numel() for n, p in network_of(tmp_path / "one").named_parameters() if ".tags." in n)
    assert any(f"tags learns {learned:,} numbers" in note and "kB" in note for note in ear.notes)


class Ear(Monitor):
    """Remembers the notes of a run."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, plan: Plan) -> None:
        self.notes += plan.notes


@pytest.mark.parametrize("loose", ["norms", "weights"])
def test_the_control_without_the_freeze_changes_old_answers(
    base: Path, tmp_path: Path, loose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were norm statistics, or weights alone, not held, the test above would see it."""
    if loose == "norms":  # nothing learns there, but every norm of the trunk goes on counting
        monkeypatch.setattr(JointModel, "train", nn.Module.train)
        monkeypatch.setattr(UnifiedNetwork, "train", nn.Module.train)
        monkeypatch.setattr("unified.training.ema.unchanging", lambda network: frozenset())
    else:
        monkeypatch.setattr(JointModel, "_keep", lambda self, growth: [])
    before = answers(network_of(base), names(HEADS))
    after = answers(network_of(grow(base, tmp_path, "ema=0", tasks=("tags:cls",))), names(HEADS))
    assert all(after[task] != before[task] for task in before)


def test_latents_in_the_trunk_are_the_new_tasks_alone(base: Path, tmp_path: Path) -> None:
    before = answers(network_of(base), names(HEADS))
    grown = grow(base, tmp_path, *HARD, tasks=("tags:cls",), latents="align.*=mul trunk.*=lowrank")
    network = network_of(grown)
    assert answers(network, names(HEADS)) == before
    assert network.trunk_passes() == 2
    assert network.trunk_passes(names(HEADS)) == 1
    standing = {(entry.task, entry.words[1]) for entry in network.bank.entries() if entry.site.startswith("trunk.")}
    assert standing == {("tags", "lowrank")}
    assert not any(e.site.startswith("pre.") for e in network.bank.entries() if e.task == "tags")


def test_a_grown_network_grows_again_and_from_a_model_handed_on(base: Path, tmp_path: Path) -> None:
    first = grow(base, tmp_path, tasks=("tags:cls",))
    handed = unified.load(first, device="cpu").save_pretrained(tmp_path / "handed")
    before = answers(network_of(first), [*names(HEADS), "tags"])
    (tmp_path / "again").mkdir()
    second = grow(base, tmp_path / "again", tasks=("vec:emb", "det2:det"), start=handed)
    assert answers(network_of(second), [*names(HEADS), "tags"]) == before
    assert UnifiedModel.from_pretrained(handed).tasks == (*names(HEADS), "tags")
    assert unified.load(second, device="cpu").tasks == (*names(HEADS), "tags", "vec", "det2")


def test_a_grown_run_resumes_to_the_same_bits(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unified.training.signals.GLANCE", 0.0)  # the file is looked for after every step
    config, place = grown_config(tmp_path, base, "max_steps=4", "save_every=1", tasks=("vec:emb",))
    train(config, place, out=tmp_path / "whole", start=base)

    class Stop(Monitor):
        def step(self, record: object) -> None:
            (tmp_path / "halves" / "stop").touch()

    train(config, place, out=tmp_path / "halves", start=base, monitor=Stop())
    half = load_checkpoint(checkpoint_folder(tmp_path / "halves"), ("model",))
    assert half.state["progress"]["step"] == 1
    train(config, place, resume=tmp_path / "halves")
    whole, halves = (load_checkpoint(tmp_path / n / "checkpoints" / "step-00000004") for n in ("whole", "halves"))
    for part in ("ema", "model", "optimizer"):
        a, b = whole.tensors[part], halves.tensors[part]
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert answers(network_of(tmp_path / "halves"), names(HEADS)) == answers(network_of(base), names(HEADS))


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_unfreezing_says_what_it_endangers(base: Path, tmp_path: Path, weight: float) -> None:
    ear, wish = Ear(), {"tasks": ("tags:cls",), "unfreeze": ("neck",), "distill": weight}
    config, place = grown_config(tmp_path, base, "max_steps=2", "ema=0", **wish)
    train(config, place, out=tmp_path / "loose", start=base, monitor=ear)
    said = next(note for note in ear.notes if "endangers" in note)
    assert all(name in said for name in ("neck", *names(HEADS)))
    assert ("held by --distill 2" in said) == (weight > 0)
    old, now = network_of(base).state_dict(), network_of(tmp_path / "loose").state_dict()
    assert all(torch.equal(old[n], now[n]) for n in old if not n.startswith("neck."))
    assert not all(torch.equal(old[n], now[n]) for n in old if n.startswith("neck."))
    losses = (tmp_path / "loose" / "log.jsonl").read_text()
    assert all((f'"tags/keep_{name}"' in losses) == (weight > 0) for name in names(HEADS))


def test_a_teacher_brings_old_answers_back(base: Path) -> None:
    network = network_of(base)
    teacher = Teacher(network, names(HEADS), 1.0)
    images = torch.rand(2, 3, 96, 96)

    def loss() -> torch.Tensor:
        terms = teacher(images, network(images))
        assert {*terms} == {f"keep_{name}" for name in names(HEADS)}
        return torch.stack([term.sum / term.count for term in terms.values()]).sum()

    assert float(loss().detach()) == 0
    for parameter in network.neck.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    begin, optimizer = float(loss().detach()), torch.optim.Adam(network.neck.parameters(), lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert begin > 0.01
    assert float(loss().detach()) < 0.3 * begin
    assert all(p.grad is None for p in teacher.parameters())


def test_a_teacher_counts_in_variances_of_the_old_answer() -> None:
    before = torch.tensor([[1.0, 3.0, 5.0]])  # variance 4
    assert float(_distance(before + 2, before)) == pytest.approx(1.0)
    assert float(_distance(10 * before + 20, 10 * before)) == pytest.approx(1.0)


def test_a_head_whose_labels_are_not_at_hand_keeps_its_bits(tmp_path: Path) -> None:
    tiny.cache_at(tmp_path)
    start = spare_model({"cap": "cap", "emb": "emb"}).save_pretrained(tmp_path / "start")
    before = answers(network_of(start), ["cap", "emb"])
    grown = grow(start, tmp_path, *HARD, tasks=("tags:cls",), latents="align.*=mul")
    assert answers(network_of(grown), ["cap", "emb"]) == before
    assert unified.load(grown, device="cpu").tasks == ("cap", "emb", "tags")
