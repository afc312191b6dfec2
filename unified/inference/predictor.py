# SPDX-License-Identifier: Apache-2.0
"""The pass: fitted pictures in, every task's answer out, in each picture's own pixels."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unified.contracts.protocols import Task
from unified.contracts.structures import Frame, Prediction
from unified.data.transforms import letterbox
from unified.hardware import Hardware, cores
from unified.inference.source import Still, Supply, ahead, in_groups
from unified.model.network import UnifiedNetwork
from unified.model.prediction import predict_all


@dataclass(frozen=True)
class Fitted:
    """A picture as the network's input, and the way back to its own pixels."""

    pixels: Tensor  # (3, S, S) uint8 RGB
    frame: Frame


def fit(pixels: Tensor, side: int) -> Fitted:
    """A picture uint8 (3, H, W) on the grey of a square input of ``side`` pixels."""
    return Fitted(*letterbox(pixels, side))


class Predictor:
    """One trunk pass for a batch of pictures and all tasks asked of them.

    Threads may share it: passes take turns, because what a head of another package keeps between calls is unknown and
    a second pass beside the first gains nothing; reading and fitting pictures run beside it.

    Args:
        network: placed and in evaluation mode.
        tasks: by name.
        hardware: where it runs and in which precision.
    """

    def __init__(self, network: UnifiedNetwork, tasks: Mapping[str, Task], hardware: Hardware) -> None:
        self.network, self.tasks, self.hardware = network, tasks, hardware
        self._turn = threading.Lock()

    def __call__(
        self,
        pictures: Sequence[Fitted],
        tasks: Sequence[str],
        options: Mapping[str, Any],
        boxes: Sequence[Tensor] | None = None,
    ) -> list[Prediction]:
        """What the network says of each picture.

        Args:
            pictures: B of one side S.
            tasks: whose answers are wanted.
            options: passed on to every task.
            boxes: for each picture (N, 4) xyxy in its own pixels, known beforehand, for tasks that use boxes.

        Returns:
            B predictions in the pictures' own pixels; ordinary float32 tensors on the CPU.
        """
        check: Any = getattr(self.network, "check_options", None)  # an exported one may have settled some
        if check is not None:
            check(options)
        with self._turn:
            found = self._pass(pictures, tasks, options, boxes)
        return [_settled(prediction) for prediction in found]

    def stream(
        self,
        supply: Supply,
        tasks: Sequence[str],
        side: int,
        batch_size: int,
        options: Mapping[str, Any],
        workers: int | None = None,
        boxes: Iterator[Tensor] | None = None,
    ) -> Iterator[tuple[Still, Prediction]]:
        """Every picture of a source with what the network says of it, in order; one batch is held at a time.

        Args:
            supply: the pictures.
            tasks, options: as of a call.
            side: of the network's input in pixels.
            batch_size: pictures a pass; of a camera always one, so that no frame waits for another.
            workers: threads that read and fit pictures while the network works; 0: none.
            boxes: as of a call, one after another.

        Raises:
            DataError: a picture that cannot be read, after those before it.
        """

        def ready(still: Still) -> tuple[Still, Fitted]:
            return still, fit(still.read(), side)

        threads = min(8, cores()) if workers is None else workers
        alone = supply.endless or supply.single or threads < 1
        pairs = map(ready, supply.stills) if alone else ahead(supply.stills, ready, threads, 2 * batch_size)
        for group in in_groups(pairs, 1 if supply.endless else batch_size):
            known = None if boxes is None else [next(boxes) for _ in group]
            found = self([fitted for _, fitted in group], tasks, options, known)
            yield from zip((still for still, _ in group), found, strict=True)

    @torch.inference_mode()
    def _pass(
        self,
        pictures: Sequence[Fitted],
        tasks: Sequence[str],
        options: Mapping[str, Any],
        boxes: Sequence[Tensor] | None,
    ) -> list[Prediction]:
        size = (int(pictures[0].pixels.shape[1]), int(pictures[0].pixels.shape[2]))
        images = torch.stack([picture.pixels for picture in pictures])
        images = images.to(self.hardware.device, memory_format=torch.channels_last)
        given = [
            Prediction(size=size, boxes_xyxy=picture.frame.to_input(each.float()))
            for picture, each in zip(pictures, boxes or (), strict=bool(boxes))
        ]
        with self.hardware.autocast():
            outputs = self.network(images, tasks)
            frames = [picture.frame for picture in pictures]
            found = predict_all(self.tasks, outputs, size, len(pictures), given=given, frames=frames, **options)
        return [said.in_frame(picture.frame) for said, picture in zip(found, pictures, strict=True)]


def _settled(prediction: Prediction) -> Prediction:
    """The same prediction with its tensors as ordinary ones on the CPU: a copy made outside of inference mode."""
    return replace(
        prediction, **{field.name: _at_rest(getattr(prediction, field.name)) for field in fields(prediction)}
    )


def _at_rest(value: Any) -> Any:
    """Floats become float32; what a task of another package says is followed through mappings, lists and structures."""
    if isinstance(value, Tensor):
        return (value.float() if value.is_floating_point() else value).cpu().clone()
    if isinstance(value, Mapping):
        return {key: _at_rest(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_at_rest(each) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _at_rest(getattr(value, f.name)) for f in fields(value) if f.init})
    return value
