# SPDX-License-Identifier: Apache-2.0
"""A training run from its configuration to its last plot."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from unified.checkpoint import Checkpoint
from unified.contracts.config import AugmentConfig, RunConfig
from unified.contracts.plugins import require
from unified.contracts.protocols import Balancer
from unified.contracts.structures import Batch
from unified.data.larder import Larder, stock
from unified.data.loader import TrainLoader, reach_of
from unified.data.mixing import Mixture
from unified.data.schedule import CountingSchedule
from unified.data.spoilage import Spoilage
from unified.hardware import Hardware, pick_workers
from unified.model.build import Assembly, assemble
from unified.model.defaults import spelled_out
from unified.model.norms import settle_norms
from unified.training import sharding
from unified.training.auto_batch import settled_batch
from unified.training.balance import check_phases
from unified.training.conflict import make_meter
from unified.training.course import Course
from unified.training.dice import sown
from unified.training.folder import RunFolder
from unified.training.growth import growth_notes
from unified.training.joint import JointModel
from unified.training.listeners import Together, listeners
from unified.training.monitor import DatasetPlan, Monitor, Plan, RunSummary
from unified.training.page.story import Story
from unified.training.preparation import Splits as Splits
from unified.training.preparation import description as description
from unified.training.preparation import identity as identity
from unified.training.preparation import make_accelerator as make_accelerator
from unified.training.preparation import make_balancer as make_balancer
from unified.training.preparation import open_splits as open_splits
from unified.training.preparation import planned_schedule as planned_schedule
from unified.training.preparation import planned_steps as planned_steps
from unified.training.ranks import Ranks, restarts
from unified.training.resumption import restarted, resumed
from unified.training.scheduling import together
from unified.training.signals import Stops, stopped_by
from unified.training.start import begin_with
from unified.training.trainer import Trainer
from unified.training.unfed import unfed
from unified.training.unreadable import Unreadable
from unified.training.validation import Validation


@dataclass(frozen=True)
class Origin:
    """Where a run comes from: a configuration, or a checkpoint that it goes on with."""

    config: RunConfig
    base: Path
    resume: Path | None = None  # its folder
    saved: Checkpoint | None = None

    @property
    def step(self) -> int | None:
        """The step it goes on from; None for a fresh run."""
        return int(self.saved.state["progress"]["step"]) if self.saved else None


@dataclass(frozen=True)
class Footing:
    """What a run stands on: everything that words can get wrong has been made, and nothing has been written."""

    origin: Origin
    config: RunConfig
    splits: Splits
    accelerator: Accelerator
    hardware: Hardware
    parts: Assembly
    model: JointModel
    balancer: Balancer
    schedule: CountingSchedule
    listeners: Sequence[Monitor]
    describe: Mapping[str, Any]  # what its checkpoints say
    notes: Sequence[str]  # what a person should know of it


def train(
    config: RunConfig,
    base: Path,
    out: Path | None = None,
    resume: Path | None = None,
    monitor: Monitor | None = None,
    command: str | None = None,
    start: Path | None = None,
    force: bool = False,
) -> RunSummary:
    """Trains, or goes on training with ``resume``, and leaves a run folder.

    Where torchrun has started the run anew after a rank was lost, it goes on with what is in ``out``.

    Args:
        config: what to train; of a resumed run, the configuration saved in its folder.
        base: folder that relative dataset paths start from.
        out: the run's folder; by default ``runs/MODEL-DATE``.
        resume: a run's folder to go on with.
        monitor: told of everything that happens.
        command: what the person typed, for the record.
        start: a run's or model's folder whose weights a fresh run begins with, as far as they fit.
        force: go on with a run although its configuration or data has changed.

    Raises:
        UnifiedError: bad words, data, checkpoints or folders, before the first step.
    """
    on = _footing(_origin(config, base, out, resume), start, force)
    folder = RunFolder.open(on.origin.resume) if on.origin.resume else _fresh_folder(out, on.config, on.accelerator)
    monitor, story = _audience(monitor, on, folder)
    folder.say = monitor.message
    given = (on.splits.train, on.splits.val, on.config.train.unreadable)
    unreadable = Unreadable(*given, folder, monitor, on.accelerator)
    trainer = _trainer(on, folder, monitor, story, unreadable)
    _take_up(trainer, on, force)
    monitor.start(_plan(trainer, on.splits, on.hardware, command, on.notes))
    with story or nullcontext():
        trainer.fit(_batches(on.config, on.splits.train, on.schedule, trainer, unreadable.train))
    unreadable.end()
    return _finish(trainer, folder, monitor)


def _origin(config: RunConfig, base: Path, out: Path | None, resume: Path | None) -> Origin:
    if resume is None and (resume := restarted(out)) is not None:
        config = RunFolder.open(resume).read_config()
    if resume is None:
        return Origin(spelled_out(config), base)
    saved = RunFolder.open(resume).load("last")
    require(saved.state.get("plugins", ()), config, str(resume), data=True)
    return Origin(config, Path(saved.said("base")), resume, saved)


def _footing(origin: Origin, start: Path | None, force: bool) -> Footing:
    """Makes everything that a run is made of, in an order in which dice are thrown alike for ever."""
    config, saved = origin.config, origin.saved
    sown(config.train.seed)
    splits = open_splits(config, origin.base)
    accelerator, hardware = make_accelerator(config)
    config, notes = (config, []) if saved else settled_batch(config, splits.train, accelerator, hardware)
    parts = assemble(config.model, config.tasks, splits.train.vocabulary, fetch=saved is None, growth=config.growth)
    parts.network.check_size(config.train.size)
    notes += unfed(splits.train, {name: parts.task(name) for name in config.tasks})
    notes += [begin_with(parts.network, start, config.growth)] if start and not saved else []
    settle_norms(parts.network, config.train.batch_norm, config.train.frozen_norms, fresh=saved is None)
    config = together(config, splits.train)
    balancer, schedule = make_balancer(config), planned_schedule(config, splits.train, accelerator)
    check_phases(config.train.phases, config.tasks)
    sharding.check(config, balancer, hardware)
    more = listeners(config) if accelerator.is_main_process else []
    whole = sharding.layout(accelerator)
    describe = description(config, origin.base, splits.train) | identity(splits, hardware, whole)
    notes += resumed(saved.state, config, hardware, describe, origin.resume, force) if saved else []
    model = JointModel(parts.network, parts.tasks)
    model.settle(config)
    notes += growth_notes(model, config)
    made = (splits, accelerator, hardware, parts, model, balancer, schedule)
    return Footing(origin, config, *made, more, describe, notes)


def _trainer(on: Footing, folder: RunFolder, monitor: Monitor, story: Story | None, unreadable: Unreadable) -> Trainer:
    stops = Stops(folder.path / "stop" if on.accelerator.is_main_process else None, monitor.message)
    seen = (on.splits.val, on.parts.tasks, on.hardware, unreadable.val, stops, monitor.message)
    return Trainer(
        on.model,
        on.config,
        folder,
        on.accelerator,
        on.hardware,
        course=Course(on.config.train, on.splits.train.images),
        balancer=on.balancer,
        schedule=on.schedule,
        validate=Validation(on.config, *seen, Ranks(on.accelerator), story),
        describe=on.describe,
        monitor=monitor,
        stops=stops,
    )


def _take_up(trainer: Trainer, on: Footing, force: bool) -> None:
    """Puts a trainer where the run is to go on, and its folder with it."""
    saved, folder = on.origin.saved, trainer.folder
    if saved:
        trainer.restore(saved, str(on.origin.resume))
    trainer.meter = make_meter(on.config, on.splits.train, folder, on.accelerator, on.hardware)
    step = trainer.progress.step
    if trainer.meter:
        trainer.meter.trim(step)
    if not on.accelerator.is_main_process:
        return
    if saved:
        folder.trim_log(step)
        if trainer.share < 1:
            folder.log({"resumed": step, "notes": [*on.notes]})
    if force or not saved:
        folder.write_config(on.config)


def _fresh_folder(out: Path | None, config: RunConfig, accelerator: Accelerator) -> RunFolder:
    """The first rank makes the folder and tells the others where; one that was lost before its first save is taken."""
    made: RunFolder | None = None
    if accelerator.is_main_process:
        begun = restarts() > 0 and out is not None and (out / "config.yaml").is_file()
        made = RunFolder(out) if begun and out else RunFolder.create(out, config.model.name)
        if begun:
            made.trim_log(-1)
    where = Ranks(accelerator).lines(str(made.path) if made else "")[0]
    return made or RunFolder(Path(where))


def _audience(monitor: Monitor | None, on: Footing, folder: RunFolder) -> tuple[Monitor, Story | None]:
    """Whoever listens, on the main process alone; among them what writes the run's page."""
    if not on.accelerator.is_main_process:
        return Monitor(), None
    first = monitor or Monitor()
    tasks = {name: on.parts.task(name) for name in on.config.tasks}
    data = (on.splits.train, on.splits.val)
    story = Story(folder, on.config, tasks, *data, on.parts.network, resumed=on.origin.step, tell=first.message)
    return Together([first, *on.listeners, story]), story


def _batches(
    config: RunConfig, mixture: Mixture, schedule: CountingSchedule, trainer: Trainer, spoilage: Spoilage
) -> Iterator[Batch]:
    settings, accelerator = config.train, trainer.accelerator
    reach = reach_of(settings.size, (phase.augment for phase in trainer.course.phases))
    loader = TrainLoader(
        mixture,
        schedule=schedule,
        batch=settings.batch // settings.accumulate,
        size=settings.size,
        augment=_pictures(trainer),
        seed=settings.seed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        workers=pick_workers(settings.workers),
        start_step=trainer.progress.passes,
        steps=trainer.course.passes,
        reach=reach,
        larder=_larder(config, mixture, reach),
        spoilage=spoilage,
        stride=max(trainer.model.network.neck.spec.strides),
        timeout=settings.worker_timeout,
    )
    return iter(loader)


def _larder(config: RunConfig, mixture: Mixture, reach: int) -> Larder | None:
    """Where decoded pictures are kept. In memory every rank has its own and its share of the budget."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if config.train.cache == "ram" else 1
    return stock(mixture.sources, reach, config.train.cache, config.train.cache_gb * 1e9 / ranks)


def _pictures(trainer: Trainer) -> Callable[[int], AugmentConfig]:
    """How the pictures of a forward pass are changed; phases and the end of mosaics follow the clock, if any."""
    course = trainer.course
    if not trainer.train.max_minutes:
        return course.augment
    return lambda number: course.augment(number, trainer.position)


def _plan(trainer: Trainer, splits: Splits, hardware: Hardware, command: str | None, notes: Sequence[str] = ()) -> Plan:
    mixture, settings = splits.train, trainer.train
    datasets = {n: DatasetPlan(len(source), mixture.serves[n]) for n, source in mixture.sources.items()}
    return Plan(
        run=trainer.folder.path,
        tasks=tuple(trainer.tasks),
        datasets=datasets,
        parameters=sum(p.numel() for p in trainer.model.network.parameters()),
        steps=trainer.steps,
        batch=trainer.course.step_images,
        size=settings.size,
        device=str(hardware.device),
        precision=hardware.precision,
        max_seconds=60 * settings.max_minutes if settings.max_minutes else None,
        command=command,
        notes=(
            *notes,
            *([note] if (note := trainer.model.network.trunk_note()) else []),
            *mixture.warnings,
            *mixture.remarks(phase.augment for phase in trainer.course.phases),
            *splits.val.warnings,
        ),
    )


def report(folder: RunFolder, trainer: Trainer) -> None:
    """Draws the run; matplotlib is loaded only here, for a process needs most of a second for it."""
    from unified.training.report import report as draw

    draw(folder, trainer.evaluation, trainer.tasks)


def _finish(trainer: Trainer, folder: RunFolder, monitor: Monitor) -> RunSummary:
    interrupted = trainer.stopping is not None
    if trainer.accelerator.is_main_process and trainer.stopping != signal.SIGTERM:  # whoever sends that is in a hurry
        report(folder, trainer)
    progress = trainer.progress
    metrics = trainer.evaluation.metrics or folder.read_metrics()
    summary = RunSummary(
        folder.path, metrics, progress.step, progress.seconds, interrupted, stopped_by(trainer.stopping)
    )
    monitor.end(summary)
    return summary
