# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.machinery
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import unified  # noqa: F401
from unified import _torchvision
from unified._torchvision import TorchvisionFinder, compiled_operators_load, greedy_nms, watch

ROOT = Path(__file__).resolve().parent.parent


def overlap(a: list[float], b: list[float]) -> float:
    sides = [max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1)]
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return sides[0] * sides[1] / (sum(areas) - sides[0] * sides[1])


def by_hand(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> list[int]:
    """Greedy suppression as a person would do it, one box at a time."""
    waiting = sorted(range(len(boxes)), key=lambda i: (-scores[i].item(), i))
    kept: list[int] = []
    for i in waiting:
        if all(overlap(boxes[i].tolist(), boxes[k].tolist()) <= threshold for k in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("count", [0, 1, 60])
def test_greedy_nms_equals_the_long_way(threshold: float, count: int) -> None:
    low = torch.rand(count, 2, dtype=torch.float64) * 40
    boxes = torch.cat([low, low + 4 + torch.rand(count, 2, dtype=torch.float64) * 30], dim=-1)
    scores = (torch.rand(count) * 10).round() / 10  # many ties
    found = greedy_nms(boxes, scores, threshold)
    assert found.dtype == torch.int64
    assert found.tolist() == by_hand(boxes, scores, threshold)


def test_of_equal_scores_the_first_comes_first() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 11], [50, 50, 60, 61]])
    assert greedy_nms(boxes, torch.full((4,), 0.5), 0.5).tolist() == [0, 1]
    assert greedy_nms(boxes, torch.full((4,), 0.5), 0.99).tolist() == [0, 1, 2, 3]


def test_an_overlap_of_just_the_threshold_is_kept() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2]])  # IoU 0.5
    assert greedy_nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]
    assert greedy_nms(boxes, torch.tensor([0.9, 0.8]), 0.49).tolist() == [0]


def test_batched_nms_works_here() -> None:
    from torchvision.ops import batched_nms, nms

    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9.5]])
    scores = torch.tensor([0.5, 0.9, 0.7])
    assert nms(boxes, scores, 0.5).tolist() == [1]
    assert batched_nms(boxes, scores, torch.tensor([0, 1, 1]), 0.5).tolist() == [1, 0]


class _Found:
    """What the mend did to a spec."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, loads: bool) -> None:
        self.loader = object()
        self.defined: list[bool] = []
        spec = importlib.machinery.ModuleSpec("torchvision", self.loader, origin="/packages/torchvision/__init__.py")
        monkeypatch.setattr(importlib.machinery.PathFinder, "find_spec", lambda name, path=None: spec)
        monkeypatch.setattr(_torchvision, "compiled_operators_load", lambda package: loads)
        monkeypatch.setattr(_torchvision, "define_operators", lambda: self.defined.append(True))
        finder = TorchvisionFinder()
        monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
        assert finder.find_spec("numpy") is None
        assert finder in sys.meta_path
        finder.find_spec("torchvision")  # as whoever only asks whether it is there
        self.spec = finder.find_spec("torchvision")


def test_nothing_is_changed_where_the_library_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _Found(monkeypatch, loads=True)
    assert found.spec.loader is found.loader
    assert found.defined == []


def test_where_it_does_not_the_operators_are_defined_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _Found(monkeypatch, loads=False)
    assert found.defined == [], "asking defines nothing"
    assert isinstance(found.spec.loader, _torchvision._MendingLoader)


def test_the_mended_package_believes_that_its_operators_are_there() -> None:
    def complain() -> None:
        raise RuntimeError("no operators")

    class Own:
        def exec_module(self, module: types.ModuleType) -> None:
            assert hasattr(torch.ops.torchvision, "nms"), "the operators come first"
            module.ops = types.SimpleNamespace(boxes=types.SimpleNamespace(_assert_has_ops=complain))

    module = types.ModuleType("torchvision")
    _torchvision._MendingLoader(Own()).exec_module(module)
    module.ops.boxes._assert_has_ops()


def test_a_library_that_cannot_be_opened_is_noticed(tmp_path: Path) -> None:
    assert not compiled_operators_load(tmp_path)
    (tmp_path / "_C.so").write_bytes(b"no library")
    assert not compiled_operators_load(tmp_path)
    good = next(path for path in (Path(torch.__file__).parent / "lib").glob("libc10*"))
    (tmp_path / "_C.so").unlink()
    (tmp_path / "_C.so").symlink_to(good)
    assert compiled_operators_load(tmp_path)


def test_it_watches_once_and_only_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if not isinstance(f, TorchvisionFinder)])
    monkeypatch.setattr(sys, "modules", {**sys.modules, "torchvision": sys})
    watch()
    assert not any(isinstance(finder, TorchvisionFinder) for finder in sys.meta_path)
    monkeypatch.delitem(sys.modules, "torchvision")
    watch()
    watch()
    assert sum(isinstance(finder, TorchvisionFinder) for finder in sys.meta_path) == 1


def test_a_fresh_process_imports_torchvision_through_the_door() -> None:
    """Also where the compiled library is made to fail: the first import defines nms and goes on."""
    code = (
        "import unified, unified._torchvision as mend\n"
        "mend.compiled_operators_load = lambda package: False\n"
        "import importlib.util\n"
        "importlib.util.find_spec('torchvision')\n"  # as packages do that only ask whether it is there
        "import torch, torchvision\n"
        "from torchvision.ops import batched_nms\n"
        "boxes = torch.tensor([[0., 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9]])\n"
        "print(batched_nms(boxes, torch.tensor([.5, .9, .9]), torch.tensor([0, 1, 1]), .5).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[1, 0]"
