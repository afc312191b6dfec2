# SPDX-License-Identifier: Apache-2.0
"""The data that travels between rooms: frozen dataclasses with a shape on every field.

Legend used everywhere: B images in a batch, N boxes in an image, K classes, A tags, C channels, H W height and width
of a map, D embedding width, P prediction points. Boxes are ``xyxy`` in pixels of the image they stand beside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from unified.contracts.sampling import box_points, sample


class LabelState(IntEnum):
    """What is known of one class in one image for one task. Only the last three say anything about the class."""

    UNLABELLED = 0  # nobody looked: never read as background
    IGNORE = 1  # somebody looked and could not say (crowds, difficult objects): not scored, not learned
    NEGATIVE = 2  # looked for and absent
    POSITIVE = 3  # present
    EMPTY = 4  # a person confirmed that the image holds nothing of this task's classes


def known(states: Tensor) -> Tensor:
    """Mask of the label states that carry a yes or a no. states: any shape, int8; returns bool of the same shape."""
    return states >= LabelState.NEGATIVE


def positive(states: Tensor) -> Tensor:
    """Mask of the positive label states. states: any shape, int8; returns bool of the same shape."""
    return states == LabelState.POSITIVE


@dataclass(frozen=True)
class Vocabulary:
    """The words a network's outputs mean, merged by name over all datasets of a run.

    ``identities`` are those of boxes, ``image_identities`` those of whole images. Both are training-time words: they
    name the proxies an embedding task learns against and never limit what can be embedded afterwards.
    """

    boxes: tuple[str, ...] = ()  # K names
    tags: tuple[str, ...] = ()  # A names
    identities: tuple[str, ...] = ()
    image_identities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """Where an image came from and how it was fitted to the network's input: original * scale + offset = input.

    ``size`` is (height, width) of the original in pixels; ``scale`` and ``offset`` are (x, y).
    """

    image_id: str
    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    def to_original(self, boxes_xyxy: Tensor) -> Tensor:
        """Boxes (N, 4) in input pixels -> (N, 4) in original pixels, clipped to the original image."""
        height, width = self.size
        offset = boxes_xyxy.new_tensor([*self.offset, *self.offset])
        scale = boxes_xyxy.new_tensor([*self.scale, *self.scale])
        limit = boxes_xyxy.new_tensor([width, height, width, height])
        return torch.minimum(((boxes_xyxy - offset) / scale).clamp(min=0), limit)

    def to_input(self, boxes_xyxy: Tensor) -> Tensor:
        """Boxes (N, 4) in original pixels -> (N, 4) in input pixels."""
        offset = boxes_xyxy.new_tensor([*self.offset, *self.offset])
        scale = boxes_xyxy.new_tensor([*self.scale, *self.scale])
        return boxes_xyxy * scale + offset


def _none(dtype: torch.dtype, *shape: int) -> partial[Tensor]:
    """A factory of tensors without entries."""
    return partial(torch.zeros, *(shape or (0,)), dtype=dtype)


@dataclass(frozen=True)
class Annotations:
    """What is known of one image. All tensors stay on the CPU until a task moves what it needs.

    ``states[task]`` holds a :class:`LabelState` per class of that task's vocabulary; a task that is missing there is
    unlabelled in this image. ``box_states`` is POSITIVE, or IGNORE for crowds and difficult objects.
    """

    boxes_xyxy: Tensor = field(
        default_factory=_none(torch.float32, 0, 4)
    )  # (N, 4) pixels of the image as given to the network
    box_labels: Tensor = field(default_factory=_none(torch.int64))  # (N,) index into Vocabulary.boxes
    box_states: Tensor = field(default_factory=_none(torch.int8))  # (N,) POSITIVE or IGNORE
    box_identities: Tensor = field(
        default_factory=_none(torch.int64)
    )  # (N,) index into Vocabulary.identities, -1 unlabelled
    box_areas: Tensor = field(
        default_factory=_none(torch.float32)
    )  # (N,) px² of the original image (mask area where known)
    box_crowd: Tensor = field(default_factory=_none(torch.bool))  # (N,) True for COCO crowd regions
    identity: int = -1  # index into Vocabulary.image_identities, -1 unlabelled
    states: Mapping[str, Tensor] = field(default_factory=dict)  # task -> (K,) int8
    extras: Mapping[str, Any] = field(default_factory=dict)  # by name; contracts.extras has those of COCO

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    def select(self, index: Tensor) -> Annotations:
        """The same image with only some of its boxes. index: (M,) int64 or (N,) bool."""
        per_box = ("boxes_xyxy", "box_labels", "box_states", "box_identities", "box_areas", "box_crowd")
        extras = {k: extra.select(index) if hasattr(extra, "select") else extra for k, extra in self.extras.items()}
        return replace(self, **{name: getattr(self, name)[index] for name in per_box}, extras=extras)


@dataclass(frozen=True)
class Sample:
    """One image on its way to a batch: uint8 (3, H, W) RGB, with what is known of it and where it came from."""

    image: Tensor
    annotations: Annotations
    frame: Frame


@dataclass(frozen=True)
class Batch:
    """Images of one dataset and the tasks this step serves on them."""

    images: Tensor  # (B, 3, H, W) uint8 RGB, or float in [0, 1]
    annotations: tuple[Annotations, ...]  # B
    frames: tuple[Frame, ...]  # B
    dataset: str = ""
    tasks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.annotations)

    def to(self, device: torch.device | str, **options: Any) -> Batch:
        """The same batch with its images on another device (uint8 travels; the network's door makes floats)."""
        return replace(self, images=self.images.to(device, non_blocking=True, **options))

    def states(self, task: str, classes: int) -> Tensor:
        """(B, K) int8 label states of a task; images that say nothing of it are UNLABELLED."""
        blank = torch.zeros(classes, dtype=torch.int8)
        return torch.stack([a.states.get(task, blank) for a in self.annotations]).to(self.images.device)


@dataclass(frozen=True)
class Features:
    """The explicit representation: maps from fine to coarse. ``levels`` are names such as ``p3``."""

    maps: tuple[Tensor, ...]  # each (B, C_l, H / stride_l, W / stride_l)
    levels: tuple[str, ...]
    strides: tuple[int, ...]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(zip(self.levels, self.maps, strict=True))

    def with_maps(self, maps: tuple[Tensor, ...]) -> Features:
        return replace(self, maps=maps)

    def only(self, levels: Sequence[str]) -> Features:
        """The maps of these levels; all where none is named."""
        at = [self.levels.index(level) for level in levels or self.levels]
        return Features(*(tuple(each[i] for i in at) for each in (self.maps, self.levels, self.strides)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class FeatureSpec:
    """What a neck hands to the heads, known before any image is seen."""

    levels: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class LossTerm:
    """A loss summed over labelled items and the number of those items, so that ranks and steps can be normalised.

    ``weight`` scales the normalised term in the task's total. A batch with nothing labelled gives a zero ``sum`` that
    still touches the graph and a zero ``count``.
    """

    sum: Tensor  # scalar
    count: Tensor  # scalar, no gradient
    weight: float = 1.0


@dataclass(frozen=True)
class Prediction:
    """What the network says of one image. Fields of tasks that were not asked for are None.

    Boxes are in the pixels of the image the caller gave once :meth:`in_frame` has run.
    """

    size: tuple[int, int]  # (height, width) pixels
    boxes_xyxy: Tensor | None = None  # (N, 4) pixels, best score first
    scores: Tensor | None = None  # (N,) in [0, 1]
    labels: Tensor | None = None  # (N,) index into ``box_names``
    box_names: tuple[str, ...] = ()
    tag_scores: Tensor | None = None  # (A,) in [0, 1]
    tag_names: tuple[str, ...] = ()
    embedding: Tensor | None = None  # (D,) unit length
    box_embeddings: Tensor | None = None  # (N, D) unit length, row i belongs to box i
    extras: Mapping[str, Any] = field(default_factory=dict)  # what plug-in tasks say, by task name

    def in_frame(self, frame: Frame) -> Prediction:
        """The same prediction in the original pixels of ``frame``; extras that have ``in_frame(frame)`` follow."""
        boxes = None if self.boxes_xyxy is None else frame.to_original(self.boxes_xyxy)
        extras = {name: x.in_frame(frame) if hasattr(x, "in_frame") else x for name, x in self.extras.items()}
        return replace(self, size=frame.size, boxes_xyxy=boxes, extras=extras)

    @property
    def tags(self) -> dict[str, float]:
        """Every tag's score by name, best first; empty where tags were not asked for."""
        if self.tag_scores is None:
            return {}
        pairs = zip(self.tag_names, self.tag_scores.tolist(), strict=True)
        return dict(sorted(pairs, key=lambda pair: -pair[1]))


@dataclass(frozen=True)
class TagOutput:
    """A multilabel head's answer."""

    logits: Tensor  # (B, A)


@dataclass(frozen=True)
class PointBoxOutput:
    """An anchor-free detection head's answer: one box per point, its sides as distributions over distances.

    Side distances are in units of the point's stride: the expectation of ``bins`` categories 0..bins-1
    (Li et al. 2020, Generalized Focal Loss, eq. 3-5).
    """

    criterion: ClassVar[str] = "points"  # the word by which a task finds the losses that fit this output

    side_logits: Tensor  # (B, P, 4 * bins) left, top, right, bottom
    class_logits: Tensor  # (B, P, K)
    points_xy: Tensor  # (P, 2) pixels
    strides: Tensor  # (P,) pixels
    bins: int

    def distances(self) -> Tensor:
        """Expected side distances (B, P, 4) in strides."""
        batch, points, _ = self.side_logits.shape
        weights = self.side_logits.float().view(batch, points, 4, self.bins).softmax(-1)
        # Not a matrix product: autocast would round it to half precision, a pixel or more on a coarse level.
        return (weights * torch.arange(self.bins, dtype=weights.dtype, device=weights.device)).sum(-1)

    def boxes_xyxy(self) -> Tensor:
        """Boxes (B, P, 4) in pixels."""
        left_top, right_bottom = (self.distances() * self.strides[:, None]).chunk(2, dim=-1)
        return torch.cat([self.points_xy - left_top, self.points_xy + right_bottom], dim=-1)

    def decode(self) -> tuple[Tensor, Tensor]:
        """Boxes xyxy (B, P, 4) in pixels and class scores (B, P, K) in [0, 1]."""
        return self.boxes_xyxy(), self.class_logits.float().sigmoid()


@dataclass(frozen=True)
class AnchorBoxOutput:
    """An anchor head's answer, finest level first (YOLOR's: x, y, w, h, objectness, classes before the sigmoid)."""

    criterion: ClassVar[str] = "anchors"

    maps: tuple[Tensor, ...]  # each (B, A, H, W, 5 + K), A anchors a cell
    anchors_wh: Tensor  # (L, A, 2) pixels
    strides: tuple[int, ...]

    @property
    def levels(self) -> tuple[Tensor, ...]:
        return self.maps

    @property
    def decoded(self) -> Tensor:
        """(B, N, 5 + K): cx, cy, w, h in pixels, objectness and class scores after the sigmoid."""
        rows = []
        for raw, anchors, stride in zip(self.maps, self.anchors_wh, self.strides, strict=True):
            batch, count, height, width, width_out = raw.shape
            y, x = torch.meshgrid(
                torch.arange(height, device=raw.device), torch.arange(width, device=raw.device), indexing="ij"
            )
            grid = torch.stack([x, y], dim=-1).to(torch.float32)  # (H, W, 2)
            p = raw.float().sigmoid()
            centers = (p[..., :2] * 2 - 0.5 + grid) * stride
            sizes = (p[..., 2:4] * 2) ** 2 * anchors.view(1, count, 1, 1, 2)
            rows.append(torch.cat([centers, sizes, p[..., 4:]], dim=-1).view(batch, -1, width_out))
        return torch.cat(rows, dim=1)

    def decode(self) -> tuple[Tensor, Tensor]:
        """Boxes xyxy (B, N, 4) in pixels and class scores (B, N, K) = objectness * class."""
        out = self.decoded
        centers, sizes = out[..., :2], out[..., 2:4]
        return torch.cat([centers - sizes / 2, centers + sizes / 2], dim=-1), out[..., 4:5] * out[..., 5:]


@dataclass(frozen=True)
class QueryBoxOutput:
    """A query-based detection head's answer: each of Q queries says one box, and no two of them mean the same object.

    Every decoder layer answers, so that each can be trained (Carion et al. 2020, DETR, section 3.2); the last one
    counts. L layers, Q queries.
    """

    criterion: ClassVar[str] = "queries"
    single: ClassVar[bool] = True  # an object is answered once: repeats need no suppression

    class_logits: Tensor  # (L, B, Q, K)
    boxes_cxcywh: Tensor  # (L, B, Q, 4) in [0, 1]: shares of the width and the height of the input
    size: tuple[int, int]  # (height, width) pixels of the input

    def boxes_xyxy(self) -> Tensor:
        """Boxes of every layer (L, B, Q, 4) in pixels."""
        height, width = self.size
        centers, half = self.boxes_cxcywh[..., :2], self.boxes_cxcywh[..., 2:] / 2
        corners = torch.cat([centers - half, centers + half], dim=-1).float()
        return torch.stack([x * side for x, side in zip(corners.unbind(-1), (width, height) * 2, strict=True)], dim=-1)

    def decode(self) -> tuple[Tensor, Tensor]:
        """The last layer's boxes xyxy (B, Q, 4) in pixels and class scores (B, Q, K) in [0, 1]."""
        return self.boxes_xyxy()[-1], self.class_logits[-1].float().sigmoid()


@dataclass(frozen=True)
class EmbeddingOutput:
    """An embedding head's answer: one unit vector an image, and a dense map from which box vectors are read."""

    image: Tensor  # (B, D) unit length
    map: Tensor  # (B, D, H, W) before normalisation
    stride: int  # pixels a map cell

    def box_vectors(self, boxes_xyxy: Sequence[Tensor], grid: int = 5) -> list[Tensor]:
        """A unit vector for every box: per image (N_i, 4) pixels -> (N_i, D) float32, with gradients to the map.

        The map is sampled bilinearly at the middles of ``grid`` x ``grid`` equal parts of each box, which keeps off its
        border, and averaged. Only integer gathers are used, so that the gradient is deterministic on CUDA too.
        """
        counts = [len(boxes) for boxes in boxes_xyxy]
        boxes = torch.cat([boxes.to(self.map.device, torch.float32) for boxes in boxes_xyxy])
        image = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(self.map.device)
        samples = sample(self.map, image, box_points(boxes, grid) / self.stride - 0.5)  # (N, S, D)
        vectors = torch.nn.functional.normalize(samples.mean(dim=1), dim=-1)
        return list(torch.split(vectors, counts))
