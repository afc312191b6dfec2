# SPDX-License-Identifier: Apache-2.0
"""What a part must be to take its place: the protocols a plug-in implements and the engine relies on.

Shapes follow the legend of :mod:`unified.contracts.structures`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from unified.contracts.registry import Registry
from unified.contracts.structures import Batch, Features, FeatureSpec, LossTerm, Prediction, Vocabulary

Modulate = Callable[[str, Tensor], Tensor]
"""``modulate(site, x)`` applies the implicit latents standing at a site; the identity where none stands."""

Labels = Literal["boxes", "tags", "identities", "none"]
"""The table of the annotations a task learns from; it decides what ``Annotations.states[task]`` is indexed by."""


class Backbone(nn.Module, ABC):
    """Images to the explicit features of several strides."""

    spec: FeatureSpec

    @abstractmethod
    def forward(self, images: Tensor) -> Features:
        """images: (B, 3, H, W) float in [0, 1]."""


class Neck(nn.Module, ABC):
    """Mixes the levels of a backbone. Built as ``cls(spec_of_the_backbone, **options)``."""

    spec: FeatureSpec

    @abstractmethod
    def forward(self, features: Features) -> Features: ...


class Head(nn.Module, ABC):
    """Reads features for one task. Built as ``cls(spec, outputs, **options)``.

    ``sites`` names the places inside the head where a latent may stand, with their channels; the head meets z only
    through ``modulate`` and never knows which task it serves.
    """

    sites: Mapping[str, int]

    @abstractmethod
    def forward(self, features: Features, modulate: Modulate) -> Any:
        """Returns one of the output structures, which the head's task understands."""


@dataclass(frozen=True)
class Curve:
    """One line of a plot: a metric's picture. x and y are of equal length."""

    x: Sequence[float]
    y: Sequence[float]
    label: str
    x_name: str
    y_name: str


class Metric(Protocol):
    """Gathers evidence over a validation set."""

    def update(self, output: Any, predictions: Sequence[Prediction], batch: Batch) -> None:
        """One batch: the head's raw output, the decoded predictions in input pixels, and the truth."""

    def compute(self) -> dict[str, float]:
        """Scores by short name, such as ``AP50``; a score that has no evidence is left out, never guessed."""

    def curves(self) -> dict[str, list[Curve]]:
        """Plots by name; empty where there is nothing to draw."""


class Task(nn.Module, ABC):
    """Targets, loss, predictions and metric of one kind of question. Built as ``cls(name, vocabulary, **options)``.

    A task is a module because some losses own parameters (the proxies of an embedding loss); these are trained and
    checkpointed but never exported.
    """

    labels: ClassVar[Labels] = "none"
    default_head: ClassVar[str]
    provides: ClassVar[tuple[str, ...]] = ()  # fields of Prediction this task fills
    uses: ClassVar[tuple[str, ...]] = ()  # fields another task must have filled before ``predict``
    primary: ClassVar[str]  # the score of ``metric()`` by which checkpoints are compared; higher is better

    name: str
    vocabulary: Vocabulary
    outputs: int  # what the head is asked for: classes, tags or embedding width

    @abstractmethod
    def loss(self, output: Any, batch: Batch) -> Mapping[str, LossTerm]:
        """Loss terms by name, each summed over labelled items with their number."""

    @abstractmethod
    def predict(self, output: Any, predictions: Sequence[Prediction], **options: Any) -> list[Prediction]:
        """Adds this task's fields to each image's prediction (input pixels). ``options``: the task's own, by name."""

    @abstractmethod
    def metric(self) -> Metric:
        """A fresh metric."""


class Latent(nn.Module, ABC):
    """A representation of implicit knowledge: ``() -> z`` (YOLOR eq. 6-8). Built as ``cls(channels, mean)``."""

    @abstractmethod
    def forward(self) -> Tensor:
        """z of shape (C,)."""


class Operator(nn.Module, ABC):
    """How z meets x: ``(x, z) -> x'`` (YOLOR eq. 3). Built as ``cls(channels)``; the identity at its initial z."""

    identity: ClassVar[float]  # the mean of z at which the operator changes nothing
    width: int  # channels of z

    @abstractmethod
    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x: (B, C, H, W) or (B, C); z: (width,). Returns the shape of x."""


@dataclass(frozen=True)
class Turn:
    """What one step does: which dataset it reads and which tasks it serves on it."""

    dataset: str
    tasks: tuple[str, ...]


class Schedule(Protocol):
    """Which dataset and tasks at which step: a pure function of (seed, step), the same on every rank."""

    def turn(self, step: int) -> Turn: ...


class Balancer(Protocol):
    """Makes one scalar of the tasks' losses."""

    def combine(self, losses: Mapping[str, Tensor]) -> Tensor: ...


backbones: Registry[Backbone] = Registry("backbone", "unified.backbones")
necks: Registry[Neck] = Registry("neck", "unified.necks")
heads: Registry[Head] = Registry("head", "unified.heads")
tasks: Registry[Task] = Registry("task", "unified.tasks")
datasets: Registry[Any] = Registry("dataset format", "unified.datasets")
balancers: Registry[Any] = Registry("balancer", "unified.balancers")
