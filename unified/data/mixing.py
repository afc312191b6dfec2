# SPDX-License-Identifier: Apache-2.0
"""Several half-labelled datasets as one: merged words, honest label states, every sample a function of its address."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from unified.contracts.augmentation import MIXING, TRANSFORMS, broken, without
from unified.contracts.config import AugmentConfig, DataConfig, DatasetConfig, PartConfig
from unified.contracts.errors import DataError
from unified.contracts.protocols import Labels, datasets
from unified.contracts.structures import Annotations, Sample, Vocabulary
from unified.data.darkroom import Darkroom, Stored, stream
from unified.data.labels import LabelReader, claim
from unified.data.larder import Larder
from unified.data.loader import EvalLoader as EvalLoader
from unified.data.loader import TrainLoader as TrainLoader
from unified.data.sampler import Sampler, make_sampler
from unified.data.source import Source, Split, open_source
from unified.data.spoilage import Spoiled, stand_ins
from unified.data.transforms import letterbox_sample
from unified.data.vocabulary import Translator, WordMap, merge_vocabularies, renamed, shared_identities

SECOND_VIEW: Final = AugmentConfig(scale=0.3, translate=0.1, fliplr=0.5, hue=0.015, saturation=0.4, value=0.3)
"""How the other look at an image differs, by which retrieval is scored where views are the identity."""


class Mixture:
    """Opened datasets that speak one vocabulary.

    ``sources``, ``serves`` (the tasks each one labels) and ``order`` (its sampler) are by dataset name; ``warnings``
    are one-line remarks; ``size`` is the side of the network's square input in pixels. A mixture is cheap to send to
    another process.
    ``spoiled`` collects the unreadable pictures for which others were taken, until somebody empties it.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        readers: Mapping[str, LabelReader],
        vocabulary: Vocabulary,
        size: int,
        warnings: tuple[str, ...] = (),
        order: Mapping[str, PartConfig] | None = None,
    ) -> None:
        self.sources = dict(sources)
        self.readers = dict(readers)
        self.vocabulary = vocabulary
        self.size = size
        self.warnings = warnings
        self.order = dict(order or {})
        self.serves = {name: tuple(reader.claims) for name, reader in self.readers.items()}
        self.reach: int | None = None
        self.larder: Larder | None = None
        self.spoiled: list[Spoiled] = []

    @property
    def images(self) -> int:
        """Images of all datasets together."""
        return sum(len(source) for source in self.sources.values())

    def categories(self) -> dict[str, dict[str, str]]:
        """For every dataset, which class of the run each of its files' own category ids is."""
        found = {}
        for name, source in self.sources.items():
            alias = dict(zip(source.vocabulary.boxes, self.readers[name].words.names.boxes, strict=True))
            found[name] = {ident: alias[word] for ident, word in source.category_ids if word in alias}
        return found

    def at(self, size: int) -> Mixture:
        """The same mixture for another input size."""
        other = copy.copy(self)
        other.size = size
        return other

    def stocked(self, reach: int | None, larder: Larder | None = None) -> Mixture:
        """The same mixture for one user, who empties its ``spoiled``.

        Args:
            reach: the longer side in pixels at which training pictures are decoded at most; None: in full.
            larder: where they are kept.
        """
        stocked = copy.copy(self)
        stocked.reach, stocked.larder, stocked.spoiled = reach, larder, []
        return stocked

    def sample(
        self,
        dataset: str,
        index: int,
        epoch: int = 0,
        augment: AugmentConfig | None = None,
        *,
        seed: int = 0,
        tasks: Collection[str] | None = None,
        shape: tuple[int, int] | None = None,
    ) -> list[Sample]:
        """One image as the network sees it; two for training datasets whose image identity is ``views``.

        Every random number comes from (seed, epoch, dataset, index), so a sample is the same wherever it is made.
        ``augment=None`` gives the plain letterbox, whose frame leads back to original pixels. The input is ``shape``
        (height, width), where it is given, else the mixture's square. What would make the labels of ``tasks`` (None:
        all that the dataset serves) untrue is left out of ``augment``. In training another image takes the place of one
        that cannot be read, always the same.

        Raises:
            DataError: the picture cannot be read; in training, neither can any of those that might take its place.
        """
        if augment is None:
            return [self._plain(dataset, index, shape)]
        room, views = self._darkroom(dataset, shape), self.sources[dataset].views
        true = self.allowed(dataset, augment, self.serves[dataset] if tasks is None else tasks)
        return [room.develop(index, stream(seed, epoch, dataset, index, salt), true) for salt in range(1 + views)]

    def allowed(self, dataset: str, augment: AugmentConfig, tasks: Collection[str]) -> AugmentConfig:
        """The settings without what would make the labels of these tasks untrue.

        Where two views of an image are its identity, pictures are mixed only for tasks that learn no identities.
        """
        true = self.readers[dataset].allowed(augment, tasks)
        return without(true, MIXING) if {*self.recognises(dataset)} & {*tasks} else true

    def remarks(self, augments: Iterable[AugmentConfig]) -> tuple[str, ...]:
        """One line for every transform of these settings that a dataset goes without, and why."""
        found: dict[str, None] = {}
        for augment in augments:
            for name, source in self.sources.items():
                true = self.allowed(name, augment, self.serves[name])
                lost = [each for each in TRANSFORMS if getattr(augment, each) != getattr(true, each)]
                if lost:
                    found[f"dataset '{name}': without {', '.join(lost)}, which would make labels untrue"] = None
                if true.copy_paste and true.copy_paste_by == "masks" and not source.masks:
                    remark = "without copy_paste, for want of masks; copy_paste_by: boxes needs none"
                    found[f"dataset '{name}': {remark}"] = None
        return tuple(found)

    def second_view(self, dataset: str, index: int) -> Sample:
        """Another look at an image, always the same one, to be recognised by; only its identity is known."""
        reader, asked = self.readers[dataset], self.recognises(dataset)
        stored = self._translated(dataset, index, self.sources[dataset].read(index))  # nothing takes its place
        room = Darkroom(lambda _: stored, 1, reader, self.size)
        sample = room.develop(index, stream(0, 0, dataset, index, 0), reader.allowed(SECOND_VIEW, asked))
        states = {task: sample.annotations.states[task] for task in asked}
        return replace(sample, annotations=Annotations(identity=sample.annotations.identity, states=states))

    def recognises(self, dataset: str) -> tuple[str, ...]:
        """The tasks that learn identities where two views of an image are one; none elsewhere."""
        claims = self.readers[dataset].claims if self.sources[dataset].views else {}
        return tuple(task for task, said in claims.items() if said.table == "identities")

    def samplers(self, batch: int, seed: int) -> dict[str, Sampler]:
        """The order in which each dataset's images come to batches of ``batch`` images.

        Raises:
            UnifiedError: a dataset's sampler does not fit it.
        """
        configs = {name: self.order.get(name, PartConfig(name="shuffle")) for name in self.sources}
        return {name: make_sampler(configs[name], source, batch, seed) for name, source in self.sources.items()}

    def _darkroom(self, dataset: str, shape: tuple[int, int] | None) -> Darkroom:
        read = partial(self._read, dataset)
        return Darkroom(read, len(self.sources[dataset]), self.readers[dataset], shape or self.size)

    def _plain(self, dataset: str, index: int, shape: tuple[int, int] | None) -> Sample:
        stored = self._translated(dataset, index, self.sources[dataset].read(index))
        fitted = letterbox_sample(stored.sample, shape or self.size)
        nothing = fitted.annotations.box_labels[:0]
        return replace(fitted, annotations=self.readers[dataset].finish(fitted.annotations, nothing, bare=stored.bare))

    def _read(self, dataset: str, index: int) -> Stored:
        """A stored image for training, or the one that takes its place."""
        first = ""
        for k in (index, *stand_ins(dataset, index, len(self.sources[dataset]))):
            try:
                return self._translated(dataset, k, self._within_reach(dataset, k))
            except DataError as error:
                self.spoiled.append(Spoiled(dataset, k, str(error)))
                first = first or str(error)
        raise DataError(f"dataset '{dataset}': no picture can be used; the first: {first}")

    def _within_reach(self, dataset: str, index: int) -> Sample:
        source = self.sources[dataset]
        if self.reach is None:
            return source.read(index)
        if self.larder is None:
            return source.read_within(index, self.reach)
        return source.read_within(index, self.reach, partial(self.larder.read, dataset, index))

    def _translated(self, dataset: str, index: int, stored: Sample) -> Stored:
        """A stored image in the run's words."""
        reader = self.readers[dataset]
        found = reader.translate(stored.annotations)
        if self.sources[dataset].views:
            found = replace(found, identity=reader.view_identity(index))
        return Stored(replace(stored, annotations=found), bare=len(stored.annotations) == 0)


def open_mixture(
    config: DataConfig,
    labels: Mapping[str, Labels],
    *,
    split: Split,
    size: int,
    base: Path,
    vocabulary: Vocabulary | None = None,
    breaks: Mapping[str, Collection[str]] | None = None,
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
        breaks: for every asked task, the transforms that make its labels untrue; by default, of tags and identities,
            those that mix pictures.

    Raises:
        DataError: a dataset cannot be opened; in training, a dataset serves none of the tasks or a task is labelled by
            no dataset. Of the ``val`` split such a dataset or task is left out with a warning.
    """
    offering, warnings = _offering(config, split)
    sources = {name: open_source(name, dataset, split, base, size) for name, dataset in offering.items()}
    warnings += [line for source in sources.values() for line in source.warnings]
    own = {n: renamed(n, s.vocabulary, offering[n].aliases, s.tag_classes) for n, s in sources.items()}
    words = vocabulary or merge_vocabularies(own.values())
    translator = Translator(words, newcomers=split == "val")
    readers = {}
    for name, source in sources.items():
        word_map, lost = translator.translate(name, own[name])
        readers[name] = _reader(source, offering[name], labels, breaks, words, word_map)
        warnings += lost
    idle, remarks = _left_out(config, readers, labels, split)
    serving = {name: source for name, source in sources.items() if name not in idle}
    if "identities" in labels.values():
        warnings += shared_identities([(name, source.vocabulary) for name, source in serving.items()])
    order = {name: offering[name].sampler for name in serving}
    kept = {name: readers[name] for name in serving}
    return Mixture(serving, kept, words, size, tuple(dict.fromkeys([*warnings, *remarks])), order)


def _offering(config: DataConfig, split: Split) -> tuple[dict[str, DatasetConfig], list[str]]:
    """The datasets that have the split, and a remark for every other."""
    offering = {name: dataset for name, dataset in config.datasets.items() if _offers(dataset, split)}
    if not offering:
        raise DataError(f"no dataset has a '{split}' split; datasets: {', '.join(config.datasets) or 'none'}")
    missing = [name for name in config.datasets if name not in offering]
    return offering, [f"dataset '{name}' has no '{split}' split; it is left out" for name in missing]


def _reader(
    source: Source,
    config: DatasetConfig,
    labels: Mapping[str, Labels],
    breaks: Mapping[str, Collection[str]] | None,
    words: Vocabulary,
    word_map: WordMap,
) -> LabelReader:
    """What a dataset says of every task, in the run's words."""
    claims = {t: claim(source, config, t, table, words, word_map) for t, table in labels.items()}
    declared = breaks or {t: MIXING if table in ("tags", "identities") else () for t, table in labels.items()}
    told = {
        t: replace(said, breaks=broken(config, source.name, t, declared.get(t, ())))
        for t, said in claims.items()
        if said is not None
    }
    if not any(said.table == "identities" for said in told.values()):
        source.views = False  # nobody asks which views belong together
    return LabelReader(source, words, word_map, told)


def _left_out(
    config: DataConfig, readers: Mapping[str, LabelReader], labels: Mapping[str, Labels], split: Split
) -> tuple[Collection[str], list[str]]:
    """The datasets that serve nothing, and a remark for each and for every task without a dataset; in training errors.

    Raises:
        DataError: there are any, in training; or no dataset serves anything.
    """
    idle, silent = _unserved(config, readers, labels)
    problems = [*idle.values(), *silent]
    if problems and (split == "train" or len(idle) == len(readers)):
        raise DataError(problems[0])
    return idle, [f"'{split}' split: {remark}" for remark in problems]


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
