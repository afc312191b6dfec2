# SPDX-License-Identifier: Apache-2.0
"""A trained model in the hand: pictures in; boxes, tags and embeddings out, in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unified.contracts.errors import ConfigError, DataError, suggestion
from unified.contracts.structures import Frame, Prediction
from unified.data.picture import read_picture, to_rgb
from unified.data.transforms import letterbox, to_pixels
from unified.hardware import pick
from unified.model.prediction import predict_all
from unified.trained import Trained, load_trained

Picture: TypeAlias = str | Path | Image.Image | NDArray[np.uint8] | Tensor
"""A file; a PIL image; a uint8 array (H, W, 3) in RGB order; or a uint8 tensor (3, H, W) in RGB order."""


def as_pixels(picture: Picture) -> Tensor:
    """Any picture as uint8 (3, H, W) RGB.

    Raises:
        DataError: an array or tensor of another shape or type, or a file that cannot be read.
    """
    if isinstance(picture, str | Path):
        return read_picture(Path(picture))
    if isinstance(picture, Image.Image):
        return to_pixels(to_rgb(picture))
    pixels = torch.from_numpy(np.ascontiguousarray(picture)) if isinstance(picture, np.ndarray) else picture
    if isinstance(picture, np.ndarray) and pixels.ndim == 3:
        pixels = pixels.permute(2, 0, 1)
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[0] != 3 or 0 in pixels.shape:
        raise DataError(
            f"a picture must be uint8 RGB, (H, W, 3) as an array or (3, H, W) as a tensor; "
            f"got {str(pixels.dtype).removeprefix('torch.')} of shape {tuple(picture.shape)}"
        )
    return pixels.cpu().contiguous()


class UnifiedModel:
    """A trained network with everything it needs to answer for pictures.

    Args:
        trained: what :func:`unified.trained.load_trained` read.
        device: ``auto`` takes the best there is.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``auto``.
    """

    def __init__(self, trained: Trained, device: str = "auto", precision: str = "auto") -> None:
        self.trained = trained
        self.hardware = pick(device, precision)
        self.network = self.hardware.place(trained.network).eval()
        self.size = trained.config.train.size  # pixels: side of the network's square input

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks this model answers."""
        return tuple(self.network.heads)

    @overload
    def predict(self, source: Picture, **options: Any) -> Prediction: ...
    @overload
    def predict(self, source: Sequence[Picture], **options: Any) -> list[Prediction]: ...
    def predict(
        self,
        source: Picture | Sequence[Picture],
        tasks: Literal["all"] | Sequence[str] = "all",
        confidence: float = 0.25,
        size: int | None = None,
        batch_size: int = 16,
        **options: Any,
    ) -> Prediction | list[Prediction]:
        """Everything the network says of a picture, or of each of several; the trunk runs once for all tasks.

        Args:
            source: a :data:`Picture` or a sequence of them.
            tasks: ``all`` or names of tasks.
            confidence: least score of a box, 0..1.
            size: side of the network's input in pixels, a multiple of its coarsest stride; by default the training's.
            batch_size: pictures a pass.
            options: passed on to every task, such as ``nms_iou`` or ``max_boxes``.

        Returns:
            One :class:`Prediction` for one picture, a list for a sequence; boxes in the picture's own pixels, tensors
            on the CPU.

        Raises:
            ConfigError: a task this model does not have, or a size that does not fit its strides.
            DataError: a picture that cannot be read.
        """
        single = isinstance(source, str | Path | Image.Image | np.ndarray | Tensor)
        pictures: Sequence[Picture] = [source] if single else source  # type: ignore[list-item,assignment]
        asked, side = self._asked(tasks), self.network.check_size(self.size if size is None else size)
        found: list[Prediction] = []
        for start in range(0, len(pictures), batch_size):
            some = pictures[start : start + batch_size]
            found += map(_settled, self._pass(some, asked, side, {"confidence": confidence, **options}))
        return found[0] if single else found

    def encode(
        self,
        images: Picture | Sequence[Picture],
        level: Literal["image", "box"] = "image",
        batch_size: int = 16,
        **options: Any,
    ) -> Tensor | list[Tensor]:
        """Embeddings as unit vectors, float32 on the CPU.

        Args:
            images: a picture or a sequence of them.
            level: ``image`` for one vector a picture; ``box`` for one a detected box, in the order of :meth:`predict`.
            batch_size: pictures a pass.
            options: passed on to :meth:`predict`, such as ``confidence``.

        Returns:
            ``image``: (n, D), or (D,) for a single picture. ``box``: for each picture (N_i, D), or one such tensor.

        Raises:
            ConfigError: an unknown level, or a model that has no such embeddings.
        """
        fields = {"image": "embedding", "box": "box_embeddings"}
        if level not in fields:
            raise ConfigError(f"unknown level '{level}'{suggestion(level, fields)}")
        single = isinstance(images, str | Path | Image.Image | np.ndarray | Tensor)
        pictures: Sequence[Picture] = [images] if single else images  # type: ignore[list-item,assignment]
        found = [getattr(p, fields[level]) for p in self.predict(pictures, batch_size=batch_size, **options)]
        if any(vectors is None for vectors in found):
            raise ConfigError(f"this model gives no {level} embeddings; its tasks are {', '.join(self.tasks)}")
        if single:
            return found[0]  # type: ignore[no-any-return]
        return torch.stack(found) if level == "image" and found else found

    def _asked(self, tasks: Literal["all"] | Sequence[str]) -> Sequence[str]:
        asked = self.tasks if tasks == "all" else (tasks,) if isinstance(tasks, str) else tasks
        for task in asked:
            if task not in self.tasks:
                raise ConfigError(f"this model has no task '{task}'{suggestion(task, self.tasks)}")
        return asked

    @torch.inference_mode()
    def _pass(
        self, pictures: Sequence[Picture], tasks: Sequence[str], side: int, options: dict[str, Any]
    ) -> list[Prediction]:
        fitted, frames = zip(*self._fit(pictures, side), strict=True)
        images = torch.stack(fitted).to(self.hardware.device, memory_format=torch.channels_last)
        with self.hardware.autocast():
            outputs = self.network(images, tasks)
            predictions = predict_all(self.trained.tasks, outputs, (side, side), len(pictures), **options)
        return [p.in_frame(frame) for p, frame in zip(predictions, frames, strict=True)]

    def _fit(self, pictures: Sequence[Picture], side: int) -> Iterator[tuple[Tensor, Frame]]:
        for picture in pictures:
            yield letterbox(as_pixels(picture), side)


def _settled(prediction: Prediction) -> Prediction:
    """The same prediction with its tensors as ordinary float32 on the CPU: a copy made outside of inference mode."""
    moved: dict[str, Any] = {}
    for field in fields(prediction):
        value = getattr(prediction, field.name)
        if isinstance(value, Tensor):
            moved[field.name] = (value.float() if value.is_floating_point() else value).cpu().clone()
    return replace(prediction, **moved)


def load(path: str | Path, device: str = "auto", precision: str = "auto") -> UnifiedModel:
    """A trained model, from a run's folder (its best checkpoint) or a checkpoint's folder.

    Raises:
        CheckpointError: there is none, it is damaged, or it does not fit its own configuration.
        ConfigError: the device is not on this machine.
    """
    return UnifiedModel(load_trained(Path(path)), device, precision)
