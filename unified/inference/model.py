# SPDX-License-Identifier: Apache-2.0
"""A trained model in the hand: anything with pictures in; boxes, tags and embeddings out, in one pass.

Legend: n pictures, N boxes of a picture, D embedding width. Boxes are xyxy in pixels of the picture as given.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unified import __version__
from unified.contracts.errors import CheckpointError, ConfigError, DataError, suggestion
from unified.contracts.plugins import noted
from unified.hardware import pick
from unified.inference.card import card, facts_of
from unified.inference.encoder import Precision, calibrate, quantize, shorten, similarity
from unified.inference.fused import check_whole, own_precision, placeable
from unified.inference.growable import Growable
from unified.inference.predictor import Predictor, fit
from unified.inference.results import Result, result_of
from unified.inference.source import Picture, Source, boxes_of, open_source
from unified.inference.space import fingerprint
from unified.inference.text import encode_text as text_vectors
from unified.inference.tracking import track as track_source
from unified.model.network import UnifiedNetwork
from unified.pretrained import CONFIG, Pack, is_pack, write_pack
from unified.trained import Trained, load_trained

Tasks: TypeAlias = Literal["all"] | str | Sequence[str]
Level: TypeAlias = Literal["image", "box"]
Held: TypeAlias = bytes | Image.Image | NDArray[np.uint8] | Tensor
"""A picture in the memory: always one answer."""

LEVELS: Mapping[str, str] = {"image": "embedding", "box": "box_embeddings"}
"""Levels of :meth:`UnifiedModel.encode` and the fields of a prediction they are."""


class UnifiedModel(Growable):
    """A trained network with everything it needs to answer for pictures.

    Threads may share a model: each gets the answers it would get alone.

    Args:
        trained: what :func:`unified.trained.load_trained` read.
        device: ``auto`` takes CUDA, then MPS, then the CPU.
        precision: ``fp32``, ``bf16``, ``fp16``, or ``auto``: half where the device computes in it. Convolutions are
            laid out channels-last.
        fuse: whether latents and batch norms become part of their convolutions: quicker, equal to rounding, and of the
            same embedding space; such a model cannot be saved or grown.
    """

    def __init__(self, trained: Trained, device: str = "auto", precision: str = "auto", fuse: bool = False) -> None:
        self.trained = trained
        self.hardware = own_precision(pick(device, precision), trained)
        self.network: UnifiedNetwork = self.hardware.place(placeable(trained, fuse)).eval()
        self.size = trained.config.train.size  # pixels: side of the network's square input
        self._predictor = Predictor(self.network, trained.tasks, self.hardware)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        tasks: Sequence[str] | None = None,
        device: str = "auto",
        precision: str = "auto",
        fuse: bool = False,
    ) -> UnifiedModel:
        """A model that :meth:`save_pretrained` wrote.

        Args:
            folder: where it lies; nothing is fetched from anywhere.
            tasks: only these are built, and only their weights read from the disk; all by default.
            device, precision, fuse: as of the class.

        Raises:
            CheckpointError: there is none, or it is damaged.
            ConfigError: it has no such task.
        """
        path = Path(folder)
        if not is_pack(path):
            what = f"holds no {CONFIG}" if path.is_dir() else "is no folder here, and nothing is fetched"
            raise CheckpointError(f"'{folder}' {what}; give a folder written by save_pretrained, or unified.load(RUN)")
        return cls(load_trained(path, tasks), device, precision, fuse)

    def save_pretrained(
        self,
        folder: str | Path,
        licence: str = "",
        data_licences: Mapping[str, str] | None = None,
        description: str = "",
    ) -> Path:
        """Writes the model to hand on: ``model.safetensors``, ``config.json`` and a card, ``README.md``.

        Dataset paths of this machine are left out. Words that are not given keep what an earlier card said.

        Args:
            folder: made where it is not there.
            licence: of the weights, such as ``apache-2.0``.
            data_licences: of the training data, by dataset.
            description: a paragraph for the card.

        Returns:
            The folder.

        Raises:
            CheckpointError: it cannot be written.
            ConfigError: the model is a fused one.
        """
        check_whole(self.network)
        known = self.trained.provenance
        provenance = replace(
            known,
            licence=licence or known.licence,
            data_licences={**known.data_licences, **(data_licences or {})},
            description=description or known.description,
        )
        path = Path(folder)
        tensors = self.network.state_dict()
        pack = Pack(self.trained.config, self.trained.vocabulary, provenance, tensors)
        told = facts_of(path.resolve().name, replace(self.trained, provenance=provenance), self.network, self.spaces)
        notes = {"unified": __version__, "spaces": self.spaces, "plugins": noted(self.trained.config)}
        write_pack(path, pack, card(told), notes)
        return path

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks this model answers."""
        return tuple(self.network.heads)

    @property
    def predictor(self) -> Predictor:
        """The pass itself, for who fits pictures and gathers batches on its own; threads may share it."""
        return self._predictor

    @cached_property
    def spaces(self) -> dict[str, str]:
        """The fingerprint of the embedding space of every task that gives vectors, at the model's own size."""
        giving = [name for name in self.tasks if set(LEVELS.values()) & set(self.trained.tasks[name].provides)]
        return {name: fingerprint(self.network, self.trained.config.model, name, self.size) for name in giving}

    @property
    def space(self) -> str | None:
        """The fingerprint of :meth:`encode`'s space; None for a model without embeddings.

        Keep it beside vectors: those of equal fingerprints can be compared, others cannot.
        """
        return list(self.spaces.values())[-1] if self.spaces else None

    def space_at(self, size: int | None) -> str | None:
        """The fingerprint of the space at another input size in pixels, which is another space."""
        if size is None or size == self.size or not self.spaces:
            return self.space
        side = self.network.check_size(size)
        return fingerprint(self.network, self.trained.config.model, list(self.spaces)[-1], side)

    @overload
    def predict(self, source: Held, tasks: Tasks = ..., *, stream: Literal[False] = ..., **options: Any) -> Result: ...
    @overload
    def predict(
        self, source: Source, tasks: Tasks = ..., *, stream: Literal[True], **options: Any
    ) -> Iterator[Result]: ...
    @overload
    def predict(self, source: str | Path, tasks: Tasks = ..., **options: Any) -> Any: ...
    @overload
    def predict(self, source: int | Sequence[Picture | int], tasks: Tasks = ..., **options: Any) -> list[Result]: ...
    def predict(
        self,
        source: Source,
        tasks: Tasks = "all",
        confidence: float = 0.25,
        size: int | None = None,
        batch_size: int = 16,
        *,
        conf: float | None = None,
        stream: bool = False,
        workers: int | None = None,
        **options: Any,
    ) -> Result | list[Result] | Iterator[Result]:
        """Everything the network says of a picture, or of each of several; the trunk runs once for all tasks.

        Args:
            source: a path, a folder (searched to its bottom), a shell pattern, the bytes of a picture file, a PIL
                image, an array uint8 (H, W, 3) in RGB order, a tensor (3, H, W) in RGB order (uint8, or floating in
                0..1), a video file, a camera's number, or a list of these. URLs are refused.
            tasks: ``all``, a name, or names.
            confidence, conf: least score of a box, 0..1; two names of one thing.
            size: side of the network's input in pixels, a multiple of its coarsest stride; by default the training's.
            batch_size: pictures a pass.
            stream: whether to give results one after another, holding one batch at a time, instead of a list.
            workers: threads that read ahead; by default as many as there are cores, at most 8. Videos have one.
            options: passed on to every task, such as ``nms_iou`` or ``max_boxes``.

        Returns:
            One :class:`Result` for one picture, a list for what may hold several, an iterator with ``stream``. Boxes in
            the picture's own pixels; tensors float32 on the CPU.

        Raises:
            ConfigError: a task this model does not have, or a number that does not fit.
            DataError: nothing there, a picture or video that cannot be read, or a camera without ``stream``.
        """
        least = confidence if conf is None else conf
        asked, side = self._asked(tasks), self._side(size)
        if not 0 <= least <= 1:
            raise ConfigError(f"confidence must be in 0..1, got {least}")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be 1 or more, got {batch_size}")
        supply = open_source(source)
        if supply.endless and not stream:
            raise DataError("a camera never ends; give stream=True and stop when you have enough")
        pairs = self._predictor.stream(supply, asked, side, batch_size, {"confidence": least, **options}, workers)
        found = (result_of(said, still, keep=stream or still.origin.frame is None) for still, said in pairs)
        if stream:
            return found
        return next(found) if supply.single else list(found)

    def encode(
        self,
        images: Source,
        level: Level = "image",
        batch_size: int = 16,
        *,
        boxes: Tensor | Sequence[Tensor] | None = None,
        normalize: bool = True,
        truncate_dim: int | None = None,
        precision: Precision = "float32",
        ranges: Tensor | None = None,
        tasks: Tasks | None = None,
        size: int | None = None,
        **options: Any,
    ) -> Tensor | list[Tensor]:
        """Embeddings of pictures, or of the boxes in them, on the CPU.

        Args:
            images: any source of :meth:`predict`.
            level: ``image`` for one vector a picture; ``box`` for one a box: those found, in the order of
                :meth:`predict`, or those given.
            batch_size: pictures a pass.
            boxes: for ``box``: for each picture (N, 4) xyxy in its own pixels, instead of finding them.
            normalize: to unit length, after shortening.
            truncate_dim: keep only the first so many coordinates.
            precision: ``float32``, ``float16``; ``int8``; ``binary``: uint8 with a bit a coordinate.
            ranges: (2, D) of :meth:`calibrate`, for ``int8``; without, a fixed range that suits unit vectors.
            tasks: which to ask; by default those needed.
            size: side of the input in pixels; another size is another space, see :meth:`space_at`.
            options: passed on to every task, such as ``confidence``.

        Returns:
            ``image``: (n, D), or (D,) for a single picture. ``box``: for each picture (N, D), or one such tensor. With
            ``binary``, D / 8 instead of D.

        Raises:
            ConfigError: an unknown level or precision, or a model that has no such embeddings.
            DataError: pictures that cannot be read, or boxes that do not fit them.
        """
        if level not in LEVELS:
            raise ConfigError(f"unknown level '{level}'{suggestion(level, LEVELS)}")
        quantize(torch.zeros(1, 8), precision)  # a wrong word is said before any picture is read
        if boxes is not None and level != "box":
            raise ConfigError("boxes are for level='box'")
        supply = open_source(images)
        known = None if boxes is None else boxes_of(boxes, supply)
        asked = self._asked(tasks) if tasks is not None else self.tasks_for(level, found=boxes is None)
        options = {"confidence": 0.25, **options}
        pairs = self._predictor.stream(supply, asked, self._side(size), batch_size, options, boxes=known)
        vectors = [getattr(said, LEVELS[level]) for _, said in pairs]
        if any(each is None for each in vectors):
            raise ConfigError(self._without(level))
        kept = [quantize(shorten(each, truncate_dim, normalize), precision, ranges) for each in vectors]
        if supply.single:
            return kept[0]
        return torch.stack(kept) if level == "image" else kept

    track = track_source
    encode_text = text_vectors
    similarity = staticmethod(similarity)
    calibrate = staticmethod(calibrate)

    def tasks_for(self, level: Level, found: bool = True) -> tuple[str, ...]:
        """The tasks that give embeddings of a level; for boxes, with those that find them unless ``found`` is False.

        Raises:
            ConfigError: there are none.
        """
        kinds = self.trained.tasks
        asked = {name for name in self.tasks if LEVELS[level] in kinds[name].provides}
        if not asked:
            raise ConfigError(self._without(level))
        wanted = {used for name in asked for used in kinds[name].uses} if found and level == "box" else set()
        return tuple(name for name in self.tasks if name in asked or wanted & set(kinds[name].provides))

    def warmup(self, batch_size: int = 1, size: int | None = None, passes: int = 2) -> float:
        """Runs passes over grey pictures, so that the first real one is not slow; returns the last one's seconds.

        Args:
            batch_size: pictures a pass; the one that is going to be used.
            size: side of the input in pixels.
            passes: how many.
        """
        grey = fit(torch.full((3, self._side(size), self._side(size)), 114, dtype=torch.uint8), self._side(size))
        seconds = 0.0
        for _ in range(max(1, passes)):
            start = time.perf_counter()
            self._predictor([grey] * batch_size, self.tasks, {"confidence": 0.25})
            seconds = time.perf_counter() - start
        return seconds

    def _side(self, size: int | None) -> int:
        return self.network.check_size(self.size if size is None else size)

    def _without(self, level: str) -> str:
        return f"this model gives no {level} embeddings; its tasks are {', '.join(self.tasks)}"


def load(
    path: str | Path,
    device: str = "auto",
    precision: str = "auto",
    tasks: Sequence[str] | None = None,
    fuse: bool = False,
) -> UnifiedModel:
    """A trained model, from a run's folder (its best checkpoint), a checkpoint's, one to hand on, or an exported file.

    Args:
        path: the folder, or an exported file such as ``model.onnx``, which its own program runs.
        device: ``auto`` takes CUDA, then MPS, then the CPU; or ``cpu``, ``cuda:1`` ...
        precision: ``auto``, ``fp32``, ``bf16``, ``fp16``; an exported file keeps its own.
        tasks: only these; all by default.
        fuse: see :class:`UnifiedModel`; changes nothing in an exported file, which is fused already.

    Raises:
        CheckpointError: there is none, it is damaged, or it does not fit its own configuration.
        ConfigError: the device is not on this machine, or the model has no such task.
    """
    return UnifiedModel(load_trained(Path(path), tasks), device, precision, fuse)
