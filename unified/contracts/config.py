# SPDX-License-Identifier: Apache-2.0
"""The configuration of a run: frozen models in which every key is known, typed and explained.

``contracts.document`` reads them from YAML and the command line; only ``model.build`` reads the names in them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from unified.contracts.recipe import AUTO as AUTO
from unified.contracts.recipe import AugmentConfig as AugmentConfig
from unified.contracts.recipe import DiagnosticsConfig as DiagnosticsConfig
from unified.contracts.recipe import Images as Images
from unified.contracts.recipe import PhaseConfig as PhaseConfig
from unified.contracts.recipe import TrainConfig as TrainConfig
from unified.contracts.schema import Config as Config
from unified.contracts.schema import Positive as Positive


class PartConfig(Config):
    """A registered part by name, with the options its constructor takes.

    In YAML a bare name (``head: embed``), or a mapping whose other keys are the options
    (``head: {name: embed, width: 64}``).
    """

    name: str
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict):
            value = dict(value)
            given = value.pop("options", {})
            if not isinstance(given, dict):
                raise ValueError("options must be a mapping")
            options = {**given, **{k: value.pop(k) for k in list(value) if k != "name"}}
            return {**value, "options": options}
        return value


class LatentConfig(Config):
    """Where implicit latents stand: every site that matches ``site``, one z for each task that matches ``tasks``."""

    site: str  # a shell pattern: align.*, pre.*, post.p3*; sites inside the trunk only by one that begins with trunk
    latent: PartConfig = PartConfig(name="vector")
    operator: PartConfig = PartConfig(name="add")
    only: tuple[str, ...] = ()  # roles of channels it acts on, such as w and h at post.* of detect_anchor; none: all
    tasks: tuple[str, ...] = ("*",)


class NormConfig(Config):
    """The norm behind every convolution, by its kind alone (``norm: group``) or with its constants.

    ``eps`` and ``momentum`` of None leave a batch norm as its layer has it.
    """

    kind: Literal["batch", "group"] = "batch"  # group: the same for batches of one and of a hundred images
    groups: Positive = 32  # of a group norm, at most; fewer where a group would have less than four channels
    eps: float | None = Field(default=None, gt=0)
    momentum: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value


class ModelConfig(Config):
    """The explicit trunk and the implicit latents. Heads come with the tasks."""

    name: str = "custom"
    backbone: PartConfig = PartConfig(name="csp")
    neck: PartConfig = PartConfig(name="pan")
    latents: tuple[LatentConfig, ...] = ()
    heads: dict[str, dict[str, Any]] = {}  # head name -> options that fit this model's size
    default_heads: dict[str, str] = {}  # kind of task -> head it gets with this model, if not the kind's own default
    norm: NormConfig = NormConfig()
    activation: Literal["silu", "mish", "leaky", "relu"] | None = None  # None: as the layers have it (SiLU)


class WordsConfig(Config):
    """The words a task's outputs mean, where they are its own and not those of the run's data."""

    boxes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()
    image_identities: tuple[str, ...] = ()


class TaskConfig(Config):
    """One task of the network. ``task`` is the registered kind; it defaults to the task's own name."""

    task: str
    head: PartConfig | None = None  # None: the kind's default head
    weight: float = Field(default=1.0, ge=0)
    lr: float = Field(default=1.0, gt=0)  # times the run's, for what only this task uses: its head, its z, its loss
    freeze: bool = False  # what only this task uses does not learn; the trunk still learns from its loss
    start: float = Field(default=0.0, ge=0)  # its first turn: up to 1 a share of the run, beyond that a step
    stop: float | None = Field(default=None, ge=0)  # no turn from there on, counted alike; None: to the end
    patience: Positive | None = None  # evaluations without a better score after which it has no turn any more
    metrics: tuple[PartConfig, ...] = ()  # registered ones beside the kind's own
    options: dict[str, Any] = {}  # of the task's constructor
    latents: tuple[LatentConfig, ...] | None = None  # its own, in the place of the model's; None: the model's
    words: WordsConfig | None = None  # None: those of the run's data
    extends: str | None = None  # a task of its kind that is asked together with it: this one has further classes


class GrowthConfig(Config):
    """What came with the network that a run begins with, and what becomes of it while new tasks learn."""

    tasks: dict[str, TaskConfig] = {}  # they stand still: no data, no loss, the same answers as before
    metrics: dict[str, float] = {}  # their scores where they came from, by flat name
    unfreeze: tuple[Literal["backbone", "neck"], ...] = ()  # what learns all the same; old answers change with it
    distill: float = Field(default=0.0, ge=0)  # weight of the loss that holds old answers near what they were


class SplitConfig(Config):
    """One split of a dataset, relative to the dataset's ``path``."""

    images: str = "."
    annotations: str | None = None
    labels: str | None = None  # of formats with a second file: verified labels of whole images (openimages)
    keypoints: str | None = None  # COCO's other files about the same images
    captions: str | None = None
    panoptic: str | None = None
    panoptic_images: str | None = None  # folder of the panoptic pictures


class TagsConfig(Config):
    """Image tags: values of named image fields, or the categories present in the image, or both."""

    fields: tuple[str, ...] = ()
    categories: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if value == "categories":
            return {"categories": True}
        if isinstance(value, dict) and isinstance(value.get("fields"), list):
            return {**value, "fields": tuple(value["fields"])}  # past this validator JSON's lists are no tuples
        return value


class IdentityConfig(Config):
    """What makes two boxes, or two images, the same thing.

    ``boxes``: an annotation field's name, or ``category``. ``image``: an image field's name, or ``views`` (two
    augmented views of one image are the same, no labels needed).
    """

    boxes: str | None = None
    image: str | None = None


class AliasConfig(Config):
    """The run's names for a dataset's own words: ``aliases: {auto: car}``, or by table ``{boxes: ..., tags: ...}``.

    Two words of one dataset may get one name; they are then one class.
    """

    both: dict[str, str] = {}
    boxes: dict[str, str] = {}
    tags: dict[str, str] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if isinstance(value, dict) and value and all(isinstance(word, str) for word in value.values()):
            return {"both": value}
        return value


class DatasetConfig(Config):
    """One dataset: where it is, how it is read and, above all, what it labels.

    ``labelled`` maps a task to ``all``, ``none``, ``empty`` (verified: images without annotations truly hold nothing)
    or the list of the classes that were looked for. A task missing there is unlabelled in this dataset.

    ``breaks`` names transforms that make a task's labels untrue in this dataset beside those that the task itself says
    so of, and ``keeps`` takes some of these back: ``breaks: {emb: [hue]}`` where colour is the identity.
    """

    path: str = "."
    format: str = "coco"
    train: SplitConfig | None = None
    val: SplitConfig | None = None
    tags: TagsConfig = TagsConfig()
    identity: IdentityConfig = IdentityConfig()
    aliases: AliasConfig = AliasConfig()
    labelled: dict[str, Literal["all", "none", "empty"] | tuple[str, ...]] = {}
    breaks: dict[str, tuple[str, ...]] = {}
    keeps: dict[str, tuple[str, ...]] = {}
    sampler: PartConfig = PartConfig(name="shuffle")  # or pk: batches of p identities with k images each
    options: dict[str, Any] = {}  # of the format


class DataConfig(Config):
    """Datasets by name and how they are mixed."""

    datasets: dict[str, DatasetConfig]
    schedule: PartConfig = PartConfig(name="proportional")


class RunConfig(Config):
    """Everything that decides a run; saved whole in its folder."""

    model: ModelConfig
    tasks: dict[str, TaskConfig]
    data: DataConfig
    train: TrainConfig = TrainConfig()
    balance: PartConfig = PartConfig(name="fixed")
    growth: GrowthConfig = GrowthConfig()
