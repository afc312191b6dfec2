# SPDX-License-Identifier: Apache-2.0
"""Several half-labelled datasets as one: merged words, honest label states, every sample a function of its address."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from unified.contracts.config import AugmentConfig, DataConfig, DatasetConfig
from unified.contracts.errors import DataError
from unified.contracts.protocols import Labels, datasets
from unified.contracts.structures import Frame, Sample, Vocabulary
from unified.data.labels import LabelReader, claim
from unified.data.loader import EvalLoader as EvalLoader
from unified.data.loader import TrainLoader as TrainLoader
from unified.data.mosaic import mosaic
from unified.data.source import Source, Split, open_source
from unified.data.transforms import (
    View,
    compose,
    draw_affine,
    draw_flip,
    draw_jitter,
    draws_affine,
    fitting_matrix,
    letterbox_frame,
    letterbox_sample,
    move,
    to_pixels,
    view_of,
)
from unified.data.vocabulary import Translator, merge_vocabularies, shared_identities


class Mixture:
    """Opened datasets that speak one vocabulary.

    ``sources`` and ``serves`` (the tasks each one labels) are by dataset name; ``warnings`` are one-line remarks;
    ``size`` is the side of the network's square input in pixels. A mixture is cheap to send to another process.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        readers: Mapping[str, LabelReader],
        vocabulary: Vocabulary,
        size: int,
        warnings: tuple[str, ...] = (),
    ) -> None:
        self.sources = dict(sources)
        self.readers = dict(readers)
        self.vocabulary = vocabulary
        self.size = size
        self.warnings = warnings
        self.serves = {name: tuple(reader.claims) for name, reader in self.readers.items()}

    @property
    def images(self) -> int:
        """Images of all datasets together."""
        return sum(len(source) for source in self.sources.values())

    def at(self, size: int) -> Mixture:
        """The same mixture for another input size."""
        return self if size == self.size else Mixture(self.sources, self.readers, self.vocabulary, size, self.warnings)

    def sample(
        self, dataset: str, index: int, epoch: int = 0, augment: AugmentConfig | None = None, *, seed: int = 0
    ) -> list[Sample]:
        """One image as the network sees it; two for training datasets whose image identity is ``views``.

        Every random number comes from (seed, epoch, dataset, index), so a sample is the same wherever it is made.
        ``augment=None`` gives the plain letterbox, whose frame leads back to original pixels.
        """
        source = self.sources[dataset]
        if augment is None:
            return [self._plain(dataset, index)]
        return [self._augmented(dataset, index, epoch, augment, seed, salt) for salt in range(2 if source.views else 1)]

    def _plain(self, dataset: str, index: int) -> Sample:
        sample, bare = self._read(dataset, index)
        fitted = letterbox_sample(sample, self.size)
        nothing = sample.annotations.box_labels[:0]
        finished = self.readers[dataset].finish(fitted.annotations, nothing, bare=bare, mixed=False)
        return replace(fitted, annotations=finished)

    def _read(self, dataset: str, index: int) -> tuple[Sample, bool]:
        """A stored image in the run's words, and whether it was stored without boxes."""
        reader, source = self.readers[dataset], self.sources[dataset]
        stored = source.read(index)
        found = reader.translate(stored.annotations)
        if source.views:
            found = replace(found, identity=reader.view_identity(index))
        return replace(stored, annotations=found), len(stored.annotations) == 0

    def _augmented(self, dataset: str, index: int, epoch: int, augment: AugmentConfig, seed: int, salt: int) -> Sample:
        source = self.sources[dataset]
        rng = stream(seed, epoch, dataset, index, salt)
        mixed = rng.random() < augment.mosaic and not source.views  # whose identity a mosaic would lose
        others = rng.integers(len(source), size=3).tolist() if mixed else []
        read = [self._read(dataset, k) for k in (index, *others)]
        views = [view_of(sample) for sample, _ in read]
        view = mosaic(views, rng, augment, self.size) if mixed else self._moved(views[0], rng, augment)
        view = draw_jitter(draw_flip(view, rng, augment), rng, augment)
        bare = all(empty for _, empty in read)
        annotations = self.readers[dataset].finish(view.annotations, view.cut, bare=bare, mixed=mixed)
        original = read[0][0].frame
        return Sample(to_pixels(view.image), annotations, Frame(original.image_id, original.size))

    def _moved(self, view: View, rng: np.random.Generator, augment: AugmentConfig) -> View:
        """Letterbox and random affine as one matrix; nothing at all where the picture fits as it is."""
        size = view.image.height, view.image.width
        if not draws_affine(augment):
            if size == (self.size, self.size):
                return view
            frame = letterbox_frame("", size, self.size)
            moved = move(view, fitting_matrix(size, self.size), self.size)
            boxes = frame.to_input(view.annotations.boxes_xyxy)  # a letterbox loses no box, however thin
            return replace(moved, annotations=replace(view.annotations, boxes_xyxy=boxes), cut=view.cut)
        centre = (self.size / 2, self.size / 2)
        matrix = compose(draw_affine(rng, augment, centre, self.size), fitting_matrix(size, self.size))
        return move(view, matrix, self.size)


def stream(seed: int, epoch: int, dataset: str, index: int, salt: int) -> np.random.Generator:
    """The random numbers of one sample, whichever process or rank draws them."""
    key = [seed, epoch, zlib.crc32(dataset.encode()), index, salt]
    return np.random.default_rng(np.random.SeedSequence(key))


def open_mixture(
    config: DataConfig,
    labels: Mapping[str, Labels],
    *,
    split: Split,
    size: int,
    base: Path,
    vocabulary: Vocabulary | None = None,
) -> Mixture:
    """Opens one split of every dataset that has it.

    Args:
        config: the datasets and what each one labels.
        labels: for every asked task, the table it learns from.
        split: ``train`` or ``val``.
        size: side of the network's square input in pixels.
        base: the folder that relative paths start from.
        vocabulary: a trained network's words, instead of the datasets' own; words it does not know are left out with
            a warning. Of the ``val`` split unknown identities are kept, numbered on from the vocabulary's end.

    Raises:
        DataError: a dataset cannot be opened; in training, a dataset serves none of the tasks or a task is labelled by
            no dataset. Of the ``val`` split such a dataset or task is left out with a warning.
    """
    offering = {n: d for n, d in config.datasets.items() if _offers(d, split)}
    missing = [name for name in config.datasets if name not in offering]
    warnings = [f"dataset '{name}' has no '{split}' split; it is left out" for name in missing]
    if not offering:
        raise DataError(f"no dataset has a '{split}' split; datasets: {', '.join(config.datasets) or 'none'}")
    sources = {name: open_source(name, dataset, split, base, size) for name, dataset in offering.items()}
    for source in sources.values():
        warnings += source.warnings
    words = vocabulary or merge_vocabularies(source.vocabulary for source in sources.values())
    translator = Translator(words, newcomers=split == "val")
    readers = {}
    for name, source in sources.items():
        word_map, lost = translator.translate(name, source.vocabulary)
        claims = {t: claim(source, offering[name], t, table, words, word_map) for t, table in labels.items()}
        readers[name] = LabelReader(source, words, word_map, {t: c for t, c in claims.items() if c is not None})
        warnings += lost
    idle, silent = _unserved(config, readers, labels)
    problems = [*idle.values(), *silent]
    if problems and (split == "train" or len(idle) == len(readers)):
        raise DataError(problems[0])
    sources = {name: source for name, source in sources.items() if name not in idle}
    if "identities" in labels.values():
        warnings += shared_identities([(name, source.vocabulary) for name, source in sources.items()])
    warnings += [f"'{split}' split: {remark}" for remark in problems]
    return Mixture(sources, {name: readers[name] for name in sources}, words, size, tuple(dict.fromkeys(warnings)))


def _offers(dataset: DatasetConfig, split: Split) -> bool:
    cls = datasets.get(dataset.format)
    return not issubclass(cls, Source) or cls.offers(dataset, split)


def _unserved(
    config: DataConfig, readers: Mapping[str, LabelReader], labels: Mapping[str, Labels]
) -> tuple[dict[str, str], list[str]]:
    """What is wrong with datasets that serve no task asked for, by dataset, and with tasks that no dataset serves."""
    idle = {}
    for name, reader in readers.items():
        if not reader.claims:
            labelled = config.datasets[name].labelled
            said = ", ".join(task for task, what in labelled.items() if what not in ("none", ())) or "nothing"
            idle[name] = (
                f"dataset '{name}' serves none of the tasks asked ({', '.join(labels)}); it labels {said}; "
                "leave it out or extend its 'labelled'"
            )
    offers = "; ".join(
        f"{name} labels {', '.join(reader.claims) or 'none of them'}" for name, reader in readers.items()
    )
    silent = [
        f"task '{task}' is labelled by no dataset ({offers}); add '{task}: all' to a 'labelled' or drop the task"
        for task in labels
        if not any(task in reader.claims for reader in readers.values())
    ]
    return idle, silent
