# SPDX-License-Identifier: Apache-2.0
"""The loop: batches in, a better network out."""

from __future__ import annotations

import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather
from torch import Tensor

from unified.checkpoint import Checkpoint, fit_state
from unified.contracts.config import RunConfig
from unified.contracts.errors import CheckpointError
from unified.contracts.protocols import Balancer, Task
from unified.contracts.structures import Batch, LossTerm
from unified.hardware import Hardware
from unified.training.balance import check_gains, normalised
from unified.training.course import Course, Setting
from unified.training.ema import MovingAverage
from unified.training.evaluator import Evaluation
from unified.training.folder import RunFolder
from unified.training.joint import JointModel
from unified.training.monitor import EvaluationRecord, Monitor, StepRecord
from unified.training.optimizer import make_optimizer, steer

LOG_EVERY = 10  # steps


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0
    passes: int = 0  # forward passes, of which steps are made
    images: int = 0
    seconds: float = 0.0  # of training, over all sessions of the run
    best: float = float("-inf")
    evaluated: float = 0.0  # share of the run at the last evaluation


class Trainer:
    """Trains a joint model step by step, evaluates it, and keeps its checkpoints.

    Args:
        model: network and tasks, on the CPU.
        config: the run's configuration.
        folder: where logs and checkpoints go.
        accelerator, hardware: ranks and scaling; device, precision and memory layout.
        course: what holds at which point of the run, and where it ends.
        balancer: makes one scalar of the tasks' losses.
        validate: ``validate(network) -> Evaluation``.
        describe: JSON that a checkpoint must carry to be loaded on its own (configuration, vocabulary).
        monitor: told of steps and evaluations.
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
    ) -> None:
        self.config, self.train = config, config.train
        self.folder, self.monitor, self.accelerator = folder, monitor, accelerator
        self.course, self.steps = course, course.steps
        self.balancer, self.validate, self.describe = balancer, validate, describe
        self.progress = Progress()
        self.asked: int | None = None  # the signal that asked this process to stop
        self.stopping: int | None = None  # the signal by which all ranks stop after the same step
        self.model = hardware.place(model)
        self.average = MovingAverage(model.network, self.train.ema, self.train.ema_ramp) if self.train.ema else None
        self.wrapped, self.optimizer = accelerator.prepare(self.model, make_optimizer(self.model, self.train))
        self.evaluation = Evaluation()
        self.rates = [0.0, 0.0, 0.0]  # images, seconds and seconds of waiting since the last report

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
        """Trains to the end of the run, or until a signal asks for a stop; saves in either case."""
        clock = time.monotonic()
        self.wrapped.train()
        with self._signals():
            while self.share < 1 and self.stopping is None:
                losses, dataset, wait = self._step(batches)
                now = time.monotonic()
                self._count(now - clock, wait)
                clock = now
                self._report(losses, dataset)
                if self._due():
                    self.save(best=self.evaluate())
                    clock = time.monotonic()
            if self.stopping is not None:
                self.save(best=False)

    def _step(self, batches: Iterator[Batch]) -> tuple[dict[str, Tensor], str, float]:
        """One optimizer step, of one or more batches: losses by name, the dataset, seconds spent waiting."""
        setting = self.course.at(self.position)
        steer(self.optimizer, setting)
        losses: dict[str, Tensor] = {}
        wait, served = 0.0, set[str]()
        passes = max(1, min(setting.passes, self.course.passes - self.progress.passes))
        for left in range(passes - 1, -1, -1):
            start = time.monotonic()
            batch = next(batches)
            wait += time.monotonic() - start
            batch = batch.to(self.accelerator.device, memory_format=torch.channels_last)
            with self.accelerator.no_sync(self.wrapped) if left else nullcontext():
                total, parts = self._losses(self.wrapped(batch), setting)
                summed = self.train.reduction == "sum"
                self.accelerator.backward(total * self.course.pass_images if summed else total / passes)
            losses |= parts
            served |= set(batch.tasks)
            self.progress.passes += 1
            self.progress.images += len(batch) * self.accelerator.num_processes
        self.rates[0] += passes * self.course.pass_images
        self._update(served)
        return losses, batch.dataset, wait

    def _losses(
        self, terms: Mapping[str, Mapping[str, LossTerm]], setting: Setting
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One scalar to descend, and every part for the log; normalised by the labelled items of all ranks."""
        ranks, gains = self.accelerator.num_processes, self.course.gains(setting.phase)
        check_gains(terms, self.course.phases)
        by_task: dict[str, Tensor] = {}
        parts: dict[str, Tensor] = {}
        for task, items in terms.items():
            for name, term in items.items():
                count = self.accelerator.reduce(term.count.detach().float(), "sum") / ranks
                gain = gains.get(task, 1.0) * gains.get(f"{task}/{name}", 1.0)
                parts[f"{task}/{name}"] = normalised(term, count) * gain
            by_task[task] = torch.stack([parts[f"{task}/{name}"] for name in items]).sum()
        total = self.balancer.combine(by_task)
        touched = sum(p.sum() for p in self._unserved(terms)) if ranks > 1 else 0.0
        return total + 0.0 * touched, {name: loss.detach() for name, loss in (by_task | parts).items()}

    def _unserved(self, served: Any) -> Iterator[torch.nn.Parameter]:
        for task in self.model.network.tasks:
            if task not in served:
                yield from self.model.parameters_of(task)

    def _update(self, served: set[str]) -> None:
        """Clips, steps and averages. Parameters of tasks without a turn keep their weights and their moments."""
        if self.train.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.train.clip)
        for parameter in self._unserved(served):
            parameter.grad = None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.model.network)

    def _count(self, elapsed: float, wait: float) -> None:
        """Books a step that took ``elapsed`` seconds, ``wait`` of them for data; ranks agree on time and stops."""
        self.progress.step += 1
        if self.accelerator.num_processes > 1:
            shared = torch.tensor([elapsed, float(self.asked or 0)], device=self.accelerator.device)
            elapsed, stopping = gather(shared[None]).amax(dim=0).tolist()  # type: ignore[union-attr]
            self.stopping = int(stopping) or None
        self.progress.seconds += elapsed
        self.rates = [total + new for total, new in zip(self.rates, (0, elapsed, wait), strict=True)]

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
            memory_mb=_memory_mb(self.accelerator.device),
        )
        if self.accelerator.is_main_process:
            self.monitor.step(record)
            self.folder.log(record.line())

    def _due(self) -> bool:
        """Whether it is time to evaluate: at every ``evaluate_every`` of the run, and at its end."""
        return self.share >= 1 or self.share - self.progress.evaluated >= self.train.evaluate_every - 1e-9

    def evaluate(self) -> bool:
        """Scores the averaged network, tells it, and says whether it is the best so far."""
        self.progress.evaluated = self.share
        best = False
        if self.accelerator.is_main_process:
            self.evaluation = self.validate(self.average.network if self.average else self.model.network)
            score = self.evaluation.score(self.tasks)
            best = score > self.progress.best
            self.progress.best = max(self.progress.best, score)
            self._tell(self.evaluation, best)
        self.accelerator.wait_for_everyone()
        return best

    def _tell(self, evaluation: Evaluation, best: bool) -> None:
        step, metrics = self.progress.step, evaluation.metrics
        self.folder.log({"step": step, "seconds": self.progress.seconds, "metrics": metrics})
        self.folder.write_metrics(metrics)
        self.monitor.evaluation(EvaluationRecord(step, metrics, evaluation.images, evaluation.seconds, best))

    def save(self, best: bool) -> None:
        """Writes a checkpoint, the last and, if said so or if it is the first, the best."""
        if self.accelerator.is_main_process:
            self.folder.save(self.progress.step, self.checkpoint(), best or self.folder.pointed("best") is None)
        self.accelerator.wait_for_everyone()

    def checkpoint(self) -> Checkpoint:
        """Everything a later session needs to go on, and ``ema`` alone to predict."""
        network = self.average.network if self.average else self.model.network
        slots, groups = _flat(self.optimizer.state_dict())
        tensors = {
            "ema": network.state_dict(),
            "model": self.model.state_dict(),
            "optimizer": slots,
            "random": {"torch": torch.get_rng_state()},
        }
        progress = {**vars(self.progress), "best": _finite(self.progress.best)}
        updates = self.average.updates if self.average else 0
        state = {**self.describe, "progress": progress, "ema_updates": updates, "optimizer": groups}
        return Checkpoint(tensors, state)

    def restore(self, checkpoint: Checkpoint, source: str) -> None:
        """Goes back to a checkpoint of this configuration.

        Raises:
            CheckpointError: it is of another configuration.
        """
        tensors, state = checkpoint.tensors, checkpoint.state
        fit_state(self.model, tensors["model"], source)
        if self.average:
            fit_state(self.average.network, tensors["ema"], source)
            self.average.updates = state["ema_updates"]
        self.optimizer.load_state_dict(_nested(tensors["optimizer"], state["optimizer"], self.optimizer, source))
        torch.set_rng_state(tensors["random"]["torch"])
        saved = {"passes": self.course.begins(state["progress"]["step"]), **state["progress"]}
        self.progress = Progress(**{**saved, "best": float("-inf") if saved["best"] is None else saved["best"]})

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM finish the step and save; a second one stops at once."""

        def ask(number: int, frame: FrameType | None) -> None:
            if self.asked is not None:
                raise KeyboardInterrupt
            self.asked = number
            if self.accelerator.num_processes == 1:
                self.stopping = number
            self.monitor.message("stopping after this step; press Ctrl-C again to stop at once without saving")

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _finite(value: float) -> float | None:
    return value if value > float("-inf") else None


def _memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _flat(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors ``index/slot`` and the JSON of its groups."""
    tensors = {f"{i}/{name}": value for i, slots in state["state"].items() for name, value in slots.items()}
    plain = {k: v for k, v in tensors.items() if not isinstance(v, Tensor)}
    if plain:
        raise CheckpointError(f"optimizer state {sorted(plain)[0]} is not a tensor and cannot be saved")
    return tensors, {"groups": state["param_groups"]}


def _nested(
    tensors: Mapping[str, Tensor], groups: Mapping[str, Any], optimizer: torch.optim.Optimizer, source: str
) -> dict[str, Any]:
    mine = [len(g["params"]) for g in optimizer.param_groups]
    theirs = [len(g["params"]) for g in groups["groups"]]
    if mine != theirs:
        raise CheckpointError(
            f"'{source}' is a checkpoint of another configuration: optimizer groups {theirs}, not {mine}"
        )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/", 1)
        state.setdefault(int(index), {})[name] = _laid_out(value, parameters[int(index)])
    return {"state": state, "param_groups": groups["groups"]}


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """A moment in the memory layout of its parameter: fused optimizers walk both by address, whatever their strides."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
