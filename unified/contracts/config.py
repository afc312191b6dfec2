# SPDX-License-Identifier: Apache-2.0
"""The configuration of a run: frozen models in which every key is known, typed and explained.

``contracts.document`` reads them from YAML and the command line; only ``model.build`` reads the names in them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]


class Config(BaseModel):
    """Frozen, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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

    site: str  # a shell pattern: align.*, pre.*, post.p3*
    latent: PartConfig = PartConfig(name="vector")
    operator: PartConfig = PartConfig(name="add")
    tasks: tuple[str, ...] = ("*",)


class ModelConfig(Config):
    """The explicit trunk and the implicit latents. Heads come with the tasks."""

    name: str = "custom"
    backbone: PartConfig = PartConfig(name="csp")
    neck: PartConfig = PartConfig(name="pan")
    latents: tuple[LatentConfig, ...] = ()
    heads: dict[str, dict[str, Any]] = {}  # head name -> options that fit this model's size


class TaskConfig(Config):
    """One task of the network. ``task`` is the registered kind; it defaults to the task's own name."""

    task: str
    head: PartConfig | None = None  # None: the kind's default head
    weight: float = Field(default=1.0, ge=0)
    options: dict[str, Any] = {}  # of the task's constructor


class SplitConfig(Config):
    """One split of a dataset, relative to the dataset's ``path``."""

    images: str = "."
    annotations: str | None = None


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


class DatasetConfig(Config):
    """One dataset: where it is, how it is read and, above all, what it labels.

    ``labelled`` maps a task to ``all``, ``none``, ``empty`` (verified: images without annotations truly hold nothing)
    or the list of the classes that were looked for. A task missing there is unlabelled in this dataset.
    """

    path: str = "."
    format: str = "coco"
    train: SplitConfig | None = None
    val: SplitConfig | None = None
    tags: TagsConfig = TagsConfig()
    identity: IdentityConfig = IdentityConfig()
    labelled: dict[str, Literal["all", "none", "empty"] | tuple[str, ...]] = {}
    options: dict[str, Any] = {}  # of the format


class AugmentConfig(Config):
    """Chances and strengths of the training transforms; all zero leaves a plain letterbox."""

    mosaic: float = Field(default=0.0, ge=0, le=1)  # chance of a four-image mosaic
    scale: float = Field(default=0.0, ge=0, lt=1)  # zoom drawn from 1 - scale .. 1 + scale
    translate: float = Field(default=0.0, ge=0, le=1)  # share of the image's side
    rotate: float = Field(default=0.0, ge=0)  # degrees
    shear: float = Field(default=0.0, ge=0)  # degrees
    fliplr: float = Field(default=0.5, ge=0, le=1)
    flipud: float = Field(default=0.0, ge=0, le=1)
    hue: float = Field(default=0.0, ge=0, le=0.5)  # share of the colour circle
    saturation: float = Field(default=0.0, ge=0, le=1)
    value: float = Field(default=0.0, ge=0, le=1)
    close: float = Field(default=0.1, ge=0, le=1)  # the last share of training runs without mosaic


class DataConfig(Config):
    """Datasets by name and how they are mixed."""

    datasets: dict[str, DatasetConfig]
    schedule: PartConfig = PartConfig(name="proportional")


class TrainConfig(Config):
    """How the network learns."""

    size: Positive = 640  # pixels: square input
    batch: Positive = 16  # images an optimizer step, over all ranks
    accumulate: Positive = 1  # forward passes that make up one step's batch
    epochs: float = Field(default=100.0, gt=0)  # passes over all training images together
    max_steps: Positive | None = None
    max_minutes: float | None = Field(default=None, gt=0)  # the schedule shortens itself to end in time
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    lr_final: float = Field(default=0.01, ge=0, le=1)  # of lr, at the end of the cosine
    momentum: float = Field(default=0.9, ge=0, lt=1)  # SGD's momentum, AdamW's beta1 (Muon's own is 0.95)
    weight_decay: float = Field(default=0.05, ge=0)
    matrix_lr: float = Field(default=1.0, gt=0)  # times lr, for the weights whose steps Muon orthogonalises
    latent_lr: float = Field(default=1.0, gt=0)  # times lr, for every z
    warmup: float = Field(default=0.03, ge=0, lt=1)  # share of the run
    clip: float = Field(default=10.0, ge=0)  # gradient norm; 0 switches clipping off
    ema: float = Field(default=0.999, ge=0, lt=1)  # 0 switches the moving average off
    ema_ramp: float = Field(default=200.0, gt=0)  # steps: decay(t) = ema * (1 - exp(-t / ramp))
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    evaluate_every: float = Field(default=0.25, gt=0, le=1)  # share of the run between evaluations
    workers: int | None = Field(default=None, ge=0)  # loader processes; None: by the number of cores
    device: str = "auto"
    seed: int = 0
    augment: AugmentConfig = AugmentConfig()


class RunConfig(Config):
    """Everything that decides a run; saved whole in its folder."""

    model: ModelConfig
    tasks: dict[str, TaskConfig]
    data: DataConfig
    train: TrainConfig = TrainConfig()
    balance: PartConfig = PartConfig(name="fixed")
