# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from official_files import official_state, write_pt, write_weights
from safetensors.torch import save_file

import unified
from unified.cli import import_
from unified.contracts.errors import CheckpointError
from unified.official.archive import read_state
from unified.official.darknet import as_floats, as_state
from unified.official.design import DESIGNS
from unified.official.layout import layout
from unified.official.recognise import recognise

CLASSES = 2
OUT, MUL = "module_list.220.Conv2d", "module_list.208.implicit"  # of yolor-p6, second level


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Of yolor-p6 with two classes, without values: shapes are what these tests are about."""
    tensors = (t for section in layout(DESIGNS["yolor-p6"], CLASSES) for t in section.tensors())
    return {key: torch.zeros(()).expand(shape) for key, shape in tensors}


class Model:
    """Stands for a class that only the one who pickled it has."""


def pickled(path: Path, _: dict[str, torch.Tensor], **options: bool) -> None:
    Model.__module__, Model.__qualname__ = "models.yolo", "Model"
    import sys
    import types

    sys.modules["models"], sys.modules["models.yolo"] = types.ModuleType("models"), types.ModuleType("models.yolo")
    sys.modules["models.yolo"].Model = Model  # type: ignore[attr-defined]
    try:
        torch.save({"model": Model(), "optimizer": None}, path, **options)
    finally:
        del sys.modules["models"], sys.modules["models.yolo"]


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


def without(state: dict[str, torch.Tensor], *keys: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(keys)}


def cut(path: Path, state: dict[str, torch.Tensor]) -> None:
    write_pt(path, dict(list(state.items())[:30]))
    path.write_bytes(path.read_bytes()[:-500])


def flipped(path: Path, state: dict[str, torch.Tensor]) -> None:
    write_pt(path, dict(list(state.items())[:30]))
    data = bytearray(path.read_bytes())
    place = data.index(b"data.pkl") + 40
    data[place : place + 60] = bytes(60)
    path.write_bytes(bytes(data))


Maker = Callable[[Path, dict[str, torch.Tensor]], object]

FILES: dict[str, tuple[Maker, str]] = {
    "missing": (lambda p, s: None, "no file at"),
    "folder": (lambda p, s: p.mkdir(), "is a folder"),
    "empty": (lambda p, s: p.touch(), "is empty"),
    "text": (lambda p, s: p.write_text("hello"), "is no PyTorch file"),
    "web page": (lambda p, s: p.write_text("<!DOCTYPE html><html>"), "web page: the download failed"),
    "safetensors": (lambda p, s: save_file({"a": torch.zeros(3)}, p), "looks like safetensors"),
    "cut": (cut, "cut short or damaged"),
    "damaged": (flipped, "cut short or damaged"),
    "legacy pickled": (
        lambda p, s: pickled(p, s, _use_new_zipfile_serialization=False),
        r"pickled whole model \(models.yolo.Model\)",
    ),
    "pickled": (pickled, r"pickled whole model \(models.yolo.Model\).*would run code.*yolor_p6.pt"),
    "optimizer": (
        lambda p, s: torch.save({"model": None, "optimizer": {"state": {}, "param_groups": []}}, p),
        "an optimizer's state and no network",
    ),
    "bare optimizer": (
        lambda p, s: torch.save(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]).state_dict(), p),
        "an optimizer's state and no network",
    ),
    "tensor": (lambda p, s: torch.save(torch.zeros(3), p), "holds a Tensor; expected a dict"),
    "no tensors": (lambda p, s: torch.save({"model": {"a": 1}}, p), "'a' is no tensor"),
    "nothing": (lambda p, s: torch.save({}, p), "its state dict is empty"),
    "nan": (
        lambda p, s: write_pt(p, {"module_list.1.Conv2d.weight": torch.full((3,), float("nan"))}),
        "module_list.1.Conv2d.weight holds values that are not finite",
    ),
    "sparse": (lambda p, s: write_pt(p, {"a": torch.eye(3).to_sparse()}), "a is no plain dense tensor"),
    "another network": (
        lambda p, s: write_pt(p, {"layer1.0.conv1.weight": torch.zeros(3)}),
        r"another network: its keys \(layer1",
    ),
    "yaml network": (
        lambda p, s: write_pt(p, OrderedDict({"model.0.conv.weight": torch.zeros(3)})),
        "YAML-built network",
    ),
    "one missing": (
        lambda p, s: write_pt(p, without(s, "module_list.100.BatchNorm2d.weight")),
        "yolor-p6 is nearest, 1 tensors differ .missing module_list.100.BatchNorm2d.weight",
    ),
    "one too many": (
        lambda p, s: write_pt(p, {**s, "module_list.999.implicit": torch.zeros(1)}),
        "1 tensors differ .left over module_list.999.implicit.*known: yolor-csp",
    ),
    "another shape": (
        lambda p, s: write_pt(p, {**s, "module_list.1.Conv2d.weight": torch.zeros(64, 3, 3, 3)}),
        r"module_list.1.Conv2d.weight is \(64, 3, 3, 3\), expected \(64, 12, 3, 3\)",
    ),
    "no latents": (
        lambda p, s: write_pt(p, {k: v for k, v in s.items() if "implicit" not in k}),
        "yolor-p6 is nearest, 8 tensors differ .missing module_list.203.implicit",
    ),
    "unequal classes": (
        lambda p, s: write_pt(
            p,
            {
                **s,
                f"{OUT}.weight": torch.zeros(24, 384, 1, 1),
                f"{OUT}.bias": torch.zeros(24),
                MUL: torch.zeros(1, 24, 1, 1),
            },
        ),
        f"of yolor-p6 but its class count contradicts itself: .*3 x .5 . classes. rows.*{OUT}.weight 24",
    ),
    "broken classes": (
        lambda p, s: write_pt(
            p,
            {
                k: torch.zeros(v.shape[0] and 22, *v.shape[1:])
                if k.split(".")[1] in ("214", "220", "226", "232") and "Conv" in k
                else torch.zeros(1, 22, 1, 1)
                if k.split(".")[1] in ("207", "208", "209", "210")
                else v
                for k, v in s.items()
            },
        ),
        "class count contradicts itself",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_wrong_file_is_one_line_and_leaves_nothing(
    case: str, state: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, said = FILES[case]
    make(tmp_path / "some.pt", state)
    with pytest.raises(CheckpointError, match=said):
        unified.import_yolor(tmp_path / "some.pt")
    with pytest.raises(SystemExit) as ended:
        import_.main([str(tmp_path / "some.pt"), "--out", str(tmp_path / "out")])
    lines = capsys.readouterr().err.strip().splitlines()
    assert (ended.value.code, len(lines)) == (2, 1), lines
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_ever_run(zipped: bool, tmp_path: Path) -> None:
    content = {"model": {"a": torch.zeros(1)}, "extra": Trap(tmp_path / "sprung")}
    torch.save(content, tmp_path / "trap.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="would run code"):
        unified.import_yolor(tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "value",
    [np.float64(0.5), np.array([0.5]), np.float32(1), np.int64(3), np.array([1, 2]), 0.25, None, "text"],
    ids=lambda v: f"{type(v).__name__}",
)
def test_numbers_that_training_leaves_in_a_file_are_read(value: object, tmp_path: Path) -> None:
    path = write_pt(tmp_path / "a.pt", {"module_list.0.w": torch.ones(2)}, best_fitness=value)
    assert torch.equal(read_state(path)["module_list.0.w"], torch.ones(2))


def test_numpy_1_names_are_read_too(tmp_path: Path) -> None:
    """Files of numpy 1 call a function numpy.core.multiarray.scalar; the name is as long as it is in the file."""
    path = write_pt(tmp_path / "a.pt", {"w": torch.ones(2)}, best_fitness=np.float64(0.5))
    torch.save(
        {"model": {"w": torch.ones(2)}, "best_fitness": np.float64(0.5)}, path, _use_new_zipfile_serialization=False
    )
    data = path.read_bytes()
    assert b"numpy._core.multiarray\nscalar" in data
    path.write_bytes(data.replace(b"numpy._core.multiarray\nscalar", b"numpy.core.multiarray\nscalar"))
    assert torch.equal(read_state(path)["w"], torch.ones(2))


# --- darknet ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(
        tmp_path_factory.mktemp("darknet") / "a.weights", "yolor-p6", CLASSES, official_state("yolor-p6", CLASSES)
    )


def implicit_free(path: Path, data: bytes) -> None:
    """As YOLOR's own writer leaves it: the eight implicit sections are not there."""
    whole = layout(DESIGNS["yolor-p6"], CLASSES)
    state = as_state(np.frombuffer(data, dtype="<f4", offset=20), whole)
    path.write_bytes(data[:20] + as_floats(state, [s for s in whole if s.kind not in ("add", "mul")]).tobytes())


DARKNET: dict[str, tuple[Callable[[Path, bytes], object], str]] = {
    "cut within a value": (lambda p, d: p.write_bytes(d[:-3]), "no whole number of values"),
    "cut": (lambda p, d: p.write_bytes(d[:-400]), "cut short or of another network: it holds .* values"),
    "header only": (lambda p, d: p.write_bytes(d[:20]), "is no DarkNet weights file"),
    "no header": (lambda p, d: p.write_bytes(d[20:]), "is no DarkNet weights file"),
    "empty": (lambda p, d: p.touch(), "is empty"),
    "other order": (lambda p, d: p.write_bytes(d[:20] + d[20:][::-1]), "impossible values"),
    "without latents": (implicit_free, "yolor-p6 without its implicit sections"),
}


@pytest.mark.parametrize("case", DARKNET)
def test_a_wrong_weights_file_is_refused(case: str, weights: Path, tmp_path: Path) -> None:
    make, said = DARKNET[case]
    make(tmp_path / "b.weights", weights.read_bytes())
    with pytest.raises(CheckpointError, match=said):
        unified.import_yolor(tmp_path / "b.weights")


def test_an_old_header_is_shorter(weights: Path, tmp_path: Path) -> None:
    data = weights.read_bytes()
    (tmp_path / "old.weights").write_bytes(struct.pack("<iiii", 0, 1, 0, 0) + data[20:])
    assert unified.import_yolor(tmp_path / "old.weights", arch="yolor-p6").trained.config.model.name == "yolor-p6"


# --- words -----------------------------------------------------------------------------------------------------------


def test_a_named_network_is_the_only_one_compared(state: dict[str, torch.Tensor]) -> None:
    assert recognise(state, "x").classes == CLASSES
    with pytest.raises(CheckpointError, match=r"yolor-csp is nearest.*known: yolor-csp$"):
        recognise(state, "x", (DESIGNS["yolor-csp"],))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--arch", "yolor-e6"), "no official file of 'yolor-e6' can be imported"),
        (("--anchors", "12,16,wide"), "--anchors: could not convert"),
        (("--anchors", "12,16"), "--anchors: got 2 numbers"),
    ],
)
def test_words_that_do_not_fit(
    words: tuple[str, ...], said: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        import_.main([str(weights), "--out", str(tmp_path / "out"), *words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_holds_something_is_left_alone(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(SystemExit) as ended:
        import_.main([str(weights), "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert "is there already and not empty" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
