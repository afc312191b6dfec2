# SPDX-License-Identifier: Apache-2.0
"""The probe: a few batches, drawn once and always the same, on which tasks are compared.

Gradients of different pictures differ whatever the tasks are, so tasks are compared on the same ones wherever there are
pictures that carry labels of several tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unified.contracts.config import AugmentConfig, PartConfig
from unified.contracts.structures import Batch, Sample
from unified.data.collate import pack
from unified.data.mixing import SECOND_VIEW, Mixture
from unified.data.sampler import make_sampler

PLAIN = AugmentConfig(fliplr=0.0)
SALT = 7919  # apart from the order in which training shows the same pictures


def draw_probe(mixture: Mixture, batches: int, batch: int, seed: int) -> tuple[Batch, ...]:
    """``batches`` batches of ``batch`` unaugmented training images from every dataset that :func:`chosen` names.

    Batches of a dataset with a sampler of its own are made by it; where two views of an image are its identity, they
    are two augmented views. The same for the same seed, on every rank.
    """
    own = mixture.stocked(mixture.reach)
    return tuple(
        _batch(own, name, tasks, places=range(nth * batch, (nth + 1) * batch), seed=seed + SALT)
        for name, tasks in chosen(mixture.serves).items()
        for nth in range(batches)
    )


def chosen(serves: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Datasets that show the tasks together, as few as will do, and the tasks each is asked for.

    First the one with most tasks; then whichever adds most pairs of tasks not yet seen on the same pictures; then those
    that bring a task nobody else has, whose pictures are then nobody else's.
    """
    left, found = {name: frozenset(tasks) for name, tasks in serves.items()}, dict[str, tuple[str, ...]]()
    seen: set[frozenset[str]] = set()
    while left:
        name = max(left, key=lambda n: (len(_pairs(left[n]) - seen), -len(left[n]) if seen else len(left[n])))
        tasks = left.pop(name)
        alone = tasks - {task for others in found.values() for task in others}
        if not (_pairs(tasks) - seen or alone):
            continue
        seen |= _pairs(tasks)
        found[name] = tuple(serves[name])
    return found


def _pairs(tasks: frozenset[str]) -> set[frozenset[str]]:
    return {frozenset((a, b)) for a in tasks for b in tasks if a != b}


def _batch(mixture: Mixture, name: str, tasks: tuple[str, ...], places: range, seed: int) -> Batch:
    source, order = mixture.sources[name], mixture.order.get(name, PartConfig(name="shuffle"))
    free = {option: value for option, value in order.options.items() if option != "p"}  # as many as fill this batch
    sampler = make_sampler(PartConfig(name=order.name, options=free), source, len(places), seed)
    augment = SECOND_VIEW if source.views else PLAIN
    samples: list[Sample] = []
    for index, epoch in map(sampler.at, places):
        samples += mixture.sample(name, index, epoch, augment, seed=seed, tasks=tasks)
    return pack(samples[: len(places)], name, tasks).unpack()
