# SPDX-License-Identifier: Apache-2.0
"""A run as it would go: everything is built and looked at, nothing is trained or written."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from unified.contracts.config import AugmentConfig, RunConfig
from unified.data.mixing import Mixture
from unified.data.plan import Piece, Plan, Shares
from unified.data.schedule import CountingSchedule, Together
from unified.model.build import assemble
from unified.training.auto_batch import settled_batch
from unified.training.balance import check_phases
from unified.training.course import Course, Setting
from unified.training.ema import ramped
from unified.training.folder import RunFolder
from unified.training.growth import growth_notes
from unified.training.joint import JointModel
from unified.training.optimizer import make_optimizer
from unified.training.run import make_accelerator, make_balancer, open_splits, planned_schedule
from unified.training.scheduling import together
from unified.training.start import begin_with

SHOWN = 200  # forward passes whose datasets are shown one by one
ROWS = 9  # points at which a schedule that changes is shown
POINTS = 512  # of the learning rate's curve


@dataclass(frozen=True)
class Moment:
    """What holds at one named step."""

    name: str
    step: int  # counted from 0
    setting: Setting
    rates: Mapping[str, float]  # learning rate by group
    momentum: float
    ema: float | None  # decay of the moving average after this step; None: there is no average
    images: int  # of this step


@dataclass(frozen=True)
class Stretch:
    """A phase laid out over the steps of the run."""

    first: int  # steps, counted from 0
    end: int  # the step after its last one
    epochs: tuple[float, float]
    augment: AugmentConfig
    gains: Mapping[str, float]


@dataclass(frozen=True)
class Group:
    """One group of the optimizer."""

    name: str
    tensors: int
    numbers: int
    decay: float
    scale: float  # times the learning rate


@dataclass(frozen=True)
class Part:
    """One dataset in the mixture."""

    images: int
    tasks: tuple[str, ...]
    share: float  # of all batches
    weight: float  # of all gradients; differs from the share where every step has all datasets
    visits: float  # how often each of its images is shown in the whole run


@dataclass(frozen=True)
class Shift:
    """What a schedule that changes gives from a step on."""

    step: int
    shares: Mapping[str, float]  # by dataset
    resting: tuple[str, ...]  # tasks without a turn


@dataclass(frozen=True)
class Preview:
    """All that a person may want to check before a long run."""

    model: str
    parameters: int
    size: int
    device: str
    precision: str
    optimizer: str
    steps: int
    passes: int
    epochs: float
    step_images: int
    pass_images: int
    max_minutes: float | None
    groups: tuple[Group, ...]
    phases: tuple[Stretch, ...]
    moments: tuple[Moment, ...]
    datasets: Mapping[str, Part]
    tasks: Mapping[str, float]  # share of all batches that serve the task
    schedule: str  # its name
    order: tuple[str, ...]  # datasets of the first forward passes
    shifts: tuple[Shift, ...]  # of a schedule that changes; some of them
    course: str  # of the learning rate, by name
    curve: tuple[float, ...]  # learning rates, evenly over the run
    notes: tuple[str, ...]


def preview(
    config: RunConfig, base: Path, out: Path | None = None, resume: Path | None = None, start: Path | None = None
) -> Preview:
    """Builds a run's data, network and optimizer, and looks ahead over its whole course.

    Args:
        config: what would be trained.
        base: folder that relative dataset paths start from.
        out: the run's folder.
        resume: a run's folder to go on with.
        start: a run's or model's folder whose weights the run would begin with.

    Raises:
        UnifiedError: whatever would keep the run from starting.
    """
    notes: list[str] = []
    if resume:
        saved = RunFolder.open(resume).load("last", parts=())
        base, step = Path(saved.said("base")), saved.said("progress")["step"]
        notes.append(f"the run in {resume} goes on at step {step:,}")
    elif out:
        RunFolder.check_free(out)
    torch.manual_seed(config.train.seed)
    splits = open_splits(config, base)
    accelerator, hardware = make_accelerator(config)
    config, fitted = settled_batch(config, splits.train, accelerator, hardware)
    notes += fitted
    parts = assemble(config.model, config.tasks, splits.train.vocabulary, fetch=False, growth=config.growth)
    parts.network.check_size(config.train.size)
    notes += [begin_with(parts.network, start, config.growth)] if start and not resume else []
    notes += [note] if (note := parts.network.trunk_note()) else []
    config = together(config, splits.train)
    make_balancer(config)
    schedule = planned_schedule(config, splits.train, accelerator)
    check_phases(config.train.phases, config.tasks)
    course = Course(config.train, splits.train.images)
    model = JointModel(parts.network, parts.tasks)
    model.settle(config)
    notes += growth_notes(model, config)
    optimizer = make_optimizer(model, config.train)
    shares = schedule.shares(course.passes)
    return Preview(
        model=config.model.name,
        parameters=sum(p.numel() for p in parts.network.parameters()),
        size=config.train.size,
        device=str(hardware.device),
        precision=hardware.precision,
        optimizer=config.train.optimizer,
        steps=course.steps,
        passes=course.passes,
        epochs=config.train.epochs,
        step_images=course.step_images,
        pass_images=course.pass_images,
        max_minutes=config.train.max_minutes,
        groups=tuple(_group(group) for group in optimizer.param_groups),
        phases=tuple(_stretch(course, k) for k in range(len(course.phases))),
        moments=_moments(course, optimizer),
        datasets={name: _part(splits.train, name, shares, course) for name in shares.datasets},
        tasks={task: shares.tasks[task] for task in config.tasks},
        schedule=config.data.schedule.name,
        order=tuple(schedule.turn(k).dataset for k in range(min(SHOWN, course.passes))),
        shifts=_shifts(schedule, course),
        course=config.train.course,
        curve=tuple(course.at(course.begins(step)).lr for step in _even(course.steps)),
        notes=(*notes, *splits.train.warnings, *splits.val.warnings),
    )


def _even(steps: int) -> list[int]:
    return [round(k * (steps - 1) / (POINTS - 1)) for k in range(POINTS)]


def _shifts(schedule: CountingSchedule, course: Course) -> tuple[Shift, ...]:
    """The pieces of a plan, or some of them; none where nothing ever changes."""
    plan = schedule.plan if isinstance(schedule, Together) else schedule
    pieces = [piece for piece in plan.pieces if piece.first < course.passes] if isinstance(plan, Plan) else []
    if len(pieces) < 2:
        return ()
    places = sorted({round(k * (len(pieces) - 1) / (ROWS - 1)) for k in range(ROWS)})
    return tuple(_shift(pieces[k], schedule, course) for k in places)


def _shift(piece: Piece, schedule: CountingSchedule, course: Course) -> Shift:
    total = sum(piece.weights.values())
    step = bisect_left(range(course.steps), piece.first, key=course.begins)
    shares = {name: weight / total for name, weight in piece.weights.items()}
    return Shift(step, shares, tuple(sorted(schedule.resting(piece.first))))


def _part(mixture: Mixture, name: str, shares: Shares, course: Course) -> Part:
    images, share = len(mixture.sources[name]), shares.datasets[name]
    visits = share * course.passes * course.pass_images / images / (2 if mixture.sources[name].views else 1)
    return Part(images, mixture.serves[name], share, shares.weights[name], visits)


def _group(group: Mapping[str, object]) -> Group:
    parameters: list[torch.Tensor] = group["params"]  # type: ignore[assignment]
    numbers = sum(p.numel() for p in parameters)
    decay, scale = float(group["weight_decay"]), float(group["scale"])  # type: ignore[arg-type]
    return Group(str(group["name"]), len(parameters), numbers, decay, scale)


def _stretch(course: Course, phase: int) -> Stretch:
    last = phase + 1 == len(course.phases)
    first, end = course.first_of(phase), course.steps if last else course.first_of(phase + 1)
    starts = (0.0, *course.ends)
    epochs = (starts[phase] * course.config.epochs, course.config.epochs * (1.0 if last else starts[phase + 1]))
    return Stretch(first, end, epochs, course.phases[phase].augment, course.gains(phase))


def _moments(course: Course, optimizer: torch.optim.Optimizer) -> tuple[Moment, ...]:
    """The ends of the warm-up, of phases and of the run."""
    warm = course.first_where(lambda share: share >= course.warmup)
    named: dict[int, list[str]] = {0: ["begin"]}
    if warm:
        named.setdefault(warm // 2, []).append("mid warm-up")
        named.setdefault(warm, []).append("warmed up")
    for phase in range(1, len(course.phases)):
        first = course.first_of(phase)
        named.setdefault(first - 1, []).append(f"phase {phase} ends")
        named.setdefault(first, []).append(f"phase {phase + 1} begins")
    named.setdefault(course.steps - 1, []).append("end")
    steps = sorted(step for step in named if 0 <= step < course.steps)
    return tuple(_moment(course, optimizer, step, ", ".join(named[step])) for step in steps)


def _moment(course: Course, optimizer: torch.optim.Optimizer, step: int, name: str) -> Moment:
    setting, config = course.at(course.begins(step)), course.config
    rates = {
        group["name"]: group["scale"] * (setting.bias_lr if group["kind"] == "biases" else setting.lr)
        for group in optimizer.param_groups
    }
    momentum = config.momentum if setting.momentum is None else setting.momentum
    ema = ramped(config.ema, config.ema_ramp, step + 1) if config.ema else None
    return Moment(name, step, setting, rates, momentum, ema, setting.passes * course.pass_images)
