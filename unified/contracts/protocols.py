# SPDX-License-Identifier: Apache-2.0
"""What a part must be to take its place: the protocols a plug-in implements and the engine relies on.

Shapes follow the legend of :mod:`unified.contracts.structures`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from unified.contracts.registry import Registry
from unified.contracts.structures import Annotations, Batch, Features, FeatureSpec, LossTerm, Prediction, Vocabulary

Modulate = Callable[[str, Tensor], Tensor]
"""``modulate(site, x)`` applies the implicit latents standing at a site; the identity where none stands."""

Labels = Literal["boxes", "tags", "identities", "none"]
"""The table of the annotations a task learns from; it decides what ``Annotations.states[task]`` is indexed by."""


class Backbone(nn.Module, ABC):
    """Images to the explicit features of several strides.

    ``sites`` names the places inside the trunk where a latent may stand (``trunk.s8``), with their channels. A trunk
    without any may leave ``modulate`` out of its ``forward``: it is only called with one where a latent stands.
    """

    spec: FeatureSpec
    sites: Mapping[str, int] = MappingProxyType({})

    @abstractmethod
    def forward(self, images: Tensor, modulate: Modulate | None = None) -> Features:
        """images: (B, 3, H, W) float in [0, 1]."""

    def by_depth(self) -> tuple[tuple[nn.Parameter, ...], ...]:
        """Its parameters by stage, the first that an image meets come first; for rates that fall with the depth."""
        own = tuple(self.parameters(recurse=False))
        stages = [tuple(child.parameters()) for child in self.children()]
        return tuple(stage for stage in (own, *stages) if stage)


class Neck(nn.Module, ABC):
    """Mixes the levels of a backbone. Built as ``cls(spec_of_the_backbone, **options)``."""

    spec: FeatureSpec

    @abstractmethod
    def forward(self, features: Features) -> Features: ...


@dataclass(frozen=True)
class Port:
    """A convolution or linear layer beside a site, or those of its outputs that the site has to do with.

    ``norm`` is the batch norm that follows the layer directly, where there is one. The layer stands nowhere else.
    """

    layer: nn.Module  # nn.Conv2d or nn.Linear
    norm: nn.Module | None = None
    rows: slice = field(default_factory=lambda: slice(None))  # output channels of the layer


@dataclass(frozen=True)
class Neighbours:
    """The layers that touch a site with nothing in between, so that a constant z there can become part of them.

    ``before`` makes exactly the site's tensor and nobody else reads it; ``bias`` is a parameter (C,) that is the last
    thing added to the tensor; ``after`` are the only readers of the site's result. Between them and the site may stand
    only the sites named in ``through``.
    """

    before: Port | None = None
    after: tuple[Port, ...] = ()
    bias: nn.Parameter | None = None
    through: tuple[str, ...] = ()


class Head(nn.Module, ABC):
    """Reads features for one task. Built as ``cls(spec, outputs, **options)``.

    ``sites`` names the places inside the head where a latent may stand, with their channels; the head meets z only
    through ``modulate`` and never knows which task it serves.
    """

    sites: Mapping[str, int]
    reads: Sequence[str] = ()
    """The levels it wants, by name (``p3``); of others it is told nothing and none of their latents is its own.

    Empty, the default: all that the neck has. A class that always wants the same may say so, or an instance in its
    constructor, which is given the neck's whole ``spec``.
    """

    @abstractmethod
    def forward(self, features: Features, modulate: Modulate) -> Any:
        """Returns one of the output structures, which the head's task understands."""

    def neighbours(self, site: str) -> Neighbours:
        """The layers beside a site, ``align.{level}`` included; none known unless a head says so."""
        return Neighbours()

    def roles(self, site: str) -> tuple[str, ...] | None:
        """What each channel of a site means (``x``, ``w``, ``obj``, ``cls`` ...); None: nothing special."""
        return None


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
    learns_from: ClassVar[tuple[str, ...]] = ()  # names in ``Annotations.extras`` without which it learns nothing
    default_head: ClassVar[str]  # a registered head; another one that gives the same output may be configured
    provides: ClassVar[tuple[str, ...]] = ()  # fields of Prediction this task fills
    uses: ClassVar[tuple[str, ...]] = ()  # fields another task must have filled before ``predict``
    primary: ClassVar[str]  # the score of ``metric()`` by which checkpoints are compared
    lower: ClassVar[frozenset[str]] = frozenset()  # scores that are better the lower they are, such as errors
    scores: ClassVar[Mapping[str, str]] = MappingProxyType({})  # what each score means, in a sentence
    breaks: ClassVar[frozenset[str]] = frozenset()
    """Transforms (``contracts.augmentation``) that make what this task learns of a whole image untrue.

    Those that mix pictures leave such labels unlabelled in the pictures they make; what belongs to a box stays with it.
    All others are left out of batches that serve the task.
    """

    name: str
    vocabulary: Vocabulary
    outputs: int  # what the head is asked for: classes, tags or embedding width
    more_metrics: tuple[Callable[[], Metric], ...] = ()  # the configuration's; the builder puts them here

    @abstractmethod
    def loss(self, output: Any, batch: Batch) -> Mapping[str, LossTerm]:
        """Loss terms by name, each summed over labelled items with their number."""

    @abstractmethod
    def predict(self, output: Any, predictions: Sequence[Prediction], **options: Any) -> list[Prediction]:
        """Adds this task's fields to each image's prediction (input pixels). ``options``: the task's own, by name."""

    @abstractmethod
    def metric(self) -> Metric:
        """A fresh metric."""

    def truth(self, annotations: Annotations) -> Any:
        """What is known of an image, in the form that this task's own extra has; None where nothing is.

        It is shown beside what was said. Boxes and tags are shown without it. In input pixels.
        """
        return None

    def goodness(self, value: float) -> float:
        """The value of the primary score as a number that is higher the better it is: 1 / (1 + value) of an error."""
        return 1 / (1 + max(value, 0.0)) if self.primary in self.lower else value


class Latent(nn.Module, ABC):
    """A representation of implicit knowledge: ``() -> z`` (YOLOR eq. 6-8). Built as ``cls(width, mean, **options)``.

    ``mean`` (width,) is the value of z at which its operator changes nothing; a latent starts close to it.
    """

    @abstractmethod
    def forward(self) -> Tensor:
        """z of shape (width,)."""


@dataclass(frozen=True)
class PixelMap:
    """x' = matrix x + shift, alike at every position: all that an operator does once its z is a constant."""

    matrix: Tensor | None  # (C,) a diagonal, (C, C) a full matrix, None the identity
    shift: Tensor | None  # (C,), None for no shift


class Operator(nn.Module, ABC):
    """How z meets x: ``(x, z) -> x'`` (YOLOR eq. 3). Built as ``cls(channels, **options)``."""

    width: int  # numbers in z

    @abstractmethod
    def identity(self) -> Tensor:
        """z of shape (width,) at which the operator changes nothing; latents start there."""

    @abstractmethod
    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x: (B, C, H, W) or (B, C); z: (width,). Returns the shape of x."""

    def affine(self, z: Tensor) -> PixelMap | None:
        """What the operator does at this z, where that is the same affine map at every position.

        None, the default: it is something else, and a latent of this operator is never folded.
        """
        return None


@dataclass(frozen=True)
class Turn:
    """What one step does: which dataset it reads and which tasks it serves on it."""

    dataset: str
    tasks: tuple[str, ...]
    weight: float = 1.0  # of its gradients, where several turns make one step


class Schedule(Protocol):
    """Which dataset and tasks at which step: a pure function of (seed, step), the same on every rank."""

    def turn(self, step: int) -> Turn: ...


class Balancer(Protocol):
    """Makes one scalar of the tasks' losses. Built as ``cls(weights, **options)``, weights by task.

    One that is also an :class:`ObservingBalancer` or a :class:`GradientBalancer` is asked for more, in runs of several
    tasks. One with a memory has ``state() -> dict`` (JSON) and ``restore(state)`` beside.
    """

    def combine(self, losses: Mapping[str, Tensor]) -> Tensor: ...


@runtime_checkable
class ObservingBalancer(Balancer, Protocol):
    """Changes the weights by what it sees of the losses; the numbers it is told are the same on every rank."""

    again: ClassVar[bool]  # whether ``observe`` wants the losses after the step too, for another forward pass

    def factors(self, losses: Mapping[str, float]) -> Mapping[str, float]:
        """What multiplies each loss of a forward pass before ``combine``. losses: over all ranks, 0: no labels."""

    def observe(self, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        """A step is taken. Losses over all ranks of tasks with labels; of its last forward pass if ``again``."""


@runtime_checkable
class GradientBalancer(Balancer, Protocol):
    """Chooses how much of each task's gradient the parameters that tasks share will follow."""

    weights: Mapping[str, float]

    def weigh(self, gramian: Tensor, tasks: Sequence[str]) -> Tensor:
        """What multiplies each task's gradient; all 1 is the plain sum.

        Args:
            gramian: (T, T) float64 on the CPU, the inner products of the tasks' gradients over all ranks, scaled to a
                mean diagonal of 1; no gradient is zero.
            tasks: whose gradients, T of them, two at least.

        Returns:
            (T,) float64.
        """


@runtime_checkable
class Remembering(Protocol):
    """Has something to remember that does not follow from the configuration."""

    def state(self) -> dict[str, Any]:
        """As JSON."""

    def restore(self, state: Mapping[str, Any]) -> None: ...


backbones: Registry[Backbone] = Registry("backbone", "unified.backbones", Backbone)
necks: Registry[Neck] = Registry("neck", "unified.necks", Neck, ("spec",))
heads: Registry[Head] = Registry("head", "unified.heads", Head, ("spec", "outputs"))
tasks: Registry[Task] = Registry("task", "unified.tasks", Task, ("name", "vocabulary"))
latents: Registry[Latent] = Registry("latent", "unified.latents", Latent)
operators: Registry[Operator] = Registry("operator", "unified.operators", Operator)
datasets: Registry[Any] = Registry("dataset format", "unified.datasets")
balancers: Registry[Any] = Registry("balancer", "unified.balancers", takes=("weights",))
metrics: Registry[Any] = Registry("metric", "unified.metrics", takes=("task",))
exporters: Registry[Any] = Registry("exporter", "unified.exporters")
loggers: Registry[Any] = Registry("logger", "unified.loggers")


def registries() -> tuple[Registry[Any], ...]:
    """All of them, in the order in which a picture meets the parts."""
    return (datasets, backbones, necks, latents, operators, heads, tasks, metrics, balancers, loggers, exporters)
