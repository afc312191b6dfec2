# SPDX-License-Identifier: Apache-2.0
"""What becomes of a network and its answers on their way into a graph and back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from exportable import make
from torch import Tensor, nn

from unified.contracts import protocols
from unified.contracts.errors import CheckpointError, ConfigError
from unified.contracts.exporting import Suppression
from unified.contracts.structures import (
    AnchorBoxOutput,
    EmbeddingOutput,
    PointBoxOutput,
    QueryBoxOutput,
    TagOutput,
    Vocabulary,
)
from unified.export.artifact import Outlet
from unified.export.endings import Boxes, Fields, Shown, Tags, ending_for
from unified.export.graph import folded, plan
from unified.export.matching import matched
from unified.export.parity import Parity, Row, _row, compare
from unified.export.suppression import box_embeddings, shown
from unified.trained import load_trained

B, K, P = 3, 4, 60


def boxes(seed: int, points: int = P) -> Tensor:
    torch.manual_seed(seed)
    low = torch.rand(B, points, 2) * 60
    return torch.cat([low, low + 4 + torch.rand(B, points, 2) * 40], dim=-1)


def outputs() -> dict[str, Any]:
    torch.manual_seed(0)
    anchors = torch.rand(2, 3, 2) * 50 + 5
    return {
        "points": PointBoxOutput(
            torch.randn(B, P, 4 * 8), torch.randn(B, P, K), torch.rand(P, 2) * 64, torch.full((P,), 8.0), 8
        ),
        "anchors": AnchorBoxOutput(
            (torch.randn(B, 3, 4, 6, 5 + K), torch.randn(B, 3, 2, 3, 5 + K)), anchors, strides=(16, 32)
        ),
        "queries": QueryBoxOutput(torch.randn(2, B, P, K), torch.rand(2, B, P, 4), size=(64, 96)),
        "tags": TagOutput(torch.randn(B, K) * 30),
        "vectors": EmbeddingOutput(torch.randn(B, 5), torch.randn(B, 5, 8, 12), stride=8),
    }


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


@pytest.mark.parametrize("kind", list(outputs()))
def test_fields_come_back_as_they_went(kind: str) -> None:
    output = outputs()[kind]
    ending = Fields()
    facts = ending.facts(output, (64, 96))
    back = ending.restore(ending.tensors(output), facts, type(output), (64, 96))
    assert all(equal(getattr(output, name), getattr(back, name)) for name in vars(output))
    with pytest.raises(CheckpointError, match="answers"):
        ending.restore(ending.tensors(output), facts, SimpleNamespace, (64, 96))


@pytest.mark.parametrize("kind", ["points", "anchors", "queries"])
def test_decoded_boxes_come_back_as_they_went(kind: str) -> None:
    output = outputs()[kind]
    ending = ending_for(output, decode=True, rule=None)
    assert isinstance(ending, Boxes)
    back = ending.restore(ending.tensors(output), ending.facts(output, (64, 96)), type(output), (64, 96))
    assert all(torch.equal(a, b) for a, b in zip(output.decode(), back.decode(), strict=True))
    assert back.single == (kind == "queries")


def test_tag_scores_come_back_to_the_last_digit() -> None:
    output = outputs()["tags"]
    ending = ending_for(output, decode=True, rule=None)
    assert isinstance(ending, Tags)
    back = ending.restore(ending.tensors(output), {}, TagOutput, (64, 64))
    assert torch.allclose(back.logits.sigmoid(), output.logits.sigmoid(), atol=1e-7, rtol=0)


def test_an_answer_that_cannot_be_told_is_refused() -> None:
    with pytest.raises(ConfigError, match="dataclass"):
        ending_for(object(), decode=False, rule=None)


RULES = (Suppression(), Suppression(0.3, 0.4, 10, 50), Suppression(0.2, 0.5, 300, 1000, False), Suppression(0.5, 1.0))


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_suppression_of_a_batch_shows_what_the_task_shows(rule: Suppression, seed: int) -> None:
    """The detection task's own selection, image by image, by torchvision's batched_nms."""
    where, scores = boxes(seed), torch.rand(B, P, K) ** 2
    task = protocols.tasks.get("det")("det", Vocabulary(boxes=tuple("abcd")), **vars(rule))
    expected = task.selection(where, scores)  # type: ignore[operator]
    got = shown(where, scores, rule)
    assert any(len(each[0]) < P * K for each in expected) and any(len(each[0]) for each in expected)
    for image, (b, s, labels) in enumerate(expected):
        count = int(got["count"][image])
        assert count == len(b)
        assert torch.equal(got["boxes_xyxy"][image, :count], b)
        assert torch.equal(got["scores"][image, :count], s)
        assert torch.equal(got["labels"][image, :count], labels)
        assert not got["boxes_xyxy"][image, count:].any() and not got["scores"][image, count:].any()


def test_shown_boxes_come_back_best_first_and_nothing_else() -> None:
    output = outputs()["points"]
    rule = Suppression(0.6, 0.5, 20, 100)
    ending = Shown(rule)
    tensors = ending.tensors(output)
    back = ending.restore(tensors, ending.facts(output, (64, 64)), PointBoxOutput, (64, 64))
    task = protocols.tasks.get("det")("det", Vocabulary(boxes=tuple("abcd")), **vars(rule))
    again = task.selection(*back.decode())  # type: ignore[operator]
    for image, (found, expected) in enumerate(zip(again, task.selection(*output.decode()), strict=True)):  # type: ignore[operator]
        assert len(expected[0]) == int(tensors["count"][image])
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_vectors_of_padded_boxes_are_those_of_the_boxes() -> None:
    output, where = outputs()["vectors"], boxes(5, points=7)
    expected = torch.stack(output.box_vectors(list(where)))
    assert torch.allclose(box_embeddings(output, where), expected, atol=1e-6)


@pytest.mark.parametrize("latents", [True, False])
def test_folding_and_fusing_change_nothing_but_the_number_of_layers(latents: bool, tmp_path: Path) -> None:
    words = {} if latents else {"latents": []}
    trained = load_trained(make(tmp_path / "m", **words))
    before = {k: v.clone() for k, v in trained.network.state_dict().items()}
    graph = plan(trained, decode=True, suppress=False)
    small = graph.on(folded(trained.network))
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(graph(images), small(images), strict=True):
            assert torch.allclose(a, b, atol=2e-5, rtol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in small.modules())
    assert not list(small.network.bank.entries())
    assert all(torch.equal(v, before[k]) for k, v in trained.network.state_dict().items())


def arrays(count: int = 5) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return {
        "d_boxes_xyxy": rng.uniform(0, 60, (1, 8, 4)).astype(np.float32),
        "d_scores": np.sort(rng.uniform(0.3, 1, (1, 8)).astype(np.float32))[:, ::-1].copy(),
        "d_labels": rng.integers(0, 3, (1, 8)),
        "d_count": np.array([count]),
        "e_vectors": rng.normal(size=(1, 8, 3)).astype(np.float32),
    }


OUTLETS = (
    Outlet(
        "d",
        "shown",
        {key: f"d_{key}" for key in ("boxes_xyxy", "scores", "labels", "count")},
        {"rule": {"confidence": 0.05}},
    ),
    Outlet("e", "fields", {}, {}, {"d_boxes_xyxy": "e_vectors"}),
)


def worst(mine: dict[str, Any], theirs: dict[str, Any]) -> float:
    a, b = matched(OUTLETS, mine, theirs)
    return max(_row(name, a[name], b[name]).error for name in mine)


def test_another_order_of_boxes_is_no_difference() -> None:
    mine, theirs = arrays(), arrays()
    for name in ("d_boxes_xyxy", "d_scores", "d_labels", "e_vectors"):
        theirs[name][:, [1, 2]] = theirs[name][:, [2, 1]]
    assert worst(mine, theirs) == 0
    theirs["e_vectors"][0, 1] += 0.5
    assert worst(mine, theirs) > 0.1


@pytest.mark.parametrize("name", ["d_boxes_xyxy", "d_scores", "d_labels"])
def test_another_box_is_a_difference(name: str) -> None:
    mine, theirs = arrays(), arrays()
    theirs[name][0, 3] = theirs[name][0, 3] + 1
    assert worst(mine, theirs) > 1e-2


@pytest.mark.parametrize("count", [4, 0])
def test_a_missing_box_is_a_difference_unless_it_stands_on_the_edge(count: int) -> None:
    assert worst(arrays(), arrays(count)) >= 0.2
    edge, less = arrays(), arrays(4)
    edge["d_scores"][0, 4] = less["d_scores"][0, 4] = 0.0504
    assert worst(edge, less) == 0


def test_a_number_that_is_none_and_another_shape_never_pass() -> None:
    one = np.ones((2, 3), dtype=np.float32)
    for other in (one * np.nan, one[:, :2], one * np.inf):
        assert not Parity("x", "fp32", 1e9, (), (_row("a", one, other),)).passed
    assert Parity("x", "fp32", 1e-4, (), (_row("a", one, one),)).passed


def test_the_error_of_pixels_is_a_share_of_them() -> None:
    assert _row("a", np.array([100.0]), np.array([100.01])).error == pytest.approx(1e-4)
    assert _row("a", np.array([0.1]), np.array([0.11])).error == pytest.approx(1e-2)


def test_several_batches_and_sizes_are_compared(tmp_path: Path) -> None:
    trained = load_trained(make(tmp_path / "m", tasks="cls"))
    graph = plan(trained, decode=True, suppress=False)
    seen: list[tuple[int, ...]] = []

    def runner(images: Any, names: Any) -> dict[str, Any]:
        seen.append(images.shape)
        with torch.no_grad():
            return dict(zip(names, (x.numpy() for x in graph(torch.from_numpy(images))), strict=True))

    rows, shapes = compare(graph, runner, 64, 32)
    assert shapes == seen and {s[0] for s in seen} == {1, 3, 2} and any(s[2] != s[3] for s in seen)
    assert [row.output for row in rows] == ["cls_scores"] and isinstance(rows[0], Row) and rows[0].error == 0
