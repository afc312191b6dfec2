# SPDX-License-Identifier: Apache-2.0
"""What a person gets back for one picture, and the forms other tools want it in.

Legend: N boxes, D embedding width. Boxes are in pixels of the picture as it was given, whatever the network's input.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unified.contracts.errors import ConfigError, DataError, needs, suggestion
from unified.contracts.structures import Prediction
from unified.data.transforms import to_image
from unified.inference.drawing import TAG_SHOWN, Marks, draw
from unified.inference.source import Origin, Picture, Still, as_pixels

if TYPE_CHECKING:
    import pandas
    import supervision

Index: TypeAlias = int | slice | Sequence[int] | Tensor
_DRAWN = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}


@dataclass(frozen=True)
class Box:
    """One box in plain Python."""

    xyxy: tuple[float, float, float, float]  # pixels
    score: float  # 0..1
    label: int
    name: str
    track: int | None = None  # number of its object in a video


@dataclass(frozen=True, eq=False)
class Boxes:
    """The boxes of one picture, best score first; indexing with a number, a slice, indices or a mask selects some."""

    xyxy: Tensor  # (N, 4) pixels: left, top, right, bottom
    scores: Tensor  # (N,) in 0..1
    labels: Tensor  # (N,) int64, index into ``classes``
    classes: tuple[str, ...]
    size: tuple[int, int]  # (height, width) of the picture, pixels
    embeddings: Tensor | None = None  # (N, D) unit length
    tracks: Tensor | None = None  # (N,) int64 from 1: one number for one object of a video

    def __len__(self) -> int:
        return len(self.xyxy)

    def __iter__(self) -> Iterator[Box]:
        tracks = [None] * len(self) if self.tracks is None else self.tracks.tolist()
        rows = zip(self.xyxy.tolist(), self.scores.tolist(), self.labels.tolist(), self.names, tracks, strict=True)
        return (Box((box[0], box[1], box[2], box[3]), *rest) for box, *rest in rows)

    def __getitem__(self, index: Index) -> Boxes:
        rows: Any = [index] if isinstance(index, int) else index
        kept = (None if column is None else column[rows] for column in (self.embeddings, self.tracks))
        return Boxes(self.xyxy[rows], self.scores[rows], self.labels[rows], self.classes, self.size, *kept)

    @property
    def names(self) -> list[str]:
        """The class name of every box."""
        return [self.classes[i] if i < len(self.classes) else f"class {i}" for i in self.labels.tolist()]

    @property
    def xywh(self) -> Tensor:
        """(N, 4) pixels: left, top, width, height, as COCO writes boxes."""
        return torch.cat([self.xyxy[:, :2], self.xyxy[:, 2:] - self.xyxy[:, :2]], dim=1)

    @property
    def cxcywh(self) -> Tensor:
        """(N, 4) pixels: centre x and y, width, height."""
        return torch.cat([(self.xyxy[:, :2] + self.xyxy[:, 2:]) / 2, self.xyxy[:, 2:] - self.xyxy[:, :2]], dim=1)

    @property
    def xyxyn(self) -> Tensor:
        """(N, 4) shares 0..1 of the picture's width and height."""
        height, width = self.size
        return self.xyxy / self.xyxy.new_tensor([width, height, width, height])

    @property
    def conf(self) -> Tensor:
        """Another name of ``scores``."""
        return self.scores

    @property
    def cls(self) -> Tensor:
        """Another name of ``labels``."""
        return self.labels

    @property
    def id(self) -> Tensor | None:
        """Another name of ``tracks``."""
        return self.tracks


@dataclass(frozen=True, eq=False)
class Result(Prediction):
    """Everything the network says of one picture: a :class:`Prediction` that knows its picture.

    ``boxes``, ``tags``, ``embedding`` and ``box_embeddings`` are None (``tags``: empty) where no task that was asked
    gives them. What tasks of other packages say stands in ``extras`` by task name.
    """

    origin: Origin = field(default_factory=Origin)
    still: Still | None = field(default=None, repr=False)  # the way back to the pixels; None of a video without stream
    track_ids: Tensor | None = None  # (N,) int64 from 1, row i belongs to box i; of what tracking gives

    @property
    def boxes(self) -> Boxes | None:
        """The boxes with their scores, labels and vectors; None where no task that finds boxes was asked."""
        if self.boxes_xyxy is None:
            return None
        count = len(self.boxes_xyxy)
        scores = torch.ones(count) if self.scores is None else self.scores
        labels = torch.zeros(count, dtype=torch.int64) if self.labels is None else self.labels
        return Boxes(self.boxes_xyxy, scores, labels, self.box_names, self.size, self.box_embeddings, self.track_ids)

    def plot(self, picture: Picture | None = None, tag_threshold: float = TAG_SHOWN) -> Image.Image:
        """The picture with its boxes, and its tags in a strip below; RGB, at least 480 pixels on its longer side.

        Args:
            picture: the pixels to draw on; by default those that were looked at, read again from their file.
            tag_threshold: least score of a tag in the strip.

        Raises:
            DataError: the file is gone, or a video's frames were not kept.
        """
        if picture is None and self.still is None:
            raise DataError(
                f"the pixels of {self.origin.name} were not kept; predict with stream=True, or give plot(picture=...)"
            )
        pixels = as_pixels(picture) if picture is not None else self.still.read()  # type: ignore[union-attr]
        marks = None if self.track_ids is None else Marks(tuple(self.track_ids.tolist()))
        return draw(to_image(pixels), self, tag_threshold=tag_threshold, marks=marks)

    def save(self, path: str | Path | None = None) -> Path:
        """Writes the drawn picture, or with the suffix ``.json`` all numbers; returns where.

        Args:
            path: a file with the suffix .jpg, .png, .webp or .json, or a folder, which gets ``NAME.jpg``; by default
                the current folder. A drawing never takes the place of the picture it was made from.

        Raises:
            DataError: another suffix, or the picture itself would be overwritten; see also :meth:`plot`.
        """
        target = Path(path or ".")
        if target.is_dir() or not target.suffix:
            target /= f"{self._stem()}-seen.jpg"
        if target.suffix.lower() != ".json" and target.suffix.lower() not in _DRAWN:
            raise DataError(f"'{target}': unknown suffix{suggestion(target.suffix, [*_DRAWN, '.json'])}")
        if self.origin.path is not None and target.resolve() == self.origin.path.resolve():
            raise DataError(f"'{target}' is the picture itself; give another name")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix.lower() == ".json":
            target.write_text(json.dumps(self.to_dict(), indent=1), encoding="utf-8")
        else:
            self.plot().save(target, _DRAWN[target.suffix.lower()], quality=92)
        return target

    def to_dict(self, embeddings: bool = True) -> dict[str, Any]:
        """All numbers as JSON knows them; vectors as lists, or only their lengths."""
        where = {"frame": self.origin.frame, "seconds": self.origin.seconds}
        told = {key: value for key, value in where.items() if value is not None}
        entry = {"source": self.origin.name, **told, **as_dict(self, embeddings)}
        if self.track_ids is not None:
            for box, number in zip(entry.get("boxes", ()), self.track_ids.tolist(), strict=True):
                box["track"] = number
        return entry

    def to_coco(self, image_id: int | str = 0, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """The boxes as COCO result entries: ``image_id``, ``category_id``, ``bbox`` (x, y, w, h in pixels), ``score``.

        Args:
            image_id: of the picture in your annotation file.
            category_ids: for each class its id there; by default 1, 2, 3 ... in the order of ``box_names``.

        Raises:
            ConfigError: as many ids as classes are needed.
        """
        if category_ids is not None and len(category_ids) != len(self.box_names):
            raise ConfigError(f"category_ids has {len(category_ids)} ids for {len(self.box_names)} classes")
        if self.boxes is None:
            return []
        ids = category_ids or range(1, len(self.box_names) + 1)
        rows = zip(self.boxes.xywh.tolist(), self.boxes.labels.tolist(), self.boxes.scores.tolist(), strict=True)
        return [
            {"image_id": image_id, "category_id": int(ids[label]), "bbox": box, "score": score}
            for box, label, score in rows
        ]

    def to_supervision(self) -> supervision.Detections:
        """The boxes as ``supervision.Detections``; class names and vectors under ``class_name`` and ``embedding``.

        Raises:
            ConfigError: supervision is not installed (extra ``supervision``).
        """
        try:
            import supervision
        except ImportError:
            raise needs("to_supervision()", "supervision", "supervision") from None
        boxes = self.boxes
        if boxes is None or not len(boxes):
            return supervision.Detections.empty()
        data: dict[str, Any] = {"class_name": np.array(boxes.names)}
        if boxes.embeddings is not None:
            data["embedding"] = boxes.embeddings.numpy()
        return supervision.Detections(
            xyxy=boxes.xyxy.numpy(),
            confidence=boxes.scores.numpy(),
            class_id=boxes.labels.numpy(),
            tracker_id=None if boxes.tracks is None else boxes.tracks.numpy(),
            data=data,
        )

    def to_pandas(self, table: Literal["boxes", "tags"] = "boxes") -> pandas.DataFrame:
        """A table with a row a box (``name label score x0 y0 x1 y1``, pixels) or a row a tag (``name score``).

        Boxes that belong to tracks have a column ``track`` too.

        Raises:
            ConfigError: pandas is not installed (extra ``pandas``), or an unknown table.
        """
        try:
            import pandas
        except ImportError:
            raise needs("to_pandas()", "pandas", "pandas") from None
        if table == "tags":
            return pandas.DataFrame({"name": list(self.tags), "score": list(self.tags.values())})
        if table != "boxes":
            raise ConfigError(f"unknown table '{table}'{suggestion(table, ['boxes', 'tags'])}")
        rows = [(box.name, box.label, box.score, *box.xyxy) for box in self.boxes or ()]
        found = pandas.DataFrame(rows, columns=["name", "label", "score", "x0", "y0", "x1", "y1"])
        return found if self.track_ids is None else found.assign(track=self.track_ids.numpy())

    def _stem(self) -> str:
        stem = self.origin.path.stem if self.origin.path else self.origin.name.replace(" ", "-")
        return stem if self.origin.frame is None else f"{stem}-{self.origin.frame:06d}"


def result_of(prediction: Prediction, still: Still, keep: bool = True) -> Result:
    """A prediction as a result; ``keep``: whether the result leads back to the pixels."""
    said = {each.name: getattr(prediction, each.name) for each in fields(Prediction)}
    return Result(**said, origin=still.origin, still=still if keep else None)


def as_dict(prediction: Prediction, embeddings: bool = True) -> dict[str, Any]:
    """A prediction in plain JSON: boxes in pixels, tags, vectors or their lengths, and what other tasks say."""
    height, width = prediction.size
    entry: dict[str, Any] = {"size": {"width": width, "height": height}}
    if prediction.boxes_xyxy is not None and prediction.labels is not None and prediction.scores is not None:
        rows = zip(prediction.boxes_xyxy.tolist(), prediction.labels.tolist(), prediction.scores.tolist(), strict=True)
        entry["boxes"] = [
            {"name": prediction.box_names[label], "score": round(score, 4), "box_xyxy": [round(v, 2) for v in box]}
            for box, label, score in rows
        ]
    if prediction.tag_scores is not None:
        entry["tags"] = {name: round(score, 4) for name, score in prediction.tags.items()}
    if prediction.embedding is not None:
        vector = prediction.embedding.tolist()
        entry["embedding"] = vector if embeddings else len(vector)
    if prediction.box_embeddings is not None:
        vectors = prediction.box_embeddings
        entry["box_embeddings"] = vectors.tolist() if embeddings else list(vectors.shape)
    if prediction.extras:
        entry["extras"] = {name: _plain(said) for name, said in prediction.extras.items()}
    return entry


def _plain(value: Any) -> Any:
    """What a task of another package says, as JSON: by its ``to_dict()`` where it has one."""
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)
