# SPDX-License-Identifier: Apache-2.0
"""How well vectors find their own kind among the vectors of other images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unified.contracts.protocols import Curve
from unified.contracts.section import Section
from unified.contracts.structures import Batch, EmbeddingOutput, Frame, LabelState, Prediction

from .search import Ranking, rank
from .sections import Kept, section

Place = tuple[str, tuple[float, ...]]
"""An image's id and a box xyxy in its original pixels."""

Found = tuple[str, tuple[float, ...], bool]
"""A neighbour's place, and whether it is the same identity."""

_DEPTH = 20  # neighbours kept for curves
_SHOWN = 10  # neighbours of an example


class RetrievalMetric:
    """R@1, R@5 and mAP@R of labelled boxes, and with ``image_`` before them of labelled images.

    Every labelled vector queries all others by cosine, boxes only those of other images; a query without a match
    there is left out. R@k is the share of queries with a match among their k nearest; mAP@R is that of Musgrave et al.
    2020 (A Metric Learning Reality Check). Without any labelled box the plain names hold the images' scores. Identities
    need not be in the training vocabulary: every index from 0 up counts.

    Args:
        identities, image_identities: names of boxes' and of images' identities, as far as they are known.
    """

    def __init__(self, identities: Sequence[str] = (), image_identities: Sequence[str] = ()) -> None:
        self._names = (identities, image_identities)
        self._boxes = _Gallery()
        self._images = _Gallery()

    def update(self, output: EmbeddingOutput, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Reads the vectors at the true boxes, not the predicted ones, so that only the embedding is judged."""
        shown = [a.select((a.box_identities >= 0) & (a.box_states == LabelState.POSITIVE)) for a in batch.annotations]
        read = output.box_vectors([a.boxes_xyxy for a in shown])
        for known, vectors, frame in zip(shown, read, batch.frames, strict=True):
            boxes = frame.to_original(known.boxes_xyxy)
            self._boxes.add(vectors, known.box_identities, frame.image_id, boxes, batch.dataset)
        for known, vector, frame in zip(batch.annotations, output.image, batch.frames, strict=True):
            if known.identity >= 0:
                own = torch.tensor([known.identity])
                self._images.add(vector[None], own, frame.image_id, _whole(frame), batch.dataset)

    def compute(self) -> dict[str, float]:
        boxes = self._boxes.rank(apart=True)
        images = self._images.rank(apart=False)
        scores = {f"image_{name}": value for name, value in _scores(images).items()}
        return {**_scores(boxes if len(self._boxes) else images), **scores}

    def curves(self) -> dict[str, list[Curve]]:
        """Recall over the number of neighbours looked at."""
        rankings = {"boxes": self._boxes.rank(apart=True), "images": self._images.rank(apart=False)}
        depths = range(1, _DEPTH + 1)
        lines = [
            Curve(list(depths), [ranking.recall(k) for k in depths], label, "neighbours", "recall")
            for label, ranking in rankings.items()
            if ranking is not None
        ]
        return {"recall": lines} if lines else {}

    def evidence(self) -> dict[str, Any]:
        """The vectors of boxes and of images, with their identities and places."""
        return {"boxes": self._boxes.told(), "images": self._images.told()}

    def extend(self, evidence: Mapping[str, Any]) -> None:
        """Adds what another metric's :meth:`evidence` tells."""
        self._boxes.extend(evidence["boxes"])
        self._images.extend(evidence["images"])

    def sections(self) -> list[Section]:
        """Neighbours, a map of the vectors and the identities that are hard to find, of boxes and of images."""
        kept = [
            self._boxes.kept(apart=True, names=self._names[0]),
            self._images.kept(apart=False, names=self._names[1]),
        ]
        return [section(each) for each in kept if each is not None]

    def examples(self, n: int) -> list[tuple[Place, list[Found]]]:
        """Up to ``n`` queries, evenly spread over all, with their ten nearest neighbours; boxes if any."""
        if len(self._boxes):
            return self._boxes.examples(n, apart=True)
        return self._images.examples(n, apart=False)


@dataclass
class _Gallery:
    """Labelled vectors and where they come from."""

    vectors: list[Tensor] = field(default_factory=list)
    identities: list[Tensor] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    ranked: Ranking | None = None  # of all that has been added

    def __len__(self) -> int:
        return len(self.places)

    def add(self, vectors: Tensor, identities: Tensor, image_id: str, boxes_xyxy: Tensor, dataset: str) -> None:
        """vectors (N, D), identities (N,), boxes_xyxy (N, 4) original pixels: all of one image."""
        self.ranked = None
        self.vectors.append(vectors.detach().float().cpu())
        self.identities.append(identities.cpu())
        self.places += [(image_id, tuple(box)) for box in boxes_xyxy.tolist()]
        self.datasets += [dataset] * len(boxes_xyxy)

    def told(self) -> dict[str, Any]:
        """All of it as plain data and tensors; nothing where there is nothing."""
        if not self.vectors:
            return {}
        tensors = {"vectors": torch.cat(self.vectors), "identities": torch.cat(self.identities)}
        return {**tensors, "places": self.places, "datasets": self.datasets}

    def extend(self, told: Mapping[str, Any]) -> None:
        """Adds what another gallery told."""
        if told:
            self.ranked = None
            self.vectors.append(told["vectors"])
            self.identities.append(told["identities"])
            self.places += [(image, tuple(box)) for image, box in told["places"]]
            self.datasets += told["datasets"]

    def rank(self, apart: bool) -> Ranking | None:
        """apart: a vector does not see the others of its image."""
        if self.places and self.ranked is None:
            self.ranked = rank(torch.cat(self.vectors), torch.cat(self.identities), self._groups(apart), _DEPTH)
        return self.ranked

    def _groups(self, apart: bool) -> Tensor:
        numbers = {image: number for number, (image, _) in enumerate(self.places)}
        return torch.tensor([numbers[image] if apart else row for row, (image, _) in enumerate(self.places)])

    def kept(self, apart: bool, names: Sequence[str]) -> Kept | None:
        """All of it for a person to see; None where nothing can be found."""
        ranking = self.rank(apart)
        if ranking is None:
            return None
        places = [(dataset, *place) for dataset, place in zip(self.datasets, self.places, strict=True)]
        vectors, identities = torch.cat(self.vectors), torch.cat(self.identities)
        return Kept(vectors, identities, self._groups(apart), places, ranking, names, whole=not apart)

    def examples(self, n: int, apart: bool) -> list[tuple[Place, list[Found]]]:
        ranking = self.rank(apart)
        if ranking is None or n < 1:
            return []
        identities = torch.cat(self.identities).tolist()
        chosen = torch.linspace(0, len(ranking.queries) - 1, min(n, len(ranking.queries))).round().long().tolist()
        examples = []
        for index in chosen:
            query = int(ranking.queries[index])
            rows = [row for row in ranking.neighbours[index, :_SHOWN].tolist() if row >= 0]
            found = [(*self.places[row], identities[row] == identities[query]) for row in rows]
            examples.append((self.places[query], found))
        return examples


def _scores(ranking: Ranking | None) -> dict[str, float]:
    if ranking is None:
        return {}
    return {"R@1": ranking.recall(1), "R@5": ranking.recall(5), "mAP@R": ranking.map_at_r}


def _whole(frame: Frame) -> Tensor:
    """The box (1, 4) of a whole original image."""
    height, width = frame.size
    return torch.tensor([[0.0, 0.0, float(width), float(height)]])
