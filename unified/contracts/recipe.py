# SPDX-License-Identifier: Apache-2.0
"""How a network learns: the frozen models of a recipe, in which every key is known, typed and explained."""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator
from pydantic_core import PydanticKnownError

from unified.contracts.schema import Config, Positive

AUTO: Final = -1  # the number that stands for the word auto


def _counted(value: int) -> int:
    if value <= 0 and value != AUTO:
        raise PydanticKnownError("greater_than", {"gt": 0})
    return value


Images = Annotated[
    int,
    BeforeValidator(lambda value: AUTO if value == "auto" else value),
    AfterValidator(_counted),
    PlainSerializer(lambda value: "auto" if value == AUTO else value),
]


class AugmentConfig(Config):
    """Chances and strengths of the training transforms; all zero leaves a plain letterbox."""

    mosaic: float = Field(default=0.0, ge=0, le=1)  # chance of a mosaic
    mosaic_images: Literal[4, 9] = 4  # pictures that make one
    mixup: float = Field(default=0.0, ge=0, le=1)  # chance that a mosaic is blended with a second one
    copy_paste: float = Field(default=0.0, ge=0, le=1)  # chance that objects of another picture are pasted in
    copy_paste_by: Literal["masks", "boxes"] = "masks"  # boxes: objects without a mask as whole rectangles
    cutout: float = Field(default=0.0, ge=0, le=1)  # chance that a rectangle is painted over
    cutout_side: float = Field(default=0.3, gt=0, le=1)  # its longest side, as a share of the picture's
    scale: float = Field(default=0.0, ge=0, lt=1)  # zoom drawn from 1 - scale .. 1 + scale
    translate: float = Field(default=0.0, ge=0, le=1)  # share of the image's side
    rotate: float = Field(default=0.0, ge=0)  # degrees
    shear: float = Field(default=0.0, ge=0)  # degrees
    fliplr: float = Field(default=0.5, ge=0, le=1)
    flipud: float = Field(default=0.0, ge=0, le=1)
    hue: float = Field(default=0.0, ge=0, le=0.5)  # share of the colour circle
    saturation: float = Field(default=0.0, ge=0, le=1)
    value: float = Field(default=0.0, ge=0, le=1)
    multi_scale: float = Field(default=0.0, ge=0, lt=1)  # each batch's side from 1 - this .. 1 + this, whole strides
    rectangular: bool = False  # pictures of like shape together; without a mosaic, padded no more than strides ask
    close: float = Field(default=0.1, ge=0, le=1)  # the last share of training has no mosaic, mixup or copy_paste


class PhaseConfig(Config):
    """A stretch of a run with its own pictures and losses, under the optimizer and the moving average of the whole run.

    What ``augment`` does not say here, it says as the run does. ``gains`` multiplies losses by name: ``det/box`` one
    term, ``det`` a whole task. The course of the learning rate begins with the run and ends at ``horizon``.
    """

    epochs: float = Field(gt=0)
    horizon: float | None = Field(default=None, gt=0)  # epochs since the run's beginning; None: the end of the run
    augment: AugmentConfig = AugmentConfig()
    gains: dict[str, Annotated[float, Field(ge=0)]] = {}


class DiagnosticsConfig(Config):
    """How often, and on how many pictures, the tasks' gradients are compared; it changes nothing that is trained."""

    every: Positive | Literal["auto"] | None = None  # steps; auto: at most 2 % of the time; None: never
    batches: Positive = 2  # fixed ones, of each dataset that is needed to see the tasks together
    batch: Annotated[int, Field(ge=2)] = 8  # images of each


class TrainConfig(Config):
    """How the network learns."""

    size: Positive = 640  # pixels: square input
    batch: Images = 16  # an optimizer step's, over all ranks, or auto; with nominal_batch, as many as fit at a time
    accumulate: Positive = 1  # forward passes that make up one batch
    nominal_batch: Positive | None = None  # images: batches add up to about this before a step; decay scales along
    reduction: Literal["mean", "sum"] = "mean"  # of the loss over a step's images; sum: their number times the mean
    epochs: float = Field(default=100.0, gt=0)  # passes over all training images together
    max_steps: Positive | None = None
    max_minutes: float | None = Field(default=None, gt=0)  # the schedule shortens itself to end in time
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    course: Literal["cosine", "linear", "one-cycle", "constant", "steps"] = "cosine"  # of lr, behind the warm-up
    lr_final: float = Field(default=0.01, ge=0, le=1)  # of lr, at the end of the course; of a constant one never
    lr_hold: float = Field(default=0.0, ge=0, lt=1)  # share of a linear course before lr begins to fall
    lr_start: float = Field(default=0.04, gt=0, le=1)  # of lr, where a one-cycle course begins
    lr_peak: float = Field(default=0.3, gt=0, lt=1)  # share of a one-cycle course behind which lr falls again
    lr_steps: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.6, 0.9)  # shares of a course of steps where lr falls
    lr_drop: float = Field(default=0.1, gt=0, lt=1)  # times lr, at each of lr_steps
    momentum: float = Field(default=0.9, ge=0, lt=1)  # SGD's momentum, AdamW's beta1 (Muon's own is 0.95)
    weight_decay: float = Field(default=0.05, ge=0)
    matrix_lr: float = Field(default=1.0, gt=0)  # times lr, for the weights whose steps Muon orthogonalises
    latent_lr: float = Field(default=1.0, gt=0)  # times lr, for every z
    backbone_lr: float = Field(default=1.0, gt=0)  # times lr, for the trunk
    neck_lr: float = Field(default=1.0, gt=0)  # times lr, for what mixes the trunk's levels
    head_lr: float = Field(default=1.0, gt=0)  # times lr, for every head
    freeze: tuple[Literal["backbone", "neck"], ...] = ()  # parts that do not learn; their batch norms stand still
    layer_decay: float = Field(default=1.0, gt=0, le=1)  # times lr, once a stage from the trunk's end to its beginning
    warmup: float = Field(default=0.03, ge=0, lt=1)  # share of the run, before the course begins; none in one-cycle
    warmup_epochs: float | None = Field(default=None, ge=0)  # instead of a share; lies over the course's beginning
    warmup_passes: int = Field(default=0, ge=0)  # the same in forward passes; of both, the longer holds
    warmup_bias_lr: float | None = Field(default=None, ge=0)  # at the start, for biases; None: like all others
    warmup_momentum: float | None = Field(default=None, ge=0, lt=1)  # at the start; None: momentum from the start
    warmup_accumulate: bool = False  # one forward pass makes the first step; over the warm-up they become all
    clip: float = Field(default=10.0, ge=0)  # gradient norm; 0 switches clipping off
    ema: float = Field(default=0.999, ge=0, lt=1)  # 0 switches the moving average off
    ema_ramp: float = Field(default=200.0, gt=0)  # steps: decay(t) = ema * (1 - exp(-t / ramp))
    batch_norm: Literal["own", "sync", "frozen", "frozen-statistics"] = "own"  # whose statistics; frozen: nobody's new
    frozen_norms: Literal["backbone", "network"] = "backbone"  # where batch_norm freezes
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False  # the network, by torch.compile: minutes at the start, faster steps on a GPU
    shard: bool = False  # weights, moments and average over the ranks instead of a copy on each (FSDP2)
    deterministic: bool = False  # on a GPU too the same bits every time; slower, and an error where that cannot be
    evaluate_every: float = Field(default=0.25, gt=0, le=1)  # share of the run between evaluations
    val_images: Positive | None = None  # of each validation set, at most; None: all
    patience: Positive | None = None  # evaluations in a row without a better score, then the run ends; None: never
    min_gain: float = Field(default=0.0, ge=0)  # by which a score must be better for patience to begin anew
    save_every: Positive | None = None  # steps between checkpoints, beside those at evaluations and at the end
    save_minutes: float = Field(default=5.0, ge=0)  # the same in minutes, stretched where saving is slow; 0: never
    keep_last: Positive = 2  # newest checkpoints that are kept, beside the best
    workers: int | None = Field(default=None, ge=0)  # loader processes; None: by the number of cores
    worker_timeout: float = Field(default=300.0, gt=0)  # seconds without a batch after which workers are given up
    cache: Literal["none", "ram", "disk"] = "none"  # where decoded training pictures are kept; changes no pixel
    cache_gb: float = Field(default=8.0, gt=0)  # at most; as large a share of every dataset as fits
    unreadable: float = Field(default=0.05, ge=0, le=1)  # share of a dataset's pictures; more stop the run
    device: str = "auto"
    seed: int = 0
    logging: tuple[str, ...] = ()  # who else listens to the run, by name: [tensorboard]
    augment: AugmentConfig = AugmentConfig()
    phases: tuple[PhaseConfig, ...] = ()  # stretched to ``epochs`` where that is given too
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()

    @property
    def auto_batch(self) -> bool:
        """Whether a run is to find out how many images fit, and to write their number in its configuration."""
        return self.batch == AUTO

    @model_validator(mode="after")
    def _phases_in_full(self) -> TrainConfig:
        """Every phase with all its settings, and lengths that add up, so that a saved run reads back equal."""
        if self.phases:
            length = sum(phase.epochs for phase in self.phases)
            epochs = self.epochs if "epochs" in self.model_fields_set else length
            stretch = 1.0 if math.isclose(epochs, length, rel_tol=1e-9) else epochs / length
            phases = tuple(_in_full(phase, self.augment, stretch) for phase in self.phases)
            self.__dict__.update(epochs=epochs, phases=phases)  # past the frozen surface: nobody has seen it yet
            self.model_fields_set.update(("epochs", "phases"))
        return self


def _in_full(phase: PhaseConfig, augment: AugmentConfig, stretch: float) -> PhaseConfig:
    said = {name: getattr(phase.augment, name) for name in phase.augment.model_fields_set}
    whole = AugmentConfig(**{**augment.model_dump(), **said})
    horizon = None if phase.horizon is None else phase.horizon * stretch
    given = {"epochs": phase.epochs * stretch, "horizon": horizon, "augment": whole}
    return phase.model_copy(update=given)
