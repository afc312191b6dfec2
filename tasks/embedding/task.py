# SPDX-License-Identifier: Apache-2.0
"""The embedding task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Labels, Task
from unified.contracts.structures import (
    Annotations,
    Batch,
    EmbeddingOutput,
    LabelState,
    LossTerm,
    Prediction,
    Vocabulary,
)

from .jitter import jittered
from .loss import identity_loss
from .retrieval import RetrievalMetric


class EmbeddingTask(Task):
    """Places boxes and images on a sphere so that the same identity lies close, whatever the light or the angle.

    What is labelled speaks for itself, box by box and image by image: an identity of -1 is unlabelled. Where the
    vocabulary names identities each has a proxy; where it names none (two views of an image) the batch is contrasted.
    Box vectors are learned at the true boxes, jittered, so that they serve a detector's boxes later.

    Args:
        name: the task's name.
        vocabulary: its ``identities`` and ``image_identities`` have the proxies.
        dim: D, the width of the embedding.
        box_loss, image_loss: ``normalized_softmax`` or ``proxy_anchor`` (with proxies), ``supcon`` or ``ntxent``
            (without); None takes normalized_softmax for named identities and supcon for unnamed ones.
        temperature: of all cosines.
        jitter: largest move and stretch of a box, as a share of its sides.
        box_weight, image_weight: of the two loss terms.

    Raises:
        ConfigError: an unknown loss, or a number out of its range.
    """

    labels: ClassVar[Labels] = "identities"
    default_head: ClassVar[str] = "embed"
    provides: ClassVar[tuple[str, ...]] = ("embedding", "box_embeddings")
    uses: ClassVar[tuple[str, ...]] = ("boxes_xyxy",)
    primary: ClassVar[str] = "R@1"
    scores: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "R@1": "share of labelled boxes (or images) whose nearest neighbour in another image is the same thing",
            "R@5": "share that find the same thing among their five nearest",
            "mAP@R": "how far up all R true matches stand in the ranking; stricter than R@1",
            "image_R@1": "the same for whole images",
            "image_R@5": "the same for whole images, among five",
            "image_mAP@R": "the same ranking score for whole images",
        }
    )
    breaks: ClassVar[frozenset[str]] = frozenset({"mosaic", "mixup", "copy_paste"})  # several scenes are nobody's

    def __init__(
        self,
        name: str,
        vocabulary: Vocabulary,
        *,
        dim: int = 128,
        box_loss: str | None = None,
        image_loss: str | None = None,
        temperature: float = 0.07,
        jitter: float = 0.1,
        box_weight: float = 1.0,
        image_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if dim < 2 or temperature <= 0 or not 0 <= jitter < 1:
            raise ConfigError(
                f"task '{name}': dim must be 2 or more, temperature above 0 and jitter in [0, 1), "
                f"got {dim}, {temperature} and {jitter}"
            )
        self.name = name
        self.vocabulary = vocabulary
        self.outputs = dim
        self.jitter = jitter
        self.box_weight = box_weight
        self.image_weight = image_weight
        self.box_loss = identity_loss(name, box_loss, len(vocabulary.identities), dim, temperature)
        self.image_loss = identity_loss(name, image_loss, len(vocabulary.image_identities), dim, temperature)

    def loss(self, output: EmbeddingOutput, batch: Batch) -> Mapping[str, LossTerm]:
        """``boxes`` and ``images``: each summed over its labelled vectors; float32 whatever the precision around it."""
        with torch.autocast(output.map.device.type, enabled=False):
            boxes = self.box_loss(*self._labelled_boxes(output, batch))
            images = self.image_loss(*self._labelled_images(output, batch))
        terms = {"boxes": (boxes, self.box_weight), "images": (images, self.image_weight)}
        return {name: LossTerm(total, count, weight) for name, ((total, count), weight) in terms.items()}

    def _labelled_boxes(self, output: EmbeddingOutput, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors (N, D) and identities (N,) of the batch's boxes that teach something."""
        shown = [a.select(self.box_loss.learns(a.box_identities) & scored(a)) for a in batch.annotations]
        places = zip(shown, batch.frames, strict=True)
        vectors = output.box_vectors([jittered(a.boxes_xyxy, self.jitter, f.image_id) for a, f in places])
        return torch.cat(vectors), torch.cat([a.box_identities for a in shown])

    def _labelled_images(self, output: EmbeddingOutput, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors (N, D) and identities (N,) of the batch's images that teach something."""
        identities = torch.tensor([a.identity for a in batch.annotations])
        labelled = self.image_loss.learns(identities).nonzero()[:, 0]
        return output.image.float()[labelled.to(output.image.device)], identities[labelled]

    def predict(self, output: EmbeddingOutput, predictions: Sequence[Prediction], **options: Any) -> list[Prediction]:
        """Fills ``embedding`` and, where boxes were predicted, ``box_embeddings`` read at them."""
        empty = output.map.new_zeros(0, 4)
        boxes = [empty if p.boxes_xyxy is None else p.boxes_xyxy for p in predictions]
        rows = zip(predictions, output.image.detach().float(), output.box_vectors(boxes), strict=True)
        return [
            replace(p, embedding=image, box_embeddings=None if p.boxes_xyxy is None else vectors.detach())
            for p, image, vectors in rows
        ]

    def metric(self) -> RetrievalMetric:
        return RetrievalMetric(self.vocabulary.identities, self.vocabulary.image_identities)


def scored(annotations: Annotations) -> Tensor:
    """Mask (N,) of the boxes that are not to be ignored."""
    return annotations.box_states == LabelState.POSITIVE
