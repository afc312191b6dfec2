# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from torch import nn

import unified  # noqa: F401
from unified.checkpoint import Checkpoint, fit_state, load_checkpoint, save_checkpoint, write_bytes
from unified.contracts.errors import CheckpointError
from unified.disk import write_new
from unified.tensors import pieces
from unified.training.folder import RunFolder


def some(value: float = 1.0) -> Checkpoint:
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    tensors = {
        "conv": conv.weight.detach(),
        "half": torch.randn(5).to(torch.bfloat16),
        "count": torch.tensor(7, dtype=torch.int64),
        "turned": torch.randn(4, 6).t(),
        "value": torch.full((3,), value),
        "odd": torch.tensor([float("inf"), -0.0, float("nan")]),
    }
    return Checkpoint({"ema": tensors, "model": {"w": torch.randn(8, 8)}}, {"step": value, "names": ["a", "ö"]})


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else str(tensor.item()).encode()


def assert_equal(a: Checkpoint, b: Checkpoint) -> None:
    assert a.state == b.state
    assert a.tensors.keys() == b.tensors.keys()
    for part in a.tensors:
        assert a.tensors[part].keys() == b.tensors[part].keys()
        for name, tensor in a.tensors[part].items():
            other = b.tensors[part][name]
            assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape)
            assert bits(tensor) == bits(other)


def test_what_is_written_is_read_bit_for_bit(tmp_path: Path) -> None:
    saved = some()
    assert not saved.tensors["ema"]["conv"].is_contiguous()
    save_checkpoint(tmp_path / "a" / "b", saved)
    assert_equal(load_checkpoint(tmp_path / "a" / "b"), saved)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["b"]


def test_a_part_can_be_read_alone(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", some())
    assert set(load_checkpoint(tmp_path / "c", parts=("model",)).tensors) == {"model"}
    with pytest.raises(CheckpointError, match="has no part 'optimizer'"):
        load_checkpoint(tmp_path / "c", parts=("optimizer",))


def test_a_newer_one_of_the_same_name_takes_its_place(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", some(1))
    save_checkpoint(tmp_path / "c", second := some(2))
    assert_equal(load_checkpoint(tmp_path / "c"), second)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def flip(path: Path, place: float, by: int = 0xFF) -> None:
    data = bytearray(path.read_bytes())
    data[min(int(place * len(data)), len(data) - 1)] ^= by
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "first byte": lambda p: flip(p, 0),
    "a middle byte": lambda p: flip(p, 0.5),
    "last byte": lambda p: flip(p, 1),
    "cut short": truncate,
    "emptied": lambda p: p.write_bytes(b""),
    "longer": lambda p: p.write_bytes(p.read_bytes() + b"x"),
    "deleted": Path.unlink,
    "a folder": lambda p: (p.unlink(), p.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["ema.safetensors", "model.safetensors", "state.json", "manifest.json"])
def test_damage_is_found_and_the_file_named(tmp_path: Path, name: str, damage: str) -> None:
    save_checkpoint(tmp_path / "c", some())
    DAMAGES[damage](tmp_path / "c" / name)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "c")
    text = str(caught.value)
    assert name in text or (name == "manifest.json" and "does not match" in text)
    assert str(tmp_path / "c") in text
    assert len(text.splitlines()) == 1


def test_every_flipped_bit_of_the_manifest_is_found(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", some())
    path = tmp_path / "c" / "manifest.json"
    good = path.read_bytes()
    for k in range(len(good)):
        data = bytearray(good)
        data[k] ^= 1 << (k % 8)
        path.write_bytes(bytes(data))
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(tmp_path / "c")
        assert len(str(caught.value).splitlines()) == 1


def test_safetensors_alone_does_not_notice(tmp_path: Path) -> None:
    """Why there is a manifest: without it a flipped bit of a weight is simply another weight."""
    save_checkpoint(tmp_path / "c", some())
    before = load_file(tmp_path / "c" / "model.safetensors")["w"].clone()  # it is a view of the file
    flip(tmp_path / "c" / "model.safetensors", 1, by=0x01)
    after = load_file(tmp_path / "c" / "model.safetensors")["w"]
    assert not torch.equal(before, after)
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not match its SHA-256"):
        load_checkpoint(tmp_path / "c")


def test_a_part_that_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", some())
    flip(tmp_path / "c" / "model.safetensors", 0.5)
    assert set(load_checkpoint(tmp_path / "c", parts=("ema",)).tensors) == {"ema"}


STRANGE = ["[]", "{}", '{"format": 1}', '{"format": 2}', '{"format": "x", "sha256": {}}', "\xff", "null", "[" * 9999]


@pytest.mark.parametrize("text", STRANGE, ids=range(len(STRANGE)))
def test_a_strange_manifest_is_refused(tmp_path: Path, text: str) -> None:
    save_checkpoint(tmp_path / "c", some())
    (tmp_path / "c" / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"manifest\.json cannot be read"):
        load_checkpoint(tmp_path / "c")


def test_a_newer_format_is_refused_as_such(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", some())
    path = tmp_path / "c" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 3}))
    with pytest.raises(CheckpointError, match="has format 3, this version reads 2; update"):
        load_checkpoint(tmp_path / "c")


def write_format_1(folder: Path) -> None:
    """A checkpoint as the first release wrote it: sums without sizes, and a manifest without its own."""
    folder.mkdir(parents=True)
    contents = {"ema.safetensors": save({"w": torch.arange(6.0)}), "state.json": json.dumps({"step": 3}).encode()}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "sha256": sums}, indent=1))


def test_the_first_format_is_still_read_and_verified(tmp_path: Path) -> None:
    write_format_1(tmp_path / "checkpoints" / "step-00000003")
    for pointer in ("last", "best"):
        (tmp_path / "checkpoints" / pointer).write_text("step-00000003")
    found = RunFolder(tmp_path).load("last")
    assert found.state == {"step": 3} and torch.equal(found.tensors["ema"]["w"], torch.arange(6.0))
    flip(tmp_path / "checkpoints" / "step-00000003" / "ema.safetensors", 1)
    with pytest.raises(CheckpointError, match=r"no checkpoint that is whole: .*ema\.safetensors does not match"):
        RunFolder(tmp_path).load("last")


def test_the_files_are_what_the_library_itself_would_write(tmp_path: Path) -> None:
    """Bytes of the header apart, which may name the tensors in any order of equal alignment."""
    tensors = {
        **some().tensors["ema"],
        "none": torch.zeros(0, 4),
        "big": torch.randn(700, 700),
        "yes": torch.ones(3) > 0,
    }
    path = tmp_path / "t.safetensors"
    digest, size = write_new(path, pieces(tensors))
    assert (digest, size) == (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
    assert size == len(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    read = load_file(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (read[name].dtype, read[name].shape, bits(read[name])) == (tensor.dtype, tensor.shape, bits(tensor))


def test_a_tensor_of_a_strange_type_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tensor 'z' of type torch\.complex64 cannot be saved; known: float64"):
        save_checkpoint(tmp_path / "c", Checkpoint({"ema": {"z": torch.zeros(2, dtype=torch.complex64)}}, {}))
    assert list(tmp_path.iterdir()) == []


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at '.*nowhere'"):
        load_checkpoint(tmp_path / "nowhere")


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["os.fsync", "os.write", "os.mkdir", "Path.rename"])
@pytest.mark.parametrize("older", [True, False])
def test_a_failed_write_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, older: bool
) -> None:
    folder = tmp_path / "c"
    if older:
        save_checkpoint(folder, saved := some(1))
    with monkeypatch.context() as patch:
        if call.startswith("os."):
            patch.setattr(os, call.removeprefix("os."), no_space)
        else:
            rename = Path.rename
            patch.setattr(Path, "rename", lambda p, to: no_space() if p.name == "whole" else rename(p, to))
        with pytest.raises(CheckpointError, match=r"cannot write to .*No space left.*bytes free.*--out") as caught:
            save_checkpoint(folder, some(2))
    assert len(str(caught.value).splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == (["c"] if older else [])
    if older:
        assert_equal(load_checkpoint(folder), saved)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_pointer_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    write_bytes(tmp_path / "last", b"one")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, no_space)
        with pytest.raises(CheckpointError, match="cannot write to"):
            write_bytes(tmp_path / "last", b"two")
    assert (tmp_path / "last").read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["last"]
    write_bytes(tmp_path / "last", b"two")
    assert (tmp_path / "last").read_bytes() == b"two"


def test_a_file_where_the_folder_should_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for write in (
        lambda p: save_checkpoint(p, some()),
        lambda p: write_bytes(p, b"x"),
        lambda p: RunFolder.create(p, "m"),
    ):
        with pytest.raises(CheckpointError, match=r"cannot write to '.*file.*choose another folder with --out"):
            write(tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="Permission denied"):
            save_checkpoint(tmp_path / "c", some())
    finally:
        tmp_path.chmod(0o700)


def test_values_that_are_no_json_are_refused_before_anything_is_replaced(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", saved := some(1))
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path / "c", Checkpoint({}, {"loss": float("nan")}))
    assert_equal(load_checkpoint(tmp_path / "c"), saved)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("0.bias"), "1 tensors differ (missing 0.bias)"),
        (lambda t: t.update(extra=torch.zeros(1)), "1 tensors differ (left over extra)"),
        (lambda t: t.update({"0.weight": torch.zeros(2, 2)}), "0.weight is (2, 2), expected (4, 3)"),
        (lambda t: (t.clear(), t.update(a=torch.zeros(1))), "5 tensors differ"),
    ],
)
def test_tensors_of_another_configuration_touch_nothing(change: Callable[[dict], object], said: str) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    tensors = {k: v + 1 for k, v in before.items()}
    change(tensors)
    with pytest.raises(CheckpointError) as caught:
        fit_state(net, tensors, "runs/a")
    assert "'runs/a' is a checkpoint of another configuration" in str(caught.value)
    assert said in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_tensors_that_fit_are_taken() -> None:
    net = nn.Linear(3, 4)
    fit_state(net, {k: torch.full_like(v, 2) for k, v in net.state_dict().items()}, "x")
    assert all((p == 2).all() for p in net.parameters())


def save_for_ever(folder: RunFolder, step: int) -> None:
    while True:
        step += 1
        tensors = {"ema": {"w": torch.full((64, 256), float(step))}, "optimizer": {"m": torch.zeros(64, 256)}}
        for _ in range(2):  # the second: a stop right after an evaluation saves the same step again
            folder.save(step, Checkpoint(tensors, {"step": step}), best=step % 3 == 0)


def test_no_kill_at_any_moment_costs_the_last_checkpoint(tmp_path: Path) -> None:
    """What ``last`` and ``best`` point to is whole after each of ten SIGKILLs, and never older than before."""
    folder, step = RunFolder(tmp_path / "run"), 1
    folder.save(step, Checkpoint({"ema": {"w": torch.ones(1)}}, {"step": step}), best=True)
    for kill in range(10):
        process = get_context("fork").Process(target=save_for_ever, args=(folder, step))
        process.start()
        time.sleep(0.15 + 0.0137 * kill)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        last = folder.load("last")
        assert last.state["step"] >= step
        assert (last.tensors["ema"]["w"] == last.state["step"]).all()
        folder.load("best")
        step = last.state["step"]
    assert step > 5
    later = step + 1000  # a step no killed process can have begun to save
    folder.save(later, some(), best=True, keep_last=1)
    assert sorted(p.name for p in folder.checkpoints.iterdir()) == ["best", "last", f"step-{later:08d}"]
