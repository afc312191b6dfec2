# SPDX-License-Identifier: Apache-2.0
"""Where a stored picture becomes a training picture: every choice a function of (seed, epoch, dataset, index)."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from unified.contracts.config import AugmentConfig
from unified.contracts.structures import Frame, Sample
from unified.data.labels import LabelReader
from unified.data.mosaic import mixup, mosaic
from unified.data.occlusion import draw_cutout, paste, pasteable
from unified.data.transforms import (
    Size,
    View,
    both_sides,
    compose,
    draw_affine,
    draw_flip,
    draw_jitter,
    draws_affine,
    fitting_matrix,
    letterbox_frame,
    move,
    move_extras,
    to_pixels,
    view_of,
)


def stream(seed: int, epoch: int, dataset: str, index: int, salt: int) -> np.random.Generator:
    """The random numbers of one sample, whichever process or rank draws them."""
    key = [seed, epoch, zlib.crc32(dataset.encode()), index, salt]
    return np.random.default_rng(np.random.SeedSequence(key))


@dataclass(frozen=True)
class Stored:
    """A picture as its dataset has it, in the run's words; ``bare``: it was stored without boxes."""

    sample: Sample
    bare: bool


class Darkroom:
    """Develops the pictures of one dataset.

    Args:
        read: one stored picture by its index.
        count: pictures of the dataset.
        reader: what the dataset says of every task.
        size: of the network's input in pixels; for mosaics it is a square.
    """

    def __init__(self, read: Callable[[int], Stored], count: int, reader: LabelReader, size: Size) -> None:
        self.read, self.count, self.reader, self.size = read, count, reader, both_sides(size)

    def develop(self, index: int, rng: np.random.Generator, augment: AugmentConfig) -> Sample:
        """One picture after all transforms, with the label states that are true of what it shows."""
        mixed, first = set[str](), self.read(index)
        if rng.random() < augment.mosaic:
            view, bare = self._mosaic(first, rng, augment, mixed)
        else:
            view, bare = self._moved(view_of(first.sample), rng, augment), first.bare
        if augment.copy_paste and rng.random() < augment.copy_paste:
            view, bare = self._pasted(view, bare, rng, augment, mixed)
        view = draw_jitter(draw_flip(view, rng, augment), rng, augment)
        view = draw_cutout(view, rng, augment)
        annotations = self.reader.finish(view.annotations, view.cut, bare=bare, mixed=mixed)
        frame = first.sample.frame
        return Sample(to_pixels(view.image), annotations, Frame(frame.image_id, frame.size))

    def _mosaic(
        self, first: Stored, rng: np.random.Generator, augment: AugmentConfig, mixed: set[str]
    ) -> tuple[View, bool]:
        """An image among others of its dataset, by chance blended with a second mosaic; and whether all are bare."""
        mixed.add("mosaic")
        view, bare = self._joined([first], rng, augment)
        if augment.mixup and rng.random() < augment.mixup:
            mixed.add("mixup")
            second, empty = self._joined([], rng, augment)
            states = self.reader.joined([view.annotations, second.annotations])
            view, bare = mixup(view, second, float(rng.beta(8.0, 8.0))), bare and empty
            view = replace(view, annotations=replace(view.annotations, states=states))
        return view, bare

    def _joined(self, read: list[Stored], rng: np.random.Generator, augment: AugmentConfig) -> tuple[View, bool]:
        """One mosaic of what was read and of as many random images as it lacks."""
        others = rng.integers(self.count, size=augment.mosaic_images - len(read)).tolist()
        read = [*read, *map(self.read, others)]
        view = mosaic([view_of(each.sample) for each in read], rng, augment, self.size[0])
        states = self.reader.joined([each.sample.annotations for each in read])
        view = replace(view, annotations=replace(view.annotations, states=states))
        return view, all(each.bare for each in read)

    def _pasted(
        self, view: View, bare: bool, rng: np.random.Generator, augment: AugmentConfig, mixed: set[str]
    ) -> tuple[View, bool]:
        """The view with some objects of another image in front; as it was where nothing can be taken from that one.

        Only classes are pasted of which the view shows every instance with a box, or none: else a single new box would
        make background of the others.
        """
        donor = self._moved(view_of(self.read(int(rng.integers(self.count))).sample), rng, augment)
        donor = draw_flip(donor, rng, augment)
        fit = pasteable(donor.annotations, augment.copy_paste_by)
        fit &= self.reader.known_here(view.annotations)[donor.annotations.box_labels]
        rows = fit.nonzero()[:, 0]
        chosen = rows[torch.from_numpy(rng.random(len(rows)) < 0.5)]
        if not len(chosen):
            return view, bare
        made = paste(view, donor, chosen)
        if made is view:
            return view, bare
        mixed.add("copy_paste")
        tags = self.reader.joined([view.annotations, donor.annotations])["tags"]
        states = {**view.annotations.states, "tags": tags}
        return replace(made, annotations=replace(made.annotations, states=states)), False

    def _moved(self, view: View, rng: np.random.Generator, augment: AugmentConfig) -> View:
        """Letterbox and random affine as one matrix; nothing at all where the picture fits as it is."""
        size = view.image.height, view.image.width
        fitting = fitting_matrix(size, self.size)
        if not draws_affine(augment):
            if size == self.size:
                return view
            moved = move(view, fitting, self.size)
            boxes = letterbox_frame("", size, self.size).to_input(view.annotations.boxes_xyxy)
            whole = move_extras(view.annotations, fitting, self.size)  # it loses no box, however thin
            return replace(moved, annotations=replace(whole, boxes_xyxy=boxes), cut=view.cut)
        centre = (self.size[1] / 2, self.size[0] / 2)
        return move(view, compose(draw_affine(rng, augment, centre, self.size), fitting), self.size)
