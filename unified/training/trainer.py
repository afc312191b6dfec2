# SPDX-License-Identifier: Apache-2.0
"""The loop: batches in, a better network out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from unified.checkpoint import Checkpoint
from unified.contracts.config import RunConfig
from unified.contracts.protocols import Balancer, Task
from unified.contracts.structures import Batch
from unified.data.schedule import CountingSchedule
from unified.data.steering import SteeredSchedule
from unified.hardware import Hardware, compile_network, deterministic, peak_memory_mb
from unified.training import dice, faults, state
from unified.training.balance import check_gains
from unified.training.conflict import ConflictMeter
from unified.training.course import Course
from unified.training.descent import Descent
from unified.training.ema import MovingAverage
from unified.training.evaluator import Evaluation
from unified.training.folder import RunFolder
from unified.training.guard import LIMIT, Guard
from unified.training.joint import JointModel
from unified.training.keeper import Keeper
from unified.training.monitor import EvaluationRecord, Monitor, StepRecord
from unified.training.optimizer import make_optimizer, steer
from unified.training.passes import Passes
from unified.training.patience import Patience
from unified.training.progress import Progress
from unified.training.ranks import Ranks
from unified.training.scores import told_scores
from unified.training.serving import Serving
from unified.training.sharding import Shards, joined
from unified.training.signals import StopAsked, Stops

LOG_EVERY = 10  # steps


class Trainer:
    """Trains a joint model step by step, evaluates it, and keeps its checkpoints.

    Args:
        model: network and tasks, on the CPU.
        config: the run's configuration.
        folder: where logs and checkpoints go.
        accelerator, hardware: ranks and scaling; device, precision and memory layout.
        course: what holds at which point of the run, and where it ends.
        balancer: makes one scalar of the tasks' losses.
        schedule: which dataset at which forward pass, where its state or weights matter.
        validate: ``validate(network) -> Evaluation``, called by every rank; it may raise StopAsked.
        describe: JSON that a checkpoint must carry to be loaded on its own (configuration, vocabulary).
        monitor: told of steps and evaluations.
        stops: what is asked of this process; by default by signals and by the file ``stop`` in the folder.
        parts: whatever else has a state, by name (:class:`unified.training.snapshot.Stateful`).
    """

    def __init__(
        self,
        model: JointModel,
        config: RunConfig,
        folder: RunFolder,
        accelerator: Accelerator,
        hardware: Hardware,
        *,
        course: Course,
        balancer: Balancer,
        validate: Callable[[Any], Evaluation],
        describe: Mapping[str, Any],
        monitor: Monitor,
        schedule: CountingSchedule | None = None,
        stops: Stops | None = None,
        parts: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.train = config, config.train
        self.folder, self.monitor, self.accelerator = folder, monitor, accelerator
        self.course, self.steps = course, course.steps
        self.balancer, self.schedule, self.validate, self.describe = balancer, schedule, validate, describe
        self.progress, self.evaluation = Progress(), Evaluation()
        self.patience = Patience(self.train.patience, self.train.min_gain)
        self.parts = {"balancer": balancer, "schedule": schedule, "patience": self.patience, **(parts or {})}
        self.ranks = Ranks(accelerator)
        self.stops = stops or Stops(folder.path / "stop" if self.ranks.main else None, monitor.message)
        self.stopping: int | None = None  # what all ranks stop for, after the same step
        self.model = hardware.place(model)
        self.average = MovingAverage(model.network, self.train.ema, self.train.ema_ramp) if self.train.ema else None
        self.shards = Shards(self.model, accelerator, hardware)
        self.wrapped, self.optimizer = self.shards.prepare(make_optimizer(self.model, self.train), self.average)
        if self.train.compile:
            compile_network(model.network, hardware.device, course.sizes_vary)
        self.descent, self.guard = Descent(self.model, accelerator, balancer), Guard(self.model)
        images = course.pass_images if self.train.reduction == "sum" else None
        self.passes = Passes(self.model, self.wrapped, accelerator, self.descent, self.guard, images)
        self.passes.tell, self.passes.check = monitor.message, lambda terms: check_gains(terms, course.phases)
        self.meter: ConflictMeter | None = None  # compares the tasks' gradients now and then
        self.rates = [0.0, 0.0, 0.0]  # images, seconds and seconds of waiting since the last report
        self.keeper = Keeper(
            folder,
            every=self.train.save_every,
            minutes=self.train.save_minutes,
            keep_last=self.train.keep_last,
            say=monitor.message,
        )
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._clock = time.monotonic()
        self._saved: int | None = None  # the step that was saved last in this sitting
        self._save_due, self._over = False, False

    @property
    def tasks(self) -> dict[str, Task]:
        return {name: self.model.task(name) for name in self.model.tasks}

    @property
    def position(self) -> float:
        """Forward passes behind us, or as many as the clock stands for where minutes run out first."""
        whole, done = self.course.passes, float(self.progress.passes)
        if self.train.max_minutes:
            done = max(done, whole * self.progress.seconds / (60 * self.train.max_minutes))
        return min(done, whole)

    @property
    def share(self) -> float:
        """How much of the run is behind us, 0..1."""
        return self.position / self.course.passes

    def fit(self, batches: Iterator[Batch]) -> None:
        """Trains to the end of the run, or until somebody asks for a stop; saves in either case."""
        self.wrapped.train()
        with ExitStack() as stack:
            stack.enter_context(self.stops.listening())
            stack.enter_context(deterministic(self.train.deterministic))
            if self.ranks.main:
                stack.enter_context(self.keeper)
            self._clock = time.monotonic()
            while not self._asked():
                if self._due():  # also an evaluation that was broken off by whoever stopped the sitting before
                    self._look_up()
                elif self.share < 1 and not self._over:
                    self._advance(batches)
                else:
                    if self._over and self.share < 1:
                        self.monitor.message(self.patience.reason())
                    break
            if self.stopping is not None and self._saved != self.progress.step:
                self.save(best=False, wait=True)
            self.ranks.meet()

    def _asked(self) -> bool:
        """Whether to stop here. Several ranks agree on that within a step."""
        if self.ranks.count == 1:
            self.stopping = self.stops.look() or None
        return self.stopping is not None

    def _advance(self, batches: Iterator[Batch]) -> None:
        """One step, and what is told and saved of it."""
        losses, dataset, wait = self._step(batches)
        self.rates[2] += wait
        self._report(losses, dataset)
        if self.meter and self.meter.due(self.progress.step):
            gains = self.course.gains(self.course.at(self.position).phase)
            self.meter.look(self.model, self.progress.step, gains)
            self._clock = time.monotonic()
        if self.ranks.main:
            self.keeper.check()
        if self._save_due and not self._due():
            self.save(best=False)

    def _look_up(self) -> None:
        """An evaluation and the checkpoint behind it."""
        best = self.evaluate()
        if self.stopping is None:
            self.save(best)
        self._clock = time.monotonic()

    def _step(self, batches: Iterator[Batch]) -> tuple[dict[str, Tensor], str, float]:
        """One optimizer step, of one or more batches: losses by name, the dataset, seconds spent waiting."""
        setting = self.course.at(self.position)
        steer(self.optimizer, setting)
        gains = self.course.gains(setting.phase)
        serving = Serving(batches, max(1, min(setting.passes, self.course.passes - self.progress.passes)))
        losses = self.passes.gradients(serving, gains, self.progress, self._weight)
        self.progress.step += 1
        self.progress.passes += serving.count
        self.progress.images += serving.images * self.ranks.count
        self.rates[0] += serving.count * self.course.pass_images
        norm = self._norm()
        if self._agreed(self.guard.finite([*losses.values(), joined(norm)])):
            self._update(serving.tasks, norm)
            self.passes.after(serving, gains)
        else:
            self._leave_out(serving.kept, losses)
        return losses, serving.kept[-1].dataset, serving.wait

    def _weight(self, number: int) -> float:
        """What the schedule multiplies the gradients of the step's ``number``-th forward pass with."""
        return self.schedule.turn(self.progress.passes + number).weight if self.schedule else 1.0

    def _norm(self) -> Tensor:
        """The norm of the whole gradient; it is not finite where any number of it is not."""
        self.accelerator.unscale_gradients()
        return torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])

    def _update(self, served: set[str], norm: Tensor) -> None:
        """Clips, steps and averages. Parameters of tasks without a turn keep their weights and their moments."""
        if self.train.clip:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self.train.clip, norm)
        for parameter in self.passes.idle(served):
            parameter.grad = None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            resting = self.schedule.resting(self.progress.passes - 1) if self.schedule else frozenset()
            self.average.update(self.model.network, resting)
        self.progress.in_a_row = 0

    def _agreed(self, finite: bool) -> bool:
        """Whether the step was finite on every rank; with it they agree on time, stops and saves."""
        now = time.monotonic()
        elapsed, self._clock = now - self._clock, now
        due = self.ranks.main and self.keeper.due(self.progress.step)
        asked = self.stops.look() if self.ranks.count > 1 else 0
        bad, elapsed, stopping, save = self.ranks.most([not finite, elapsed, asked, due])
        self.progress.seconds += elapsed
        self.rates[1] += elapsed
        self.stopping, self._save_due = int(stopping) or None, bool(save)
        return not bad

    def _leave_out(self, batches: Sequence[Batch], losses: Mapping[str, Tensor]) -> None:
        """A step whose numbers are not finite leaves no trace; too many in a row end the run.

        Raises:
            TrainingError: names the step, the task, the dataset and the images.
        """
        progress, scaler = self.progress, self.accelerator.scaler
        fault = faults.describe(progress.step, batches, losses, self.model, self.guard)
        overflow = scaler is not None and scaler.get_scale() > 1 and not self.ranks.any(fault["own"])
        self.passes.wipe()
        if scaler is not None:
            scaler.update()
        if overflow:  # only fp16 that looks for its scale
            return
        progress.skipped += 1
        progress.in_a_row += 1
        line = faults.line(fault, progress.in_a_row)
        said = (self.ranks.lines(line if fault["own"] else "") or self.ranks.lines(line))[0]
        if self.ranks.main:
            self.folder.log({**fault, "fault": said, "skipped": progress.skipped})
            self.monitor.message(said)
        if progress.in_a_row >= LIMIT:
            place = faults.keep_batches(self.folder.path, self.ranks.index, fault, batches)
            self.save(best=False, wait=True)
            raise faults.TrainingError(f"{said}; look at it with: python -m unified.training.replay {place}")

    def _report(self, losses: Mapping[str, Tensor], dataset: str) -> None:
        """Tells of every tenth step, and of the first; only then do losses leave the device."""
        if self.progress.step % LOG_EVERY and self.progress.step > 1:
            return
        images, elapsed, wait = self.rates
        self.rates = [0.0, 0.0, 0.0]
        record = StepRecord(
            step=self.progress.step,
            steps=self.steps,
            epoch=self.progress.images / self.course.images,
            seconds=self.progress.seconds,
            dataset=dataset,
            lr=self.course.at(self.position).lr,
            losses={name: float(loss) for name, loss in losses.items()},
            images_per_second=images / max(elapsed, 1e-9),
            wait=wait / max(elapsed, 1e-9),
            memory_mb=peak_memory_mb(self.accelerator.device),
            skipped=self.progress.skipped,
        )
        if self.ranks.main:
            self.monitor.step(record)
            self.folder.log(record.line())

    def _due(self) -> bool:
        """Whether it is time to evaluate: at every ``evaluate_every`` of the run, and at its end."""
        since = self.share - self.progress.evaluated
        return since > 0 and (self.share >= 1 or since >= self.train.evaluate_every - 1e-9)

    def evaluate(self) -> bool:
        """Scores the averaged network, tells it, and says whether it is the best so far.

        A stop breaks it off, as if it had never begun.
        """
        best, broken, thrown = False, False, dice.picked_up(self.accelerator.device)
        try:
            evaluation = self.validate(self.shards.whole(self.average.network if self.average else self.model.network))
        except StopAsked:
            broken = True
            dice.laid_down(thrown, self.accelerator.device)
        else:
            if self.ranks.main:
                self.evaluation = evaluation
                best = self._judge(evaluation)
        if self.ranks.any(broken):
            self.stopping = int(self.ranks.most([self.stops.look()])[0])
            return False
        self.progress.evaluated = self.share
        self._over = self.ranks.any(self.ranks.main and self.patience.over)
        self._steer_schedule()
        return best

    def _steer_schedule(self) -> None:
        """Tells the schedule what the evaluation found; alike on every rank, for all of them have a schedule."""
        if isinstance(self.schedule, SteeredSchedule):
            scores = told_scores(self.evaluation.metrics, self.tasks, self.accelerator)
            if entry := self.schedule.observe(self.progress.passes, scores):
                self.monitor.message(entry.line())

    def _judge(self, evaluation: Evaluation) -> bool:
        score, step, metrics = evaluation.score(self.tasks), self.progress.step, evaluation.metrics
        best = score > self.progress.best
        self.progress.best = max(self.progress.best, score)
        self.patience.tell(score)
        self.folder.log({"step": step, "seconds": self.progress.seconds, "metrics": metrics})
        self.folder.write_metrics(metrics)
        self.monitor.evaluation(EvaluationRecord(step, metrics, evaluation.images, evaluation.seconds, best))
        return best

    def save(self, best: bool, wait: bool = False) -> None:
        """Gives a checkpoint to be written, and with ``wait`` sees it on the disk."""
        checkpoint = self.checkpoint()
        if self.ranks.main:
            self.keeper.save(self.progress.step, checkpoint, best=best, wait=wait)
        self._saved = self.progress.step
        if wait:
            self.ranks.meet()

    def checkpoint(self) -> Checkpoint:
        """Everything a later session needs to go on, and ``ema`` alone to predict."""
        return state.state_of(self)

    def restore(self, checkpoint: Checkpoint, source: str) -> None:
        """Goes back to a checkpoint of this configuration.

        Raises:
            CheckpointError: it is of another configuration.
        """
        state.restore(self, checkpoint, source)
        self._saved, self._over = self.progress.step, self.patience.over
