# SPDX-License-Identifier: Apache-2.0
"""A training run from its configuration to its last plot."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from unified.contracts import protocols
from unified.contracts.config import RunConfig
from unified.contracts.document import check_options
from unified.contracts.errors import ConfigError
from unified.contracts.protocols import Balancer
from unified.contracts.structures import Batch
from unified.data.loader import EvalLoader, TrainLoader
from unified.data.mixing import Mixture, open_mixture
from unified.data.schedule import CountingSchedule, make_schedule
from unified.hardware import Hardware, leave_a_core, pick, pick_workers
from unified.model.build import assemble, task_class
from unified.training.evaluator import Evaluation, evaluate
from unified.training.folder import RunFolder
from unified.training.joint import JointModel
from unified.training.monitor import DatasetPlan, Monitor, Plan, RunSummary
from unified.training.report import report
from unified.training.trainer import Trainer


@dataclass(frozen=True)
class Splits:
    """The run's data, opened."""

    train: Mixture
    val: Mixture


def open_splits(config: RunConfig, base: Path) -> Splits:
    """Both splits; the validation split speaks the training vocabulary."""
    labels = {name: task_class(task).labels for name, task in config.tasks.items()}
    size = config.train.size
    train = open_mixture(config.data, labels, split="train", size=size, base=base)
    val = open_mixture(config.data, labels, split="val", size=size, base=base, vocabulary=train.vocabulary)
    return Splits(train, val)


def planned_steps(config: RunConfig, images: int) -> int:
    """Optimizer steps of the whole run: ``epochs`` over all images, ``max_steps`` at most."""
    steps = math.ceil(config.train.epochs * images / config.train.batch)
    return max(1, min(steps, config.train.max_steps or steps))


def make_accelerator(config: RunConfig) -> tuple[Accelerator, Hardware]:
    """Devices and ranks by accelerate; precision by capability."""
    hardware = pick(config.train.device, config.train.precision)
    if hardware.device.type == "cpu":
        leave_a_core()
    AcceleratorState._reset_state(reset_partial_state="RANK" not in os.environ)  # runs may follow one another
    accelerator = Accelerator(
        mixed_precision={"fp32": "no"}.get(hardware.precision, hardware.precision),
        gradient_accumulation_steps=config.train.accumulate,
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
) -> RunSummary:
    """Trains, or goes on training with ``resume``, and leaves a run folder.

    Args:
        config: what to train; of a resumed run, the configuration saved in its folder.
        base: folder that relative dataset paths start from.
        out: the run's folder; by default ``runs/MODEL-DATE``.
        resume: a run's folder to go on with.
        monitor: told of everything that happens.
        command: what the person typed, for the record.

    Raises:
        UnifiedError: bad words, data, checkpoints or folders, before the first step.
    """
    saved = RunFolder.open(resume).load("last") if resume else None
    base = Path(saved.state["base"]) if saved else base
    torch.manual_seed(config.train.seed)
    splits = open_splits(config, base)
    accelerator, hardware = make_accelerator(config)
    parts = assemble(config.model, config.tasks, splits.train.vocabulary)
    parts.network.check_size(config.train.size)
    balancer, schedule = _balancer(config), _schedule(config, splits.train, accelerator)
    folder = RunFolder.open(resume) if resume else _fresh_folder(out, config, accelerator)
    monitor = monitor if monitor and accelerator.is_main_process else Monitor()
    trainer = Trainer(
        JointModel(parts.network, parts.tasks),
        config,
        folder,
        accelerator,
        hardware,
        steps=planned_steps(config, splits.train.images),
        epoch_images=splits.train.images,
        balancer=balancer,
        validate=_Validation(config, splits.val, parts.tasks, hardware),
        describe=description(config, base, splits.train),
        monitor=monitor,
    )
    if saved:
        trainer.restore(saved, str(resume))
    if accelerator.is_main_process:
        folder.trim_log(trainer.progress.step) if saved else folder.write_config(config)
    monitor.start(_plan(trainer, splits, hardware, command))
    trainer.fit(_batches(config, splits.train, schedule, trainer))
    return _finish(trainer, folder, monitor)


def description(config: RunConfig, base: Path, mixture: Mixture) -> dict[str, Any]:
    """What a checkpoint must say to be loaded on its own."""
    vocabulary = {name: list(words) for name, words in vars(mixture.vocabulary).items()}
    return {"config": config.model_dump(mode="json"), "base": str(base.resolve()), "vocabulary": vocabulary}


class _Validation:
    """Evaluates a network on the validation split."""

    def __init__(self, config: RunConfig, mixture: Mixture, tasks: Any, hardware: Hardware) -> None:
        self.config, self.mixture, self.tasks, self.hardware = config, mixture, tasks, hardware

    def __call__(self, network: Any) -> Evaluation:
        settings = self.config.train
        loader = EvalLoader(self.mixture, batch=2 * settings.batch, size=settings.size, workers=0)
        return evaluate(network, dict(self.tasks.items()), loader, self.hardware, total=self.mixture.images)


def _balancer(config: RunConfig) -> Balancer:
    cls = protocols.balancers.get(config.balance.name)
    check_options("balancer", config.balance.name, cls, config.balance.options, reserved=("weights",))
    weights = {name: task.weight for name, task in config.tasks.items()}
    return cls(weights, **config.balance.options)  # type: ignore[no-any-return]


def _fresh_folder(out: Path | None, config: RunConfig, accelerator: Accelerator) -> RunFolder:
    """The first rank makes the folder; the others write nothing."""
    return RunFolder.create(out, config.model.name) if accelerator.is_main_process else RunFolder(out or Path("runs"))


def _schedule(config: RunConfig, mixture: Mixture, accelerator: Accelerator) -> CountingSchedule:
    """Which dataset at which forward pass; a batch that cannot be shared is refused here."""
    settings = config.train
    share = settings.batch // settings.accumulate
    if share * settings.accumulate != settings.batch or share % accelerator.num_processes:
        raise ConfigError(
            f"batch {settings.batch} cannot be shared by {settings.accumulate} accumulation steps on "
            f"{accelerator.num_processes} ranks; choose a multiple of {settings.accumulate * accelerator.num_processes}"
        )
    sizes = {name: math.ceil(len(source) / share) for name, source in mixture.sources.items()}
    return make_schedule(config.data.schedule, sizes, mixture.serves, settings.seed)


def _batches(config: RunConfig, mixture: Mixture, schedule: CountingSchedule, trainer: Trainer) -> Iterator[Batch]:
    settings, accelerator = config.train, trainer.accelerator
    loader = TrainLoader(
        mixture,
        schedule=schedule,
        batch=settings.batch // settings.accumulate,
        size=settings.size,
        augment=settings.augment,
        seed=settings.seed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        workers=pick_workers(settings.workers),
        start_step=trainer.progress.step * settings.accumulate,
        steps=trainer.steps * settings.accumulate,
    )
    return iter(loader)


def _plan(trainer: Trainer, splits: Splits, hardware: Hardware, command: str | None) -> Plan:
    mixture, settings = splits.train, trainer.train
    datasets = {n: DatasetPlan(len(source), mixture.serves[n]) for n, source in mixture.sources.items()}
    return Plan(
        run=trainer.folder.path,
        tasks=tuple(trainer.tasks),
        datasets=datasets,
        parameters=sum(p.numel() for p in trainer.model.network.parameters()),
        steps=trainer.steps,
        batch=settings.batch,
        size=settings.size,
        device=str(hardware.device),
        precision=hardware.precision,
        max_seconds=60 * settings.max_minutes if settings.max_minutes else None,
        command=command,
        notes=(*mixture.warnings, *splits.val.warnings),
    )


def _finish(trainer: Trainer, folder: RunFolder, monitor: Monitor) -> RunSummary:
    interrupted = trainer.stopping is not None
    if trainer.accelerator.is_main_process:
        report(folder, trainer.evaluation, trainer.tasks)
    progress = trainer.progress
    metrics = trainer.evaluation.metrics or folder.read_metrics()
    summary = RunSummary(folder.path, metrics, progress.step, progress.seconds, interrupted)
    monitor.end(summary)
    return summary
