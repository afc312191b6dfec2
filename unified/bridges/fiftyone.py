# SPDX-License-Identifier: Apache-2.0
"""FiftyOne: a model of ours as one of its models, for ``dataset.apply_model`` and ``dataset.compute_embeddings``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unified.contracts.errors import ConfigError, needs
from unified.inference.model import UnifiedModel
from unified.inference.results import Result

try:
    import fiftyone
    from fiftyone.core.models import EmbeddingsMixin, Model
except ImportError:
    raise needs("the FiftyOne bridge", "fiftyone", "fiftyone") from None

Pixels = NDArray[np.uint8]


class FiftyOneModel(EmbeddingsMixin, Model):  # type: ignore[misc]
    """A :class:`unified.UnifiedModel` behind ``fiftyone.core.models.Model``; the network is shared, not copied.

    With boxes and tags asked for, a prediction is ``{"boxes": fo.Detections, "tags": fo.Classifications}``, which
    FiftyOne stores in the fields ``FIELD_boxes`` and ``FIELD_tags``; with one of them, it is that label alone. A box's
    vector stands in its detection's ``embedding``.

    Args:
        model: whose answers are wanted.
        tasks: which are asked; by default all.
        confidence: least score of a box.
        tag_threshold: least score of a tag.
        batch_size: pictures a pass.

    Raises:
        ConfigError: an unknown task, or tasks without boxes, tags and embeddings.
    """

    def __init__(
        self,
        model: UnifiedModel,
        tasks: str | Sequence[str] = "all",
        confidence: float = 0.25,
        tag_threshold: float = 0.5,
        batch_size: int = 16,
    ) -> None:
        super().__init__()
        self.model, self.confidence, self.tag_threshold = model, confidence, tag_threshold
        self.tasks, self.batch_size = tuple(model._asked(tasks)), batch_size
        given = {field for name in self.tasks for field in model.trained.tasks[name].provides}
        self.gives = tuple(kind for kind, field in (("boxes", "boxes_xyxy"), ("tags", "tag_scores")) if field in given)
        self._embeds = "embedding" in given
        self._vectors: NDArray[np.float32] | None = None
        if not (self.gives or self._embeds):
            raise ConfigError(f"tasks {', '.join(self.tasks)} give neither boxes, tags nor embeddings for FiftyOne")

    media_type = property(lambda self: "image")
    transforms = property(lambda self: None, doc="None: pictures are fitted to the network by the model itself.")
    ragged_batches = property(lambda self: False, doc="False: the pictures of a batch may be of any sizes.")
    has_embeddings = property(lambda self: self._embeds)

    @property
    def preprocess(self) -> bool:
        """False: FiftyOne hands over pictures as they are."""
        return False

    @preprocess.setter
    def preprocess(self, value: bool) -> None:
        """There is nothing to switch."""

    def predict(self, arg: Pixels) -> Any:
        """The labels of one picture uint8 (H, W, 3) RGB."""
        return self.predict_all([arg])[0]

    def predict_all(self, args: Iterable[Pixels]) -> list[Any]:
        """The labels of pictures uint8 (H, W, 3) RGB, of any sizes."""
        found = self._results(args)
        self._vectors = _stacked(found) if self._embeds else None
        return [self._labels(result) for result in found]

    def get_embeddings(self) -> NDArray[np.float32]:
        """(B, D) unit vectors of the pictures that were last looked at.

        Raises:
            ConfigError: the tasks give none, or nothing was looked at.
        """
        if self._vectors is None:
            raise ConfigError("no embeddings: ask a task that gives them, and predict first")
        return self._vectors

    def embed(self, arg: Pixels) -> NDArray[np.float32]:
        """(D,) unit vector of one picture uint8 (H, W, 3) RGB."""
        vector: NDArray[np.float32] = self.embed_all([arg])[0]
        return vector

    def embed_all(self, args: Iterable[Pixels]) -> NDArray[np.float32]:
        """(B, D) unit vectors of pictures uint8 (H, W, 3) RGB."""
        if not self._embeds:
            raise ConfigError(f"tasks {', '.join(self.tasks)} give no embedding of a picture")
        self._vectors = _stacked(self._results(args))
        return self._vectors

    def _results(self, args: Iterable[Pixels]) -> list[Result]:
        pictures = [np.asarray(each) for each in args]
        options = {"batch_size": self.batch_size, "confidence": self.confidence}
        return self.model.predict(pictures, self.tasks, **options)

    def _labels(self, result: Result) -> Any:
        said = {"boxes": lambda: detections(result), "tags": lambda: classifications(result, self.tag_threshold)}
        made = {kind: said[kind]() for kind in self.gives}
        return next(iter(made.values())) if len(made) == 1 else made


def _stacked(found: Sequence[Result]) -> NDArray[np.float32]:
    return np.stack([result.embedding.numpy() for result in found if result.embedding is not None])


def detections(result: Result) -> Any:
    """The boxes of a result as ``fiftyone.Detections``: in shares of width and height, with their vectors."""
    height, width = result.size
    boxes = result.boxes
    made = []
    for k, box in enumerate(boxes or ()):
        left, top, right, bottom = box.xyxy
        place = [left / width, top / height, (right - left) / width, (bottom - top) / height]
        more: dict[str, Any] = {} if boxes is None or boxes.embeddings is None else {"embedding": boxes.embeddings[k]}
        more = {key: value.numpy() for key, value in more.items()} | ({"index": box.track} if box.track else {})
        made.append(fiftyone.Detection(label=box.name, bounding_box=place, confidence=box.score, **more))
    return fiftyone.Detections(detections=made)


def classifications(result: Result, least: float = 0.5) -> Any:
    """The tags of a result from a score of ``least`` on as ``fiftyone.Classifications``, best first."""
    likely: Sequence[tuple[str, float]] = sorted(result.tags.items(), key=lambda tag: -tag[1])
    made = [fiftyone.Classification(label=name, confidence=score) for name, score in likely if score >= least]
    return fiftyone.Classifications(classifications=made)
