# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from unified.heads.embed import EmbedHead
from unified.tasks.embedding import EmbeddingTask
from unified.tasks.embedding.jitter import jittered
from unified.tasks.embedding.loss import PairLoss, ProxyLoss

from unified.boxes import iou_xyxy
from unified.contracts.errors import ConfigError
from unified.contracts.structures import (
    Annotations,
    Batch,
    EmbeddingOutput,
    Features,
    FeatureSpec,
    Frame,
    LabelState,
    LossTerm,
    Prediction,
    Vocabulary,
)

IGNORE, POSITIVE = int(LabelState.IGNORE), int(LabelState.POSITIVE)
NAMED = Vocabulary(identities=("a", "b", "c", "d"), image_identities=("x", "y", "z"))


def seen(boxes: list[list[float]], identities: list[int], states: list[int], image: int = -1) -> Annotations:
    count = len(boxes)
    return Annotations(
        boxes_xyxy=torch.tensor(boxes).reshape(-1, 4),
        box_labels=torch.zeros(count, dtype=torch.int64),
        box_states=torch.tensor(states, dtype=torch.int8),
        box_identities=torch.tensor(identities, dtype=torch.int64),
        box_areas=torch.ones(count),
        box_crowd=torch.zeros(count, dtype=torch.bool),
        identity=image,
    )


def batch_of(*annotations: Annotations) -> Batch:
    frames = tuple(Frame(f"image{i}", (64, 64)) for i in range(len(annotations)))
    return Batch(torch.zeros(len(annotations), 3, 64, 64), annotations, frames)


def output_of(batch: int, dim: int = 6) -> EmbeddingOutput:
    image = F.normalize(torch.randn(batch, dim), dim=1).requires_grad_()
    return EmbeddingOutput(image, torch.randn(batch, dim, 8, 8).requires_grad_(), 8)


LEFT, RIGHT, LOW = [0.0, 0.0, 16.0, 16.0], [40.0, 0.0, 56.0, 16.0], [8.0, 40.0, 24.0, 56.0]


def test_normalized_softmax_by_hand() -> None:
    loss = ProxyLoss("normalized_softmax", 2, 2, temperature=0.5)
    loss.criterion.W.data = torch.tensor([[3.0, 0.0], [0.0, 0.2]])  # columns: proxies of any length
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    total, count = loss(vectors, torch.tensor([0, 1]))

    def cross_entropy(right: float, wrong: float) -> float:
        return math.log(1 + math.exp((wrong - right) / 0.5))

    assert count == 2
    assert total.item() == pytest.approx(cross_entropy(1, 0) + cross_entropy(0.8, 0.6))


def test_proxy_anchor_by_hand() -> None:
    loss = ProxyLoss("proxy_anchor", 2, 2, temperature=0.25)  # scale 4, margin 0.1
    loss.criterion.proxies.data = torch.eye(2)
    total, count = loss(torch.tensor([[0.6, 0.8], [1.0, 0.0]]), torch.tensor([0, 0]))
    pulled = math.log(1 + math.exp(-4 * (0.6 - 0.1)) + math.exp(-4 * (1 - 0.1)))  # one proxy has positives
    pushed = math.log(1 + math.exp(4 * (0.8 + 0.1)) + math.exp(4 * (0 + 0.1))) / 2  # over both proxies
    assert count == 2
    assert total.item() / 2 == pytest.approx(pulled + pushed, rel=1e-5)  # Kim et al. 2020, eq. 4


def test_supcon_by_hand() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    total, count = PairLoss("supcon", temperature=0.5)(vectors, torch.tensor([7, 7, 9]))
    first = -math.log(math.exp(1.6) / (math.exp(1.6) + math.exp(0)))
    second = -math.log(math.exp(1.6) / (math.exp(1.6) + math.exp(1.2)))
    assert count == 2  # the third has nobody to be near
    assert total.item() == pytest.approx(first + second, rel=1e-5)
    (mean, anchors) = PairLoss("ntxent", temperature=0.5)(vectors, torch.tensor([7, 7, 9]))
    assert mean.item() / anchors.item() == pytest.approx((first + second) / 2, rel=1e-5)  # one pair each: the same


@pytest.mark.parametrize("kind", ["supcon", "ntxent"])
@pytest.mark.parametrize("identities", [[], [3], [0, 1, 2], [5, 5, 5]])
def test_pairs_need_something_to_draw_near_and_something_to_hold_apart(kind: str, identities: list[int]) -> None:
    vectors = torch.randn(len(identities), 4, requires_grad=True)
    total, count = PairLoss(kind, 0.1)(F.normalize(vectors, dim=1), torch.tensor(identities, dtype=torch.int64))
    total.backward()
    assert (total.item(), count.item()) == (0.0, 0.0)


def test_only_labelled_boxes_teach() -> None:
    task = EmbeddingTask("emb", NAMED, dim=6, jitter=0)
    batch = batch_of(
        seen([LEFT, RIGHT, LOW], [2, -1, 1], [POSITIVE, POSITIVE, IGNORE]),
        seen([LEFT, RIGHT], [4, 0], [POSITIVE, POSITIVE]),  # 4 is not in the training vocabulary
        Annotations(),
    )
    output = output_of(3)
    term = task.loss(output, batch)["boxes"]
    assert term.count == 2
    term.sum.backward()
    assert output.map.grad is not None
    touched = output.map.grad.abs().sum(dim=1) > 0
    expected = torch.zeros(3, 8, 8, dtype=torch.bool)
    expected[0, :3, :3] = True  # samples from 1.6 to 14.4 pixels lie between the middles of cells 0 and 2
    expected[1, :3, 4:8] = True
    assert torch.equal(touched, expected)


def test_box_loss_is_that_of_the_vectors_alone() -> None:
    task = EmbeddingTask("emb", NAMED, dim=6, jitter=0, temperature=0.3)
    batch = batch_of(seen([LEFT, RIGHT], [2, 0], [POSITIVE] * 2))
    output = output_of(1)
    term = task.loss(output, batch)["boxes"]
    (vectors,) = output.box_vectors([batch.annotations[0].boxes_xyxy])
    proxies = F.normalize(task.box_loss.criterion.W, dim=0)
    expected = F.cross_entropy(vectors @ proxies / 0.3, torch.tensor([2, 0]), reduction="sum")
    assert torch.allclose(term.sum, expected, rtol=1e-5)


def test_only_labelled_images_teach() -> None:
    task = EmbeddingTask("emb", NAMED, dim=6)
    output = output_of(4)
    term = task.loss(output, batch_of(*(seen([], [], [], image) for image in (1, -1, 3, 2))))["images"]
    assert term.count == 2
    (grad,) = torch.autograd.grad(term.sum, output.image)
    assert (grad.abs().sum(dim=1) > 0).tolist() == [True, False, False, True]


def test_views_are_contrasted_within_the_batch() -> None:
    task = EmbeddingTask("emb", Vocabulary(), dim=6)
    output = output_of(5)
    term = task.loss(output, batch_of(*(seen([], [], [], image) for image in (812, 40, 812, -1, 40))))["images"]
    assert term.count == 4
    (grad,) = torch.autograd.grad(term.sum, output.image)
    assert (grad.abs().sum(dim=1) > 0).tolist() == [True, True, True, False, True]
    assert list(task.parameters()) == []


@pytest.mark.parametrize("vocabulary", [NAMED, Vocabulary()])
def test_nothing_labelled_gives_zeros_on_the_graph(vocabulary: Vocabulary) -> None:
    task = EmbeddingTask("emb", vocabulary, dim=6)
    output = output_of(2)
    terms = task.loss(output, batch_of(seen([LEFT], [-1], [POSITIVE]), Annotations()))
    assert [(t.sum.item(), t.count.item()) for t in terms.values()] == [(0.0, 0.0)] * 2
    sum(t.sum for t in terms.values()).backward()
    for touched in (output.map, output.image, *task.parameters()):
        assert touched.grad is not None and not touched.grad.any()


def test_float32_under_autocast() -> None:
    task = EmbeddingTask("emb", NAMED, dim=6)
    batch = batch_of(seen([LEFT, RIGHT], [2, 0], [POSITIVE] * 2, image=1))
    output = output_of(1)
    exact = task.loss(output, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same = task.loss(output, batch)
        half = task.loss(replace(output, map=output.map.bfloat16()), batch)
    for name in exact:
        assert torch.equal(exact[name].sum, same[name].sum)
        assert half[name].sum.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in task.parameters())


def losses(task: EmbeddingTask, output: EmbeddingOutput, batch: Batch) -> dict[str, LossTerm]:
    return dict(task.loss(output, batch))


def test_order_of_the_batch_does_not_matter_even_with_jitter() -> None:
    task = EmbeddingTask("emb", NAMED, dim=6, jitter=0.2)
    batch = batch_of(*(seen([LEFT, RIGHT], [i, 3 - i], [POSITIVE] * 2, image=i) for i in range(3)))
    output = output_of(3)
    turned = Batch(batch.images.flip(0), batch.annotations[::-1], batch.frames[::-1])
    back = EmbeddingOutput(output.image.flip(0), output.map.flip(0), 8)
    for name, term in losses(task, output, batch).items():
        assert torch.allclose(term.sum, losses(task, back, turned)[name].sum, rtol=1e-5)


def test_jitter_is_a_bounded_pure_function_and_leaves_the_global_generator_alone() -> None:
    corner = torch.rand(500, 2) * 100
    boxes = torch.cat([corner, corner + 10 + torch.rand(500, 2) * 60], dim=1)
    before = torch.get_rng_state()
    moved = jittered(boxes, 0.1, "image7")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert torch.equal(jittered(boxes, 0.1, "image7"), moved)
    assert not torch.equal(jittered(boxes, 0.1, "image8"), moved)
    assert not torch.equal(jittered(boxes + 1, 0.1, "image7"), moved + 1)  # another augmentation, another draw
    assert torch.equal(jittered(boxes, 0.0, "image7"), boxes)
    size, new_size = boxes[:, 2:] - boxes[:, :2], moved[:, 2:] - moved[:, :2]
    shift = (moved[:, 2:] + moved[:, :2] - boxes[:, 2:] - boxes[:, :2]).abs() / 2 / size
    assert 0.09 < shift.max() <= 0.1001
    assert 0.9 - 1e-4 <= (new_size / size).min() < 0.91 and 1.09 < (new_size / size).max() <= 1.1001
    assert iou_xyxy(boxes, moved).min() > 0.6


def test_predict_reads_the_predicted_boxes() -> None:
    task = EmbeddingTask("emb", NAMED, dim=6)
    output = output_of(3)
    boxes = torch.tensor([LEFT, LOW])
    before = [Prediction((64, 64), boxes_xyxy=boxes), Prediction((64, 64)), Prediction((64, 64), boxes_xyxy=boxes[:0])]
    some, none, empty = task.predict(output, before)
    assert some.box_embeddings is not None and empty.box_embeddings is not None
    assert torch.equal(some.box_embeddings, output.box_vectors([boxes, boxes[:0], boxes[:0]])[0])
    assert torch.allclose(some.box_embeddings.norm(dim=1), torch.ones(2), atol=1e-6)
    assert none.box_embeddings is None and empty.box_embeddings.shape == (0, 6)
    for prediction, vector in zip((some, none, empty), output.image, strict=True):
        assert prediction.embedding is not None and torch.equal(prediction.embedding, vector)
        assert not prediction.embedding.requires_grad
    assert not some.box_embeddings.requires_grad and some.boxes_xyxy is boxes


def test_contract_words() -> None:
    task = EmbeddingTask("emb", NAMED, dim=6)
    assert (task.labels, task.default_head, task.outputs, task.primary) == ("identities", "embed", 6, "R@1")
    assert task.uses == ("boxes_xyxy",) and task.provides == ("embedding", "box_embeddings")
    assert sorted(p.shape for p in task.parameters()) == [(6, 3), (6, 4)]


def test_bad_options_are_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown loss 'supcn'.*did you mean 'supcon'"):
        EmbeddingTask("emb", NAMED, box_loss="supcn")
    with pytest.raises(ConfigError, match=r"task 'emb': loss 'proxy_anchor' needs named identities"):
        EmbeddingTask("emb", Vocabulary(), image_loss="proxy_anchor")
    with pytest.raises(ConfigError, match=r"temperature above 0 .* got 128, 0 and 0.1"):
        EmbeddingTask("emb", NAMED, temperature=0)


# Learning, end to end on a small scale.


class Stem(nn.Module):
    """Three levels from one strided convolution each."""

    spec = FeatureSpec(("p3", "p4", "p5"), (16, 16, 16), (8, 16, 32))

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.SiLU(), nn.Conv2d(16, 16, 1), nn.SiLU())
        self.rest = nn.ModuleList(nn.Sequential(nn.Conv2d(16, 16, 2, 2), nn.SiLU()) for _ in range(2))

    def forward(self, images: Tensor) -> Features:
        maps = [self.first(images)]
        for stage in self.rest:
            maps.append(stage(maps[-1]))
        return Features(tuple(maps), self.spec.levels, self.spec.strides)


PATCHES = torch.tensor([[[0.9, 0.1, 0.1], [0.9, 0.8, 0.1]], [[0.1, 0.1, 0.9], [0.9, 0.8, 0.1]],
                        [[0.9, 0.1, 0.1], [0.1, 0.1, 0.9]], [[0.1, 0.8, 0.2], [0.9, 0.1, 0.9]]])  # fmt: skip


def patches(generator: torch.Generator, count: int) -> Batch:
    """One striped patch of two colours an image, anywhere, of any size and in any light."""
    images, annotations = torch.rand(count, 3, 64, 64, generator=generator) * 0.5, []
    for image in images:
        identity = int(torch.randint(4, (1,), generator=generator))
        side = int(torch.randint(16, 33, (1,), generator=generator))
        x, y = torch.randint(0, 64 - side, (2,), generator=generator).tolist()
        stripes = (torch.arange(side) // 4) % 2
        light = 0.6 + 0.4 * torch.rand(1, generator=generator)
        image[:, y : y + side, x : x + side] = PATCHES[identity][stripes].T[:, :, None] * light
        annotations.append(seen([[x, y, x + side, y + side]], [identity], [POSITIVE]))
    return replace(batch_of(*annotations), images=images)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_learns_to_tell_patches_apart(one_thread: None) -> None:
    stem, task = Stem(), EmbeddingTask("emb", NAMED, dim=16)
    head = EmbedHead(Stem.spec, 16, width=24)

    def answer(batch: Batch) -> EmbeddingOutput:
        return head(stem(batch.images), lambda site, x: x)

    def score() -> float:
        metric, batch = task.metric(), patches(torch.Generator().manual_seed(99), 150)
        with torch.no_grad():
            metric.update(answer(batch), [], batch)
        return metric.compute()["mAP@R"]

    untrained = score()
    parameters = [*stem.parameters(), *head.parameters(), *task.parameters()]
    optimizer, generator = torch.optim.AdamW(parameters, lr=5e-3), torch.Generator().manual_seed(1)
    for _ in range(80):
        batch = patches(generator, 24)
        term = task.loss(answer(batch), batch)["boxes"]
        optimizer.zero_grad()
        (term.sum / term.count).backward()
        optimizer.step()
    head.eval()
    assert score() > untrained + 0.25
