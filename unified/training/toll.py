# SPDX-License-Identifier: Apache-2.0
"""What saving costs a training: time added to the steps while a checkpoint is copied and written, per save."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from unified.checkpoint import Checkpoint
from unified.contracts.config import RunConfig
from unified.model.build import assemble
from unified.training.ema import MovingAverage
from unified.training.folder import RunFolder
from unified.training.joint import JointModel
from unified.training.keeper import Keeper
from unified.training.optimizer import make_optimizer
from unified.training.pace import first_batch, step_once
from unified.training.run import make_accelerator, make_balancer, open_splits

SPARED: Final = 3  # steps at the beginning that are not timed


@dataclass(frozen=True)
class Toll:
    """What saving costs."""

    bytes: int  # of a checkpoint
    step: float  # seconds, median, while nothing is saved
    copied: float  # seconds that the step stands still for the copy, median over the saves
    written: float  # seconds of the thread, median
    added: float  # seconds a save adds to the training in all: the copy, and steps that are slower meanwhile
    in_turn: float  # seconds a save takes if the training waits for it, median
    interval: float  # seconds between saves at the setting
    steps_slowed: int  # median

    @property
    def share(self) -> float:
        """Of the training's time at that interval."""
        return self.added / (self.interval + self.added)


def measure_toll(config: RunConfig, base: Path, saves: int, steps: int, folder: Path | None = None) -> Toll:
    """Real training steps of one batch, with and without a save.

    Args:
        config: the run; its ``save_minutes`` is the interval.
        base: folder that dataset paths start from.
        saves: how many are timed.
        steps: timed without a save, before and between them.
        folder: where checkpoints are written; by default a temporary folder.
    """
    train = _Training(config, base)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        keeper = Keeper(RunFolder(Path(place)), minutes=config.train.save_minutes)
        keeper.save(0, train.checkpoint(), wait=True)  # the first one takes the memory
        size = sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())
        plain = [train.step() for _ in range(SPARED + steps)][SPARED:]
        found = [_saved(keeper, train, number, plain, steps) for number in range(1, saves + 1)]
        in_turn = [_timed(lambda: keeper.save(99, train.checkpoint(), wait=True)) for _ in range(saves)]
        keeper.close()
    step = statistics.median(plain)
    medians = [statistics.median(column) for column in zip(*found, strict=True)]
    copied, written, together, slowed = medians
    added = max(copied, copied + together - slowed * step)  # steps do not get faster by a save, but they vary
    return Toll(size, step, copied, written, added, statistics.median(in_turn), keeper.interval, round(slowed))


def _saved(
    keeper: Keeper, train: _Training, number: int, plain: list[float], steps: int
) -> tuple[float, float, float, float]:
    """Seconds of the copy, of the writing, and of the steps meanwhile; and their number. Then steps without."""
    before = keeper.cost.writing
    copied = _timed(lambda: keeper.save(number, train.checkpoint()))
    slow = [train.step()]
    while keeper.busy:
        slow.append(train.step())
    keeper.wait()
    plain += [train.step() for _ in range(steps)]
    return copied, keeper.cost.writing - before, sum(slow), len(slow)


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class _Training:
    """A model, its average and its optimizer, that take the same step again and again."""

    def __init__(self, config: RunConfig, base: Path) -> None:
        _, self.hardware = make_accelerator(config)
        mixture = open_splits(config, base).train
        parts = assemble(config.model, config.tasks, mixture.vocabulary, fetch=False, growth=config.growth)
        self.model = self.hardware.place(JointModel(parts.network, parts.tasks)).train()
        self.average = MovingAverage(self.model.network, config.train.ema or 0.999, config.train.ema_ramp)
        self.optimizer, self.balancer = make_optimizer(self.model, config.train), make_balancer(config)
        self.batch = first_batch(config, mixture).to(self.hardware.device, memory_format=torch.channels_last)

    def step(self) -> float:
        """One step; its seconds."""
        return _timed(self._step)

    def _step(self) -> None:
        step_once(self.model, self.batch, self.optimizer, self.balancer)
        self.average.update(self.model.network)
        if self.hardware.device.type == "cuda":
            torch.cuda.synchronize(self.hardware.device)

    def checkpoint(self) -> Checkpoint:
        tensors: dict[str, Mapping[str, Tensor]] = {
            "ema": self.average.network.state_dict(),
            "model": self.model.state_dict(),
            "optimizer": {f"{k}/{n}": v for k, s in self.optimizer.state_dict()["state"].items() for n, v in s.items()},
        }
        return Checkpoint(tensors, {"groups": self.optimizer.state_dict()["param_groups"]})
