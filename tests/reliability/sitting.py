# SPDX-License-Identifier: Apache-2.0
"""Sittings of one small run: det, cls and emb together, on scenes of 64 pixels, as ``unified-train`` would take them.

A sitting tells step by step, so that a comparison is one of bits: its losses as hexadecimal floats, a digest of the
batches that it saw, and one of the weights and buffers that it left. In a process that has once run one, another takes
a few hundredths of a second a step; a fork of it is warm too.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1]))
import tiny

from unified.contracts.config import RunConfig
from unified.contracts.structures import Batch
from unified.training import run
from unified.training.folder import RunFolder
from unified.training.monitor import Monitor
from unified.training.trainer import Trainer

MODEL = """
name: small
backbone: {name: csp, channels: [8, 8, 8, 8, 8], depths: [1, 1, 1, 1]}
neck: {name: pan, depth: 1}
latents:
  - {site: "align.*", latent: vector, operator: mul}
heads:
  embed: {width: 8}
  multilabel: {width: 8}
"""
DATA = tiny.DATA.replace("train: 24, val: 8, seed: 0, size: 96", "train: 24, val: 4, seed: 0, size: 64")
STEPS = 40
LOST = 70  # exit code of a fork to which nobody listens any more

Told = Callable[[int, str], None]
Meddle = Callable[[Trainer, int], None]


def small_config(place: Path, *overrides: str) -> tuple[RunConfig, Path]:
    """A run of :data:`STEPS` steps of 4 images, with augmentation, evaluated four times."""
    from unified.contracts.document import load_run_config

    tiny.cache_at(place)
    words = ("size=64", "batch=4", "epochs=100", f"max_steps={STEPS}", "evaluate_every=0.25", "save_minutes=0")
    mixed = ("train.augment={fliplr: 0.5, mosaic: 0.5, scale: 0.3, hue: 0.1}",)
    return load_run_config(
        model=tiny.write_model(place, MODEL, "small"),
        data=tiny.write_data(place, DATA),
        tasks=("det", "cls", "emb"),
        recipe=tiny.write_recipe(place),
        overrides=(*words, *mixed, *overrides),
    )


class Seen:
    """A stream of batches that remembers a digest of those that were taken."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self.batches, self._sum = batches, hashlib.sha256()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = next(self.batches)
        self._sum.update(batch.images.contiguous().numpy().tobytes())
        for frame, each in zip(batch.frames, batch.annotations, strict=True):
            self._sum.update(frame.image_id.encode() + each.boxes_xyxy.contiguous().numpy().tobytes())
        return batch

    @property
    def digest(self) -> str:
        return self._sum.hexdigest()[:16]


def weights_of(trainer: Trainer) -> str:
    """A digest of the weights and buffers that a step left."""
    found = hashlib.sha256()
    for _, tensor in sorted(trainer.model.state_dict().items()):
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def difference(one: str, other: str | None) -> str:
    """Which of what two sittings told of a step differs; nothing where all is the same to the bit."""
    if one == other:
        return ""
    if other is None:
        return "it was not made"
    parts = zip(("losses", "batch", "weights"), one.split(" | "), other.split(" | "), strict=True)
    return ", ".join(f"{name} ({_apart(a, b)})" for name, a, b in parts if a != b)


def _apart(one: str, other: str) -> str:
    """The words that two lists of words do not share, side by side."""
    return "; ".join(f"{a} was {b}" for a, b in zip(one.split(), other.split(), strict=False) if a != b) or "more words"


@contextmanager
def bare(told: Told | None = None, meddle: Meddle | None = None) -> Iterator[None]:
    """Runs are without a report and open their data once; ``told`` hears steps, ``meddle`` may do what it likes."""
    step, opened, splits = Trainer._step, run.open_splits, dict[str, Any]()

    def counted(trainer: Trainer, batches: Any) -> Any:
        seen = Seen(batches)
        found = step(trainer, seen if told else batches)
        if told:
            losses = " ".join(f"{name}={float(v).hex()}" for name, v in sorted(found[0].items()))
            told(trainer.progress.step, f"{losses} | {seen.digest} | {weights_of(trainer)}")
        if meddle:
            meddle(trainer, trainer.progress.step)
        return found

    def once(config: RunConfig, base: Path) -> Any:
        key = config.data.model_dump_json()
        if key not in splits:
            splits[key] = opened(config, base)
        return splits[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", counted)
        patch.setattr(run, "open_splits", once)
        patch.setattr(run, "report", lambda *_: None)
        patch.setattr(run, "_audience", lambda *_, **__: (Monitor(), None))
        yield


def sit(config: RunConfig, base: Path, out: Path, told: Told | None = None, meddle: Meddle | None = None) -> Any:
    """One sitting: begins the run in ``out``, or goes on with it where there is a checkpoint."""
    torch.set_num_threads(1)
    torch.manual_seed(int(time.monotonic_ns()) % 2**31)  # nothing of an earlier sitting helps
    saved = (out / "checkpoints" / "last").is_file()
    with bare(told, meddle):
        if saved:
            return run.train(RunFolder.open(out).read_config(), base, resume=out)
        if (out / "config.yaml").is_file():
            (out / "config.yaml").unlink()  # stopped before its first save: begun anew
        return run.train(config, base, out=out)


def ends_with(out: Path) -> str:
    """A digest of everything that a run's last checkpoint holds, and of its scores."""
    found = RunFolder.open(out).load("last")
    whole = hashlib.sha256()
    for part in sorted(found.tensors):
        for name, tensor in sorted(found.tensors[part].items()):
            whole.update(f"{part}/{name}".encode() + tensor.contiguous().numpy().tobytes())
    for key in ("step", "passes", "images", "best", "evaluated", "skipped"):
        whole.update(f"{key} {found.state['progress'][key]}".encode())
    whole.update((out / "metrics.json").read_bytes())
    return whole.hexdigest()


def end_with_parent() -> None:
    """Has Linux kill this process when the one that forked it ends; else a test that is stopped leaves runs behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Child:
    """A sitting in a fork of this process, which is warm. Losses come through a pipe."""

    def __init__(self, config: RunConfig, base: Path, out: Path) -> None:
        ear, mouth = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(ear)
            self._live(config, base, out, mouth)
        os.close(mouth)
        self.ear = os.fdopen(ear, "r")
        self.losses: dict[int, str] = {}

    @staticmethod
    def _live(config: RunConfig, base: Path, out: Path, mouth: int) -> int:
        """The whole life of a fork. It never returns into the tests that it was forked from, whatever happens."""
        code = LOST
        try:
            end_with_parent()
            os.environ["OMP_NUM_THREADS"] = "1"
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            code = Child._sit(config, base, out, mouth)
        finally:
            os._exit(code)

    @staticmethod
    def _sit(config: RunConfig, base: Path, out: Path, mouth: int) -> int:
        try:
            summary = sit(config, base, out, told=lambda k, text: os.write(mouth, f"{k} {text}\n".encode()) and None)
        except BrokenPipeError:
            return LOST
        except BaseException as error:
            os.write(mouth, f"error {type(error).__name__}: {error}\n".encode())
            return 1
        return 128 + summary.signal if summary.signal else 0

    def until(self, steps: int) -> bool:
        """Waits for so many steps of this sitting; False where it ends before."""
        return all(self.hear() for _ in range(steps))

    def hear(self) -> bool:
        """Waits for the next step."""
        line = self.ear.readline()
        if not line.endswith("\n"):
            return False
        step, _, text = line.strip().partition(" ")
        assert step != "error", text
        self.losses[int(step)] = text
        return True

    def end(self, number: int | None = None) -> int:
        """The exit code, after a signal if one is given; negative where a signal ended it."""
        if number is not None:
            os.kill(self.pid, number)
        while self.hear():
            pass
        self.ear.close()
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)
