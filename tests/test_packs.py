# SPDX-License-Identifier: Apache-2.0
"""Task packs: one task as a file, mounted on its own trunk and on no other."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

sys.path.append(str(Path(__file__).parent / "training"))
from grown_runs import HEADS, answers, base_run

import unified
from unified.cli import pack as command
from unified.contracts.errors import CheckpointError, ConfigError
from unified.inference.model import UnifiedModel
from unified.model.growth import trunk_of
from unified.packs import TaskPack, pack_of, read_task, write_task

NAMES = [name.partition(":")[0] for name in HEADS]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a task for every kind of head."""
    return base_run(tmp_path_factory.mktemp("packs"))


@pytest.fixture
def model(base: Path) -> UnifiedModel:
    return unified.load(base, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def pack(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unified.load(base, device="cpu").save_task("cls", tmp_path_factory.mktemp("pack") / "tags.pack")


def bare(base: Path, *tasks: str) -> UnifiedModel:
    """The model with some of its tasks only."""
    return unified.load(base, device="cpu", precision="fp32", tasks=tasks)


@pytest.mark.parametrize("task", NAMES)
def test_a_task_says_the_same_bits_from_a_pack(base: Path, model: UnifiedModel, tmp_path: Path, task: str) -> None:
    expected = answers(model.network, NAMES)
    other = next(name for name in NAMES if name != task)
    small = bare(base, other)
    assert small.load_task(model.save_task(task, tmp_path / "one.pack")) == task
    assert small.tasks == (other, task)
    assert answers(small.network, [other, task]) == {name: expected[name] for name in (other, task)}
    again = UnifiedModel.from_pretrained(small.save_pretrained(tmp_path / "model"), device="cpu", precision="fp32")
    assert answers(again.network, [other, task]) == {name: expected[name] for name in (other, task)}
    assert again.trained.tasks[task].vocabulary == small.trained.tasks[task].vocabulary
    assert read_task(again.save_task(task, tmp_path / "two.pack")) is not None
    assert (tmp_path / "one.pack").read_bytes() == (tmp_path / "two.pack").read_bytes()


def test_several_packs_answer_in_one_pass(base: Path, model: UnifiedModel, tmp_path: Path) -> None:
    small = bare(base, "free")
    for task in NAMES[1:]:
        small.load_task(model.save_task(task, tmp_path / f"{task}.pack"))
    small.load_task(tmp_path / "cls.pack", "tags")
    passes: list[int] = []
    small.network.backbone.register_forward_hook(lambda *_: passes.append(1))
    said = small.predict(torch.zeros(3, 96, 96, dtype=torch.uint8))
    assert len(passes) == 1
    assert small.tasks == (*NAMES, "tags")
    assert said.tags
    assert said.embedding is not None


def test_a_pack_knows_its_scores_words_and_trunk(model: UnifiedModel, pack: Path) -> None:
    read = read_task(pack)
    assert read.config.words is not None
    assert read.config.words.tags == model.trained.vocabulary.tags
    assert read.config.words.boxes == model.trained.vocabulary.boxes  # a tag may be the presence of a class
    assert read.config.words.identities == ()
    assert read.trunk == trunk_of(model.network, model.trained.config.model)
    assert {f"cls/{key}": value for key, value in read.metrics.items()}.items() <= dict(
        model.trained.provenance.metrics
    ).items()
    assert read.parameters * 4 < pack.stat().st_size < read.parameters * 4 + 16_000
    with safe_open(pack, framework="pt") as file:
        assert {name.partition(".")[0] for name in file.keys()} == {"head", "latents"}  # noqa: SIM118


@pytest.mark.parametrize("what", ["weight", "statistic"])
def test_another_trunk_is_refused_by_a_single_number(base: Path, pack: Path, what: str) -> None:
    small = bare(base, "free", "emb")
    norm = next(part for part in small.network.neck.modules() if isinstance(part, nn.BatchNorm2d))
    tensor = norm.weight.data if what == "weight" else norm.running_var
    assert tensor is not None
    tensor[0] = torch.nextafter(tensor[0], torch.tensor(9.0))
    with pytest.raises(CheckpointError, match="was trained on another trunk") as caught:
        small.load_task(pack)
    assert "\n" not in str(caught.value)
    assert small.tasks == ("free", "emb")


def test_what_is_no_part_of_the_trunk_may_differ(base: Path, pack: Path) -> None:
    small = bare(base, "free", "emb")
    with torch.no_grad():
        for parameter in (*small.network.heads.parameters(), *small.network.bank.parameters()):
            parameter.add_(1)
    for name, buffer in small.network.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.add_(1)
    assert small.load_task(pack) == "cls"


def test_damage_is_found_wherever_it_is(pack: Path, tmp_path: Path) -> None:
    data, dice = pack.read_bytes(), random.Random(0)
    places = [*range(12), *(dice.randrange(len(data)) for _ in range(150))]
    whole, broken = read_task(pack), tmp_path / "broken.pack"
    for place in places:
        broken.write_bytes(data[:place] + bytes([data[place] ^ 1 << dice.randrange(8)]) + data[place + 1 :])
        try:
            found = read_task(broken)
        except CheckpointError as error:
            assert "\n" not in str(error)
        else:  # a blank behind the header, or a name of the header that nobody reads
            same = [torch.equal(whole.tensors[name], found.tensors[name]) for name in whole.tensors]
            assert all(same)
            assert (found.config, found.trunk) == (whole.config, whole.trunk)
    for length in (0, 7, 100, len(data) // 2, len(data) - 1):
        broken.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            read_task(broken)


def test_a_changed_manifest_is_refused(pack: Path, tmp_path: Path) -> None:
    data = pack.read_bytes()
    trunk = read_task(pack).trunk.encode()
    forged = tmp_path / "forged.pack"
    forged.write_bytes(data.replace(trunk, b"0" * len(trunk)))
    with pytest.raises(CheckpointError, match="does not match its SHA-256"):
        read_task(forged)


def test_what_is_no_pack_gets_one_line(base: Path, model: UnifiedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    for path, said in (
        (tmp_path / "model" / "model.safetensors", "is no task pack"),
        (tmp_path / "absent.pack", "cannot be read"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(CheckpointError, match=said):
            model.load_task(path)
    with pytest.raises(CheckpointError, match="it is a folder"):
        model.save_task("cls", tmp_path)
    with pytest.raises(ConfigError, match=r"no task 'clz'; known: .*did you mean 'cls'"):
        model.save_task("clz", tmp_path / "x.pack")


def test_names_may_not_clash(model: UnifiedModel, pack: Path) -> None:
    with pytest.raises(ConfigError, match="has a task 'cls' already; give the one of"):
        model.load_task(pack)
    assert model.load_task(pack, "tags") == "tags"


def test_a_pack_is_written_whole_or_not_at_all(
    model: UnifiedModel, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place" / "one.pack"
    model.save_task("emb", place)
    before = place.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for call in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(CheckpointError, match="No space left"):
                model.save_task("cls", place)
        assert place.read_bytes() == before
        assert [path.name for path in place.parent.iterdir()] == ["one.pack"]


def test_a_removed_task_leaves_the_others_as_they_are(model: UnifiedModel, tmp_path: Path) -> None:
    before = answers(model.network, NAMES)
    for task in ("anchor", "query", "emb"):
        model.remove_task(task)
    assert model.tasks == ("free", "cls")
    assert answers(model.network, ["free", "cls"]) == {name: before[name] for name in ("free", "cls")}
    assert model.space is None
    again = UnifiedModel.from_pretrained(model.save_pretrained(tmp_path / "less"), device="cpu", precision="fp32")
    assert answers(again.network, ["free", "cls"]) == {name: before[name] for name in ("free", "cls")}
    with pytest.raises(ConfigError, match="no task 'emb'"):
        model.remove_task("emb")
    model.remove_task("cls")
    with pytest.raises(ConfigError, match="only task"):
        model.remove_task("free")


def test_who_holds_the_old_model_keeps_it(model: UnifiedModel, pack: Path) -> None:
    network, predictor = model.network, model.predictor
    model.load_task(pack, "tags")
    assert "tags" not in network.heads
    assert "tags" not in predictor.tasks
    assert model.network.backbone is network.backbone


def test_a_newer_format_says_so(
    base: Path, model: UnifiedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: TaskPack = pack_of(model.trained, model.network, "cls")
    monkeypatch.setattr("unified.packs.FORMAT", 9)
    write_task(tmp_path / "new.pack", made)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="has format 9, this version reads 1; update unified"):
        read_task(tmp_path / "new.pack")


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        command.main([str(word) for word in words])
    return int(ended.value.code or 0)


def test_the_command_saves_shows_and_mounts(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tags.pack"
    assert run("save", base, "cls", file, "--json") == 0
    saved = json.loads(capsys.readouterr().out)
    assert run("show", file, "--json") == 0
    assert json.loads(capsys.readouterr().out) == saved
    assert (saved["task"], saved["kind"], saved["bytes"]) == ("cls", "cls", file.stat().st_size)
    assert run("show", file) == 0
    assert f"{saved['parameters']:,} numbers" in capsys.readouterr().out
    unified.load(base, device="cpu", tasks=("free",)).save_pretrained(tmp_path / "small")
    assert run("mount", tmp_path / "small", file, f"tags={file}", "--out", tmp_path / "both", "--json") == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == ["free", "cls", "tags"]
    assert unified.load(tmp_path / "both", device="cpu").tasks == ("free", "cls", "tags")


def test_the_command_says_what_is_wrong_in_one_line(
    base: Path, tmp_path: Path, pack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for words, said in (
        (("save", base, "clz", tmp_path / "x"), "no task 'clz'"),
        (("show", tmp_path / "absent"), "cannot be read"),
        (("mount", base, pack, "--out", tmp_path / "out"), "has a task 'cls' already"),
        (("mount", base, f"a-b={pack}", "--out", tmp_path / "out"), "'a-b' is no name of a task"),
        (("mount", base, pack, "--out", tmp_path / "full"), "exists already"),
    ):
        assert run(*words) == 2
        error = capsys.readouterr().err.strip()
        assert said in error
        assert "\n" not in error
    assert not (tmp_path / "out").exists()
