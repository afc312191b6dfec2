# SPDX-License-Identifier: Apache-2.0
"""The formats themselves: written, opened by their own programs, and compared with the network."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exportable import apart, make

import unified
from unified.contracts import protocols
from unified.contracts.errors import CheckpointError, ConfigError
from unified.export.job import Job, export

RULES = {"confidence": 0.001, "candidates": 300, "max_boxes": 50}
ONNX = all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
OPENVINO = ONNX and find_spec("openvino") is not None
needs_onnx = pytest.mark.skipif(not ONNX, reason="needs the extra onnx: onnx, onnxscript and onnxruntime")
needs_openvino = pytest.mark.skipif(not OPENVINO, reason="needs the extra openvino")
ALL = {"confidence": 0.0, "nms_iou": 1.0, "candidates": 10_000, "max_boxes": 10_000}
"""Nothing is left to chance: of boxes that are scored nearly alike, rounding chooses which one is the repeat."""
THREE = {"backbone": {"name": "csp", "channels": [8, 8, 8, 16, 16], "depths": [1, 1, 1, 1], "levels": 3}}


def pictures(count: int = 3) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40 + 16 * k, 64, 3), dtype=np.uint8) for k in range(count)]


def largest_gap(run: Path, file: Path, **options: Any) -> tuple[float, int]:
    """How far results are apart, in pixels and numbers, and how many boxes were compared."""
    mine, theirs = unified.load(run, device="cpu", precision="fp32"), unified.load(file)
    pairs = zip(mine.predict(pictures(), **options), theirs.predict(pictures(), **options), strict=True)
    found = [(apart(a, b), len(a.boxes or ())) for a, b in pairs]
    return max(gap for gap, _ in found), sum(count for _, count in found)


@needs_onnx
def test_an_onnx_file_alone_has_all_that_is_needed(tmp_path: Path) -> None:
    """With boxes chosen in the graph; the file is taken away from the description beside it."""
    import onnx
    import onnxruntime

    run = make(tmp_path / "run", tasks="det,emb")
    made = export(Job(run, tmp_path / "out", "onnx", suppress=True, rules=RULES))
    assert made.parity.tolerance == 1e-4 and made.parity.worst.error <= 1e-4
    alone = Path(shutil.copy(made.file, tmp_path / "alone.onnx"))
    gap, count = largest_gap(run, alone, confidence=0.003, max_boxes=50)
    assert gap < 1e-3 and count > 10
    graph = onnx.load(str(alone)).graph
    assert {node.op_type for node in graph.node}.isdisjoint({"BatchNormalization"})
    assert b"/site-packages" not in alone.read_bytes() and b"exportable.py" not in alone.read_bytes()
    session = onnxruntime.InferenceSession(str(alone))
    assert session.get_inputs()[0].shape == ["batch", 3, "32*rows", "32*columns"]
    names = [each.name for each in session.get_outputs()]
    shown = ["det_boxes_xyxy", "det_scores", "det_labels", "det_count"]
    assert names == [*shown, "emb_image", "emb_map", "emb_box_embeddings"]
    (tmp_path / "bad.onnx").write_bytes(alone.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="cannot be opened") as caught:
        unified.load(tmp_path / "bad.onnx")
    assert "\n" not in str(caught.value)
    (made.folder / "unified.json").rename(tmp_path / "kept.json")
    assert unified.load(made.folder).tasks == ("det", "emb")  # the folder is its file
    (tmp_path / "kept.json").rename(made.folder / "unified.json")
    content = bytearray(made.file.read_bytes())
    content[len(content) // 2] ^= 1  # a bit of some weight, which onnxruntime would not notice
    made.file.write_bytes(content)
    for path in (made.folder, made.file):
        with pytest.raises(CheckpointError, match=r"model\.onnx does not match its SHA-256") as caught:
            unified.load(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("form", "package", "extra"), [("onnx", "onnxruntime", "onnx"), ("openvino", "openvino", "openvino")]
)
def test_a_missing_package_is_named(form: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = protocols.exporters.get(form).__module__
    monkeypatch.setattr(f"{module}.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"{package}, which is not installed: pip install .*\[{extra}\]"):
        protocols.exporters.get(form)().check("fp32")


def every_subset() -> list[Any]:
    """All seven of three tasks, in both formats; one of them in the short run."""
    tasks = ("det", "cls", "emb")
    subsets = [some for count in (1, 2, 3) for some in combinations(tasks, count)]
    long = [
        pytest.param(form, some, id=f"{form}-{'-'.join(some)}", marks=[pytest.mark.slow, *needs])
        for form, needs in (("onnx", [needs_onnx]), ("openvino", [needs_openvino]))
        for some in subsets
    ]
    return [pytest.param("openvino", ("cls",), id="short", marks=needs_openvino), *long]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize(("form", "tasks"), every_subset())
def test_every_subset_of_tasks_answers_like_the_network(
    form: str, tasks: tuple[str, ...], whole: Path, tmp_path: Path
) -> None:
    """At other sizes and batches than the graph was traced with, and in every way the file can be asked."""
    made = export(Job(whole, tmp_path / "out", form, tasks))
    assert {row.output.partition("_")[0] for row in made.parity.rows} == set(tasks)
    assert made.parity.worst.error <= 1e-4
    mine, theirs = unified.load(whole, device="cpu", precision="fp32", tasks=tasks), unified.load(made.folder)
    assert theirs.tasks == mine.tasks == tasks
    for words in (ALL, {**ALL, "size": 96, "batch_size": 2}):
        pairs = list(zip(mine.predict(pictures(), **words), theirs.predict(pictures(), **words), strict=True))
        assert all(type(a) is type(b) and apart(a, b) < 1e-3 for a, b in pairs)
    if "emb" in tasks:
        assert theirs.space == mine.space
        a, b = (torch.as_tensor(each.encode(pictures())) for each in (mine, theirs))
        assert torch.allclose(a, b, atol=1e-5, rtol=0)


@pytest.mark.slow
@needs_openvino
@pytest.mark.parametrize(("precision", "suppress"), [("fp32", True), ("fp32", False), ("fp16", False)])
def test_openvino_answers_like_the_network(precision: str, suppress: bool, tmp_path: Path) -> None:
    """Its tag head pools by reductions, which OpenVINO alone would get wrong for all pictures but the first."""
    heads = {"embed": {"width": 16}, "multilabel": {"width": 16, "pooling": "attention"}}
    run = make(tmp_path / "run", heads=heads)
    rules = RULES if suppress else {}
    made = export(Job(run, tmp_path / "out", "openvino", precision=precision, suppress=suppress, rules=rules))
    assert made.parity.passed
    if precision == "fp32":
        gap, count = largest_gap(run, made.folder, confidence=0.003, max_boxes=50)
        assert gap < 1e-3 and count > 10


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize("decode", [True, False], ids=["decoded", "as the head says"])
@pytest.mark.parametrize(
    ("head", "model"),
    [("detr", {}), ("detect_anchor", THREE), ("detect_free", {"neck": {"name": "identity"}})],
    ids=["detr", "anchors", "identity neck"],
)
def test_every_detection_head_becomes_onnx(head: str, model: dict[str, Any], decode: bool, tmp_path: Path) -> None:
    run = make(tmp_path / "run", head, "det", **model)
    made = export(Job(run, tmp_path / "out", "onnx", decode=decode))
    assert made.parity.worst.error <= 1e-4
    gap, count = largest_gap(run, made.file, **ALL)
    assert gap < 1e-3 and count > 0


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize("trunk", ["timm:resnet18", "timm:mobilenetv3_small_050"])
def test_trunks_of_timm_become_onnx(trunk: str, tmp_path: Path) -> None:
    run = make(tmp_path / "run", tasks="cls", backbone={"name": trunk})
    assert export(Job(run, tmp_path / "out", "onnx")).parity.worst.error <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torch_export", "aot_inductor", "torchscript"])
def test_formats_of_torch_answer_like_the_network(form: str, tmp_path: Path) -> None:
    run = make(tmp_path / "run", tasks="det,emb")
    made = export(Job(run, tmp_path / "out", form))
    assert made.parity.worst.error <= 1e-4
    if form == "torchscript":
        with pytest.raises(ConfigError, match="TorchScript"):
            unified.load(made.folder).predict(pictures()[0])
        return
    gap, _ = largest_gap(run, made.file, **ALL)
    assert gap < 1e-3


@pytest.mark.slow
@needs_openvino
@pytest.mark.skipif(find_spec("nncf") is None, reason="needs nncf, of the extra openvino")
def test_eight_bits_are_judged_by_their_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path / "cache"))
    run = make(tmp_path / "run", tasks="det", boxes=("disc", "ring", "square"))
    data = tmp_path / "shapes.yaml"
    data.write_text(
        "format: shapes\nlabelled: {det: all}\noptions: {level: easy, train: 16, val: 8, seed: 0, size: 96}\n"
    )
    job = Job(run, tmp_path / "out", "openvino", precision="int8", calibrate=str(data), samples=8, scored=8)
    made = export(job)
    assert capsys.readouterr().out == ""  # nncf draws bars, and --json has one object on standard output
    assert [(score.name, score.images) for score in made.scores] == [("det/AP", 8)]
    assert made.size < 1e6 and unified.load(made.folder).predict(pictures()[0]) is not None


def test_torch_and_the_door_know_all_formats() -> None:
    assert {"onnx", "openvino", "torch_export", "aot_inductor", "torchscript"} <= set(protocols.exporters.names())
    assert all(hasattr(protocols.exporters.get(name), "suffix") for name in protocols.exporters.names())
    assert torch.ops.unified.unrepeated is not None
