# SPDX-License-Identifier: Apache-2.0
"""How well captions find their images, and images their captions.

Legend: N images, M captions, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unified.contracts.protocols import Curve
from unified.contracts.structures import Batch, EmbeddingOutput, Prediction

DEPTHS = (1, 5, 10)
_DEEPEST = 50  # of the curve
_ROWS = 1024  # queries at a time


class RecallMetric:
    """Recall@k of captions that search all images, and with ``caption_`` before it of images that search all captions.

    Held-out captions search the images of the evaluation; ``chance@k`` is what guessing would give: k / N. These are
    the two directions of Hodosh et al. 2013 (Framing Image Description as a Ranking Task, sec. 5).

    Args:
        encode: texts to unit vectors (n, D).
    """

    def __init__(self, encode: Any) -> None:
        self._encode = encode
        self._images: list[Tensor] = []
        self._texts: list[str] = []
        self._owner: list[int] = []

    def update(self, output: EmbeddingOutput, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Keeps the vectors of images that have captions."""
        for vector, known in zip(output.image.detach().float().cpu(), batch.annotations, strict=True):
            texts = [str(text) for text in known.extras.get("captions", ())]
            if texts:
                self._owner += [len(self._images)] * len(texts)
                self._texts += texts
                self._images.append(vector)

    def compute(self) -> dict[str, float]:
        found = self._ranks()
        if found is None:
            return {}
        ranks, backward, images = *found, len(self._images)
        scores = {f"R@{k}": float((ranks < k).double().mean()) for k in DEPTHS}
        scores |= {f"caption_R@{k}": float((backward < k).double().mean()) for k in DEPTHS}
        return scores | {f"chance@{k}": min(1.0, k / images) for k in DEPTHS}

    def curves(self) -> dict[str, list[Curve]]:
        """Recall over the number of images looked at, with chance beside it."""
        found = self._ranks()
        if found is None:
            return {}
        depths = list(range(1, min(_DEEPEST, len(self._images)) + 1))
        recall = [float((found[0] < k).double().mean()) for k in depths]
        chance = [k / len(self._images) for k in depths]
        names = ("images looked at", "recall")
        return {"recall": [Curve(depths, recall, "captions", *names), Curve(depths, chance, "chance", *names)]}

    def evidence(self) -> dict[str, Any]:
        """The images' vectors and their captions."""
        vectors = torch.stack(self._images) if self._images else torch.zeros(0, 0)
        return {"images": vectors, "texts": self._texts, "owner": self._owner}

    def extend(self, evidence: Mapping[str, Any]) -> None:
        """Adds what another metric's :meth:`evidence` tells."""
        before = len(self._images)
        self._images += list(evidence["images"])
        self._texts += evidence["texts"]
        self._owner += [before + owner for owner in evidence["owner"]]

    def _ranks(self) -> tuple[Tensor, Tensor] | None:
        """For each caption the rank of its image, (M,); for each image the rank of its best caption, (N,). From 0."""
        if not self._images:
            return None
        images, texts = torch.stack(self._images), self._encode(self._texts)
        owner = torch.tensor(self._owner)
        forward, best = [], torch.full((len(images),), float("-inf"))
        for start in range(0, len(texts), _ROWS):
            some = slice(start, start + _ROWS)
            cosines = texts[some] @ images.T  # (m, N)
            own = cosines.gather(1, owner[some, None])
            forward.append((cosines > own).sum(dim=1))
            best.scatter_reduce_(0, owner[some], own[:, 0], "amax")
        backward = torch.zeros(len(images), dtype=torch.int64)
        for start in range(0, len(texts), _ROWS):
            some = slice(start, start + _ROWS)
            backward += (texts[some] @ images.T > best).sum(dim=0)
        return torch.cat(forward), backward
