# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
import yaml
from spare import noise, run_config, spare_model

import unified
from unified import pretrained
from unified.contracts.errors import UnifiedError
from unified.inference.model import UnifiedModel
from unified.official.importer import save_model

LOW = {"confidence": 0.0}


@pytest.fixture(scope="module")
def model() -> UnifiedModel:
    return spare_model()


@pytest.fixture(scope="module")
def pack(model: UnifiedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hand") / "spare-n"
    return model.save_pretrained(folder, licence="apache-2.0", data_licences={"pets": "CC-BY-4.0"}, description="Pets.")


def test_a_model_comes_back_as_it_was(model: UnifiedModel, pack: Path) -> None:
    for other in (UnifiedModel.from_pretrained(pack, device="cpu"), unified.load(pack, device="cpu")):
        a, b = model.predict(noise(), **LOW), other.predict(noise(), **LOW)
        assert torch.equal(a.boxes_xyxy, b.boxes_xyxy)
        assert torch.equal(a.box_embeddings, b.box_embeddings)
        assert a.tags == b.tags
        assert other.space == model.space


@pytest.mark.parametrize("tasks", [["det"], ["cls"], ["emb"], ["emb", "det"], ["det", "cls", "emb"]])
def test_some_tasks_are_what_they_are_in_the_whole(model: UnifiedModel, pack: Path, tasks: list[str]) -> None:
    some = UnifiedModel.from_pretrained(pack, tasks=tasks, device="cpu")
    assert set(some.tasks) == set(tasks)
    whole, part = model.predict(noise(), tasks=tasks, **LOW), some.predict(noise(), **LOW)
    for name in ("boxes_xyxy", "scores", "tag_scores", "embedding", "box_embeddings"):
        a, b = getattr(whole, name), getattr(part, name)
        assert (a is None and b is None) or torch.equal(a, b)
    assert some.space == (model.space if "emb" in tasks else None)


def test_only_the_tensors_of_the_tasks_asked_for_are_read(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    class Spy:
        def __init__(self, path: Path, framework: str) -> None:
            self.file = safetensors.safe_open(path, framework=framework)

        def __enter__(self) -> Spy:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def keys(self) -> list[str]:
            return list(self.file.keys())

        def get_tensor(self, name: str) -> torch.Tensor:
            read.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(pretrained, "safe_open", Spy)
    some = UnifiedModel.from_pretrained(pack, tasks=["cls"], device="cpu")
    assert {pretrained.part_of(name) for name in read} == {"trunk", "cls"}
    assert set(read) == set(some.network.state_dict())


def test_a_run_gives_some_tasks_too(model: UnifiedModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "run")
    some = unified.load(tmp_path / "run", device="cpu", tasks=["cls"])
    assert some.tasks == ("cls",)
    assert torch.equal(some.predict(noise()).tag_scores, model.predict(noise(), tasks="cls").tag_scores)


def test_a_task_that_is_not_installed_is_not_needed_for_others(model: UnifiedModel, pack: Path, tmp_path: Path) -> None:
    shutil.copytree(pack, tmp_path / "pack")
    path = tmp_path / "pack" / "config.json"
    path.write_text(path.read_text().replace('"task": "emb"', '"task": "of_a_stranger"'))
    some = UnifiedModel.from_pretrained(tmp_path / "pack", tasks=["det"], device="cpu")
    assert torch.equal(some.predict(noise(), **LOW).scores, model.predict(noise(), **LOW).scores)
    with pytest.raises(UnifiedError, match="unknown task 'of_a_stranger'"):
        UnifiedModel.from_pretrained(tmp_path / "pack")


def test_the_card_says_what_is_known(model: UnifiedModel, pack: Path) -> None:
    text = (pack / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front == {
        "library_name": "unified",
        "license": "apache-2.0",
        "tags": ["det", "cls", "emb"],
        "datasets": ["pets"],
    }
    for said in (
        "# spare-n",
        "Pets.",
        "| `det/AP` | 0.2500 |",
        "licence: CC-BY-4.0",
        str(model.space),
        "cat, dog, hat",
    ):
        assert said in text
    code = text.split("```python")[1].split("```")[0]
    compile(code, "card", "exec")


def test_what_nobody_said_is_not_guessed(tmp_path: Path) -> None:
    bare = spare_model()
    text = (bare.save_pretrained(tmp_path / "bare") / "README.md").read_text()
    assert 'license: "unknown"' in text
    assert "licence: not stated; ask who made the model" in text


def test_words_of_an_earlier_card_are_kept(pack: Path, tmp_path: Path) -> None:
    again = UnifiedModel.from_pretrained(pack, device="cpu").save_pretrained(tmp_path / "again")
    first, second = (yaml.safe_load((p / "README.md").read_text().split("---")[1]) for p in (pack, again))
    assert first == second
    assert "CC-BY-4.0" in (again / "README.md").read_text()
    assert (again / "model.safetensors").read_bytes() == (pack / "model.safetensors").read_bytes()


def test_no_path_of_this_machine_is_handed_on(tmp_path: Path) -> None:
    model = spare_model()
    secret = {"pets": {"path": "/home/somebody/pets", "labelled": {"det": "all"}}}
    config = model.trained.config.model_copy(
        update={"data": run_config().data.model_validate({"datasets": secret})},
    )
    object.__setattr__(model.trained, "config", config)
    folder = model.save_pretrained(tmp_path / "pack")
    assert b"somebody" not in b"".join(path.read_bytes() for path in folder.iterdir())


# --- fingerprints ----------------------------------------------------------------------------------------------------


def test_the_space_is_that_of_its_weights_and_of_nothing_else(model: UnifiedModel) -> None:
    space = model.space
    assert space is not None
    assert len(space) == 64
    assert spare_model().space == space
    assert spare_model(seed=1).space != space
    renamed = spare_model({"det": "det", "cls": "cls", "looks": "emb"})
    assert renamed.space == space


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("backbone", True),
        ("neck", True),
        ("heads.emb", True),
        ("bank.tasks.emb", True),
        ("heads.det", False),
        ("bank.tasks.cls", False),
    ],
)
def test_any_weight_of_the_space_changes_its_fingerprint(part: str, changes: bool) -> None:
    model, before = spare_model(), spare_model().space
    tensor = next(t for name, t in model.network.named_parameters() if name.startswith(part))
    with torch.no_grad():
        tensor[(0,) * tensor.ndim] += 1e-4
    assert (model.space != before) == changes


def test_another_size_is_another_space(model: UnifiedModel) -> None:
    assert model.space_at(None) == model.space_at(64) == model.space
    assert model.space_at(96) != model.space


# --- damage ----------------------------------------------------------------------------------------------------------


def edit(folder: Path, change: Any) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flip(folder: Path, part: str) -> None:
    """Changes one bit of a part's weights."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = next(n for n in sorted(header) if n != "__metadata__" and pretrained.part_of(n) == part)
    data[8 + length + header[name]["data_offsets"][0]] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: flip(f, "trunk"), "weights of 'trunk' do not match their SHA-256"),
        (lambda f: flip(f, "emb"), "weights of 'emb' do not match their SHA-256"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 50), "model.safetensors cannot be read"),
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be understood"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json cannot be understood"),
        (lambda f: edit(f, lambda c: c.update(format=9)), "has format 9, this version reads 1"),
        (lambda f: edit(f, lambda c: c.pop("config")), "does not say what it holds"),
        (lambda f: edit(f, lambda c: c["sha256"].pop("det")), "model.safetensors cannot be read"),
        (lambda f: edit(f, lambda c: c["vocabulary"].update(tags=["one"])), "another configuration"),
        (lambda f: (f / "config.json").unlink(), "holds no config.json; give a folder written by save_pretrained"),
        (shutil.rmtree, "is no folder here, and nothing is fetched"),
    ],
)
def test_a_damaged_model_is_one_line(pack: Path, tmp_path: Path, harm: Any, said: str) -> None:
    shutil.copytree(pack, tmp_path / "pack")
    harm(tmp_path / "pack")
    with pytest.raises(UnifiedError) as caught:
        UnifiedModel.from_pretrained(tmp_path / "pack")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_damage_of_a_task_that_is_not_asked_for_harms_nobody(pack: Path, tmp_path: Path) -> None:
    shutil.copytree(pack, tmp_path / "pack")
    flip(tmp_path / "pack", "emb")
    assert UnifiedModel.from_pretrained(tmp_path / "pack", tasks=["det"], device="cpu").tasks == ("det",)


def test_a_wrong_task_is_said(pack: Path) -> None:
    with pytest.raises(UnifiedError, match=r"no task 'dett'; known: cls, det, emb \(did you mean 'det'"):
        UnifiedModel.from_pretrained(pack, tasks=["dett"])
    with pytest.raises(UnifiedError, match="no task was asked for; known: cls, det, emb"):
        UnifiedModel.from_pretrained(pack, tasks=[])
    with pytest.raises(UnifiedError, match="'org/model' is no folder here, and nothing is fetched"):
        UnifiedModel.from_pretrained("org/model")
