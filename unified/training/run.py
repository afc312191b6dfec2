# SPDX-License-Identifier: Apache-2.0
"""A training run from its configuration to its last plot."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState

from unified.contracts import protocols
from unified.contracts.config import AugmentConfig, RunConfig
from unified.contracts.document import check_options
from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Balancer
from unified.contracts.structures import Batch
from unified.data.fingerprint import fingerprints
from unified.data.larder import Larder, stock
from unified.data.loader import TrainLoader, reach_of
from unified.data.mixing import Mixture, open_mixture
from unified.data.schedule import CountingSchedule
from unified.data.spoilage import Spoilage
from unified.hardware import Hardware, leave_a_core, pick, pick_workers
from unified.model.build import Assembly, assemble, task_class
from unified.model.defaults import spelled_out
from unified.model.norms import settle_norms
from unified.training.auto_batch import settled_batch
from unified.training.balance import check_balance, check_phases
from unified.training.conflict import make_meter
from unified.training.course import Course
from unified.training.dice import sown
from unified.training.folder import RunFolder
from unified.training.joint import JointModel
from unified.training.listeners import Together, listeners
from unified.training.monitor import DatasetPlan, Monitor, Plan, RunSummary
from unified.training.page.story import Story
from unified.training.ranks import Ranks, meet_anew, restarts
from unified.training.report import report
from unified.training.resumption import restarted, resumed, surroundings
from unified.training.scheduling import scheduled, together
from unified.training.signals import Stops, stopped_by
from unified.training.start import begin_with
from unified.training.trainer import Trainer
from unified.training.unreadable import Unreadable
from unified.training.validation import Validation


@dataclass(frozen=True)
class Splits:
    """The run's data, opened."""

    train: Mixture
    val: Mixture


def open_splits(config: RunConfig, base: Path) -> Splits:
    """Both splits; the validation split speaks the training vocabulary."""
    kinds = {name: task_class(task) for name, task in config.tasks.items()}
    labels, breaks = ({name: getattr(kind, what) for name, kind in kinds.items()} for what in ("labels", "breaks"))
    given: dict[str, Any] = {"size": config.train.size, "base": base, "breaks": breaks}
    train = open_mixture(config.data, labels, split="train", **given)
    val = open_mixture(config.data, labels, split="val", vocabulary=train.vocabulary, **given)
    return Splits(train, val)


def planned_steps(config: RunConfig, images: int) -> int:
    """Optimizer steps of the whole run: ``epochs`` over all images, ``max_steps`` at most."""
    return Course(config.train, images).steps


def make_accelerator(config: RunConfig) -> tuple[Accelerator, Hardware]:
    """Devices and ranks by accelerate; precision by capability."""
    hardware = pick(config.train.device, config.train.precision)
    if hardware.device.type == "cpu":
        leave_a_core()
    AcceleratorState._reset_state(reset_partial_state="RANK" not in os.environ)  # runs may follow one another
    meet_anew(cpu=hardware.device.type == "cpu")
    accelerator = Accelerator(
        mixed_precision={"fp32": "no"}.get(hardware.precision, hardware.precision),
        cpu=hardware.device.type == "cpu",
        step_scheduler_with_optimizer=False,
    )
    return accelerator, Hardware(accelerator.device, hardware.precision)


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
    if resume is None and (resume := restarted(out)) is not None:
        config = RunFolder.open(resume).read_config()
    saved = RunFolder.open(resume).load("last") if resume else None
    base = Path(saved.said("base")) if saved else base
    sown(config.train.seed)
    config = config if saved else spelled_out(config)
    splits = open_splits(config, base)
    accelerator, hardware = make_accelerator(config)
    config, notes = (config, []) if saved else settled_batch(config, splits.train, accelerator, hardware)
    parts = assemble(config.model, config.tasks, splits.train.vocabulary, fetch=saved is None)
    parts.network.check_size(config.train.size)
    notes += [begin_with(parts.network, start)] if start and not saved else []
    settle_norms(parts.network, config.train.batch_norm, config.train.frozen_norms, fresh=saved is None)
    config = together(config, splits.train)
    balancer, schedule = make_balancer(config), planned_schedule(config, splits.train, accelerator)
    check_phases(config.train.phases, config.tasks)
    more = listeners(config) if accelerator.is_main_process else []
    describe = description(config, base, splits.train) | identity(splits, hardware, accelerator.num_processes)
    notes += resumed(saved.state, config, hardware, describe, resume, force) if saved else []
    folder = RunFolder.open(resume) if resume else _fresh_folder(out, config, accelerator)
    resumed_at = int(saved.state["progress"]["step"]) if saved else None
    monitor, story = _audience(monitor, more, folder, config, splits, parts, resumed_at, accelerator)
    folder.say = monitor.message
    stops = Stops(folder.path / "stop" if accelerator.is_main_process else None, monitor.message)
    unreadable = Unreadable(splits.train, splits.val, config.train.unreadable, folder, monitor, accelerator)
    model = JointModel(parts.network, parts.tasks)
    model.settle(config)
    trainer = Trainer(
        model,
        config,
        folder,
        accelerator,
        hardware,
        course=Course(config.train, splits.train.images),
        balancer=balancer,
        schedule=schedule,
        validate=Validation(
            config,
            splits.val,
            parts.tasks,
            hardware,
            unreadable.val,
            stops,
            monitor.message,
            story,
        ),
        describe=describe,
        monitor=monitor,
        stops=stops,
    )
    if saved:
        trainer.restore(saved, str(resume))
    trainer.meter = make_meter(config, splits.train, folder, accelerator, hardware)
    if trainer.meter:
        trainer.meter.trim(trainer.progress.step)
    if accelerator.is_main_process:
        if saved:
            folder.trim_log(trainer.progress.step)
            if trainer.share < 1:
                folder.log({"resumed": trainer.progress.step, "notes": notes})
        if force or not saved:
            folder.write_config(config)
    monitor.start(_plan(trainer, splits, hardware, command, notes))
    with story or nullcontext():
        trainer.fit(_batches(config, splits.train, schedule, trainer, unreadable.train))
    unreadable.end()
    return _finish(trainer, folder, monitor)


def description(config: RunConfig, base: Path, mixture: Mixture) -> dict[str, Any]:
    """What a checkpoint must say to be loaded on its own."""
    vocabulary = {name: list(words) for name, words in vars(mixture.vocabulary).items()}
    return {
        "config": config.model_dump(mode="json"),
        "base": str(base.resolve()),
        "vocabulary": vocabulary,
        "categories": mixture.categories(),
    }


def identity(splits: Splits, hardware: Hardware, ranks: int) -> dict[str, Any]:
    """What a checkpoint must say so that a run that goes on can tell whether it is the same."""
    data = fingerprints({"train": splits.train, "val": splits.val})
    return {"fingerprints": data, "surroundings": surroundings(hardware, ranks)}


def make_balancer(config: RunConfig) -> Balancer:
    """The configured way to make one loss of the tasks' losses."""
    cls = protocols.balancers.get(config.balance.name)
    check_options("balancer", config.balance.name, cls, config.balance.options, reserved=("weights",))
    balancer: Balancer = cls({name: task.weight for name, task in config.tasks.items()}, **config.balance.options)
    check_balance(config, balancer)
    return balancer


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


def _audience(
    monitor: Monitor | None,
    more: Sequence[Monitor],
    folder: RunFolder,
    config: RunConfig,
    splits: Splits,
    parts: Assembly,
    resumed: int | None,
    accelerator: Accelerator,
) -> tuple[Monitor, Story | None]:
    """Whoever listens, on the main process alone; among them what writes the run's page."""
    if not accelerator.is_main_process:
        return Monitor(), None
    first = monitor or Monitor()
    tasks = {name: parts.task(name) for name in config.tasks}
    data = (splits.train, splits.val)
    story = Story(folder, config, tasks, *data, parts.network, resumed=resumed, tell=first.message)
    return Together([first, *more, story]), story


def planned_schedule(config: RunConfig, mixture: Mixture, accelerator: Accelerator) -> CountingSchedule:
    """Which dataset at which forward pass; a batch that cannot be shared is refused here."""
    settings = config.train
    share = settings.batch // settings.accumulate
    if share * settings.accumulate != settings.batch or share % accelerator.num_processes:
        raise ConfigError(
            f"batch {settings.batch} cannot be shared by {settings.accumulate} accumulation steps on "
            f"{accelerator.num_processes} ranks; choose a multiple of {settings.accumulate * accelerator.num_processes}"
        )
    mixture.samplers(share, settings.seed)  # one that does not fit is refused before the run has a folder
    sizes = {name: math.ceil(len(source) / share) for name, source in mixture.sources.items()}
    return scheduled(config, sizes, mixture.serves, Course(settings, mixture.images))


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


def _finish(trainer: Trainer, folder: RunFolder, monitor: Monitor) -> RunSummary:
    interrupted = trainer.stopping is not None
    if trainer.accelerator.is_main_process and trainer.stopping != signal.SIGTERM:  # whoever sends that is in a hurry
        report(folder, trainer.evaluation, trainer.tasks)
    progress = trainer.progress
    metrics = trainer.evaluation.metrics or folder.read_metrics()
    summary = RunSummary(
        folder.path, metrics, progress.step, progress.seconds, interrupted, stopped_by(trainer.stopping)
    )
    monitor.end(summary)
    return summary
