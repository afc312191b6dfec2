# SPDX-License-Identifier: Apache-2.0
"""Every check has something that it refuses, in one line that names the part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unified  # noqa: F401
from unified.contracts.protocols import Backbone, Head, Task
from unified.contracts.structures import Features, FeatureSpec, LossTerm, Prediction, TagOutput, known, positive
from unified.testing import ContractError, check_backbone, check_head, check_task


class Good(Head):
    """A head with nothing wrong about it; the others below change one thing each."""

    def __init__(self, spec: FeatureSpec, outputs: int) -> None:
        super().__init__()
        self.sites: Mapping[str, int] = {"pre.tags": sum(spec.channels)}
        self.out = nn.Linear(sum(spec.channels), outputs)

    def pooled(self, features: Features) -> Tensor:
        return torch.cat([x.mean(dim=(2, 3)) for x in features.maps], dim=1)

    def forward(self, features: Features, modulate: Any) -> Any:
        return TagOutput(self.out(modulate("pre.tags", self.pooled(features))))


class NoSites(Good):
    def __init__(self, spec: FeatureSpec, outputs: int) -> None:
        super().__init__(spec, outputs)
        del self.sites


class MissingSite(Good):
    def forward(self, features: Features, modulate: Any) -> Any:
        return TagOutput(self.out(self.pooled(features)))


class SecretSite(Good):
    def forward(self, features: Features, modulate: Any) -> Any:
        return TagOutput(modulate("post.tags", self.out(modulate("pre.tags", self.pooled(features)))))


class WrongWidth(Good):
    def __init__(self, spec: FeatureSpec, outputs: int) -> None:
        super().__init__(spec, outputs)
        self.sites = {"pre.tags": 7}


class DeafSite(Good):
    def forward(self, features: Features, modulate: Any) -> Any:
        modulate("pre.tags", self.pooled(features))
        return TagOutput(self.out(self.pooled(features)))


class Idle(Good):
    def __init__(self, spec: FeatureSpec, outputs: int) -> None:
        super().__init__(spec, outputs)
        self.spare = nn.Linear(2, 2)


class Neighbourly(Good):
    def forward(self, features: Features, modulate: Any) -> Any:
        x = modulate("pre.tags", self.pooled(features))
        return TagOutput(self.out(x + x.mean(dim=0)))


class Blind(Good):
    def forward(self, features: Features, modulate: Any) -> Any:
        x = self.pooled(features)
        return TagOutput(self.out(modulate("pre.tags", torch.ones_like(x))) + 1e-9 * self.out(x))


class Moody(Good):
    def forward(self, features: Features, modulate: Any) -> Any:
        x = modulate("pre.tags", self.pooled(features))
        return TagOutput(self.out(x) + torch.rand(()))


class Loose(Good):
    def forward(self, features: Features, modulate: Any) -> Any:
        return self.out(modulate("pre.tags", self.pooled(features)))


class Stranger(Good):
    def neighbours(self, site: str) -> Any:
        from unified.contracts.protocols import Neighbours, Port

        return Neighbours(after=(Port(nn.Linear(2, 2)),))


class Absent(Good):
    reads = ("p9",)


def test_a_good_head_passes() -> None:
    check_head(Good)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (NoSites, "declares no sites"),
        (MissingSite, "declares site 'pre.tags' and never calls modulate there"),
        (SecretSite, "calls modulate at site 'post.tags', which it does not declare"),
        (WrongWidth, "site 'pre.tags' has 144 channels and declares 7"),
        (DeafSite, "site 'pre.tags': the answer is the same whatever modulate returns"),
        (Idle, "parameter 'spare.weight' gets no gradient"),
        (Neighbourly, "changes with the other images of its batch"),
        (Blind, "does not depend on the image"),
        (Moody, "answer differently"),
        (Loose, "answers a Tensor; expected a frozen dataclass"),
        (Stranger, "names a layer that is not its own"),
        (Absent, "reads level 'p9'; the neck has p3, p4, p5"),
    ],
)
def test_a_broken_head_gets_one_line(head: type[Head], words: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_head(head)
    line = str(caught.value)
    assert line.startswith(f"head {__name__}.{head.__name__}: ") and words in line and "\n" not in line


class Fair(Task):
    """A task with nothing wrong about it: the tags of an image."""

    labels = "tags"
    primary = "error"
    scores = {"error": "mean distance between score and truth"}  # noqa: RUF012
    lower = frozenset({"error"})
    provides = ("tag_scores",)
    default_head = "multilabel"

    def __init__(self, name: str, vocabulary: Any) -> None:
        super().__init__()
        self.name, self.vocabulary, self.outputs = name, vocabulary, len(vocabulary.tags)

    def cost(self, output: TagOutput, batch: Any) -> tuple[Tensor, Tensor]:
        states = batch.states(self.name, self.outputs)
        wrong = output.logits.float() - positive(states).float()
        return wrong.square() * known(states), known(states).sum()

    def loss(self, output: TagOutput, batch: Any) -> Any:
        cost, count = self.cost(output, batch)
        return {"all": LossTerm(cost.sum(), count)}

    def predict(self, output: TagOutput, predictions: Any, **options: Any) -> Any:
        pairs = zip(predictions, output.logits, strict=True)
        return [replace(p, tag_scores=x.float().sigmoid(), tag_names=self.vocabulary.tags) for p, x in pairs]

    def metric(self) -> Any:
        return Error(self)


class Error:
    """Mean distance over what is known."""

    def __init__(self, task: Fair) -> None:
        self.task, self.off = task, list[float]()

    def update(self, output: TagOutput, predictions: Any, batch: Any) -> None:
        states = batch.states(self.task.name, self.task.outputs)
        self.off += (output.logits.sigmoid() - positive(states).float()).abs()[known(states)].tolist()

    def compute(self) -> dict[str, float]:
        return {"error": sum(self.off) / len(self.off)} if self.off else {}

    def curves(self) -> dict[str, Any]:
        return {}


class Mean(Fair):
    def loss(self, output: TagOutput, batch: Any) -> Any:
        cost, count = self.cost(output, batch)
        return {"all": LossTerm(cost.sum() / count.clamp(min=1), torch.tensor(1.0))}


class Scalar(Fair):
    def loss(self, output: TagOutput, batch: Any) -> Any:
        return self.cost(output, batch)[0].mean()


class Greedy(Fair):
    """Takes what nobody labelled for absent."""

    def cost(self, output: TagOutput, batch: Any) -> tuple[Tensor, Tensor]:
        states = batch.states(self.name, self.outputs)
        cost = (output.logits.float() - positive(states).float()).square()
        return cost, torch.tensor(float(cost.numel()))

    def loss(self, output: TagOutput, batch: Any) -> Any:
        cost, count = self.cost(output, batch)
        return {"all": LossTerm(cost.sum(), count)}


class Detached(Fair):
    def loss(self, output: TagOutput, batch: Any) -> Any:
        cost, count = self.cost(output, batch)
        return {"all": LossTerm(cost.sum().detach(), count)}


class Steep(Fair):
    def loss(self, output: TagOutput, batch: Any) -> Any:
        cost, count = self.cost(output, batch)
        return {"all": LossTerm(cost.sum() + (0 * output.logits.float()).sqrt().sum(), count)}


class Backward(Fair):
    def loss(self, output: TagOutput, batch: Any) -> Any:
        cost, count = self.cost(output, batch)
        return {"all": LossTerm(-cost.sum() + 0 * count + 1e3 * cost.sum().detach(), count)}


class Forgetful(Fair):
    def predict(self, output: TagOutput, predictions: Any, **options: Any) -> Any:
        return [Prediction(p.size, tag_scores=torch.zeros(3), tag_names=("a", "b", "c")) for p in predictions]


class Silent(Fair):
    def predict(self, output: TagOutput, predictions: Any, **options: Any) -> Any:
        return list(predictions)


class Boastful(Fair):
    def metric(self) -> Any:
        return type("Sure", (Error,), {"compute": lambda self: {"error": 0.0}})(self)


class Selfish(Fair):
    def metric(self) -> Any:
        told = {"evidence": lambda self: {}, "extend": lambda self, evidence: None}
        return type("Kept", (Error,), told)(self)


class Unexplained(Fair):
    primary = "mystery"


class Crashing(Fair):
    def loss(self, output: TagOutput, batch: Any) -> Any:
        return {"all": output.nothing}  # type: ignore[attr-defined]


def test_a_good_task_passes() -> None:
    check_task(Fair)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Mean, "expected 2: return a sum and a count, not a mean"),
        (Scalar, "loss() returns a Tensor; expected {name: LossTerm(sum, count)}"),
        (Greedy, "of which nothing is known"),
        (Detached, "no loss term has a gradient"),
        (Steep, "a gradient that is not finite"),
        (Backward, "expected it to fall"),
        (Forgetful, "predict() changes '"),
        (Silent, "predict() leaves tag_scores empty, which it provides"),
        (Boastful, "before any image was seen"),
        (Selfish, "expected {'error': "),
        (Unexplained, "primary score 'mystery' is not explained"),
        (Crashing, "AttributeError while testing that its loss is (sum, count) by name"),
    ],
)
def test_a_broken_task_gets_one_line(task: type[Task], words: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_task(task)
    line = str(caught.value)
    assert line.startswith(f"task {__name__}.{task.__name__}: ") and words in line and "\n" not in line


class Trunk(Backbone):
    """A trunk with nothing wrong about it."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = FeatureSpec(("p3", "p4"), (4, 8), (8, 16))
        self.first, self.second = nn.Conv2d(3, 4, 8, 8), nn.Conv2d(4, 8, 2, 2)

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.first(images)
        return x, self.second(x)

    def forward(self, images: Tensor, modulate: Any = None) -> Features:
        return Features(self.maps(images), self.spec.levels, self.spec.strides)


class WrongStride(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.spec = FeatureSpec(("p3", "p4"), (4, 8), (4, 8))


class WrongChannels(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.spec = FeatureSpec(("p3", "p4"), (4, 9), (8, 16))


class Lazy(Trunk):
    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.first(images)
        return x, self.second(x).detach()


class Mingling(Trunk):
    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.first(images - images.mean(dim=0))
        return x, self.second(x)


class Promising(Trunk):
    sites = {"trunk.s8": 4}  # noqa: RUF012


def test_a_good_trunk_passes() -> None:
    check_backbone(Trunk)


@pytest.mark.parametrize(
    ("trunk", "words"),
    [
        (WrongStride, "level 'p3' has shape"),
        (WrongChannels, "level 'p4' has shape"),
        (Lazy, "parameter 'second.weight' gets no finite gradient"),
        (Mingling, "changes with the other images of its batch"),
        (Promising, "declares site 'trunk.s8' and never calls modulate there"),
    ],
)
def test_a_broken_trunk_gets_one_line(trunk: type[Backbone], words: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_backbone(trunk)
    line = str(caught.value)
    assert line.startswith(f"backbone {__name__}.{trunk.__name__}: ") and words in line and "\n" not in line
