# SPDX-License-Identifier: Apache-2.0
"""Jobs side by side, each in a process of its own; what is finished is kept, what was begun goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from unified.contracts.errors import CheckpointError, ConfigError
from unified.hardware import cores, pick_device
from unified.study.job import Job, JobFolder
from unified.study.result import Result

POLL = 0.25  # seconds
PATIENCE = 90.0  # seconds that a job is given to save when the study is stopped
ALL_CORES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Slot:
    """Room for one job at a time: a core, or a device."""

    environment: Mapping[str, str]


@dataclass
class Outcome:
    """How the jobs of a study ended."""

    results: list[Result] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # job -> its last words
    kept: int = 0  # were finished before
    interrupted: bool = False


@dataclass
class _Running:
    job: Job
    folder: JobFolder
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    slot: Slot
    begun: float


def make_slots(device: str, jobs: int | None) -> tuple[Slot, ...]:
    """Room for jobs: a thread each on as many cores as there are, or a device each.

    Args:
        device: as ``train.device`` has it.
        jobs: how many side by side; None: as many as fit.

    Raises:
        ConfigError: fewer than one.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs must be 1 or more, got {jobs}")
    kind = pick_device(device)
    if kind.type == "cuda":
        import torch

        own = [str(kind.index)] if kind.index is not None else [str(i) for i in range(torch.cuda.device_count())]
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        named = [seen[int(i)] if len(seen) > int(i) and seen[0] else i for i in own]
        return tuple(Slot({"CUDA_VISIBLE_DEVICES": named[k % len(named)]}) for k in range(jobs or len(named)))
    return tuple(Slot(dict.fromkeys(ALL_CORES, "1")) for _ in range(jobs or (cores() if kind.type == "cpu" else 1)))


def job_folder(study: Path, job: Job) -> JobFolder:
    """Where a job of a study lives."""
    return JobFolder(study / "jobs" / job.slug)


def run_jobs(jobs: Sequence[Job], study: Path, slots: Sequence[Slot], tell: Tell = lambda line: None) -> Outcome:
    """Runs every job that is not finished, as many at a time as there are slots.

    A job that fails is named, and the others go on. Ctrl-C lets the running ones save; the same call goes on later.

    Raises:
        ConfigError: a folder holds another job.
        CheckpointError: a folder cannot be written.
    """
    outcome = Outcome()
    waiting = [job for job in jobs if not _finished(job, study)]
    outcome.kept = len(jobs) - len(waiting)
    if outcome.kept:
        tell(f"{outcome.kept} of {len(jobs)} jobs are finished already")
    for job in waiting:
        _prepare(job_folder(study, job), job)
    pool = _Pool(len(jobs), outcome, tell)
    try:
        pool.run(waiting, study, list(slots))
    except KeyboardInterrupt:
        outcome.interrupted = True
        tell("stopping: running jobs save what they have; press Ctrl-C again to end them at once")
        pool.stop()
    finally:
        pool.end()
    by_slug = {job_folder(study, job).path: k for k, job in enumerate(jobs)}
    found = [(k, JobFolder(path).result()) for path, k in by_slug.items()]
    outcome.results = [Result.from_json(told) for _, told in sorted(found, key=lambda pair: pair[0]) if told]
    return outcome


class _Pool:
    """The processes of one study."""

    def __init__(self, total: int, outcome: Outcome, tell: Tell) -> None:
        self.total, self.outcome, self.tell = total, outcome, tell
        self.running: list[_Running] = []
        self.done = outcome.kept

    def run(self, waiting: Sequence[Job], study: Path, free: list[Slot]) -> None:
        """Until nothing waits and nothing runs."""
        queue = list(waiting)
        while queue or self.running:
            while queue and free:
                job = queue.pop(0)
                self.running.append(_begun(job, job_folder(study, job), free.pop(0)))
                self.tell(f"begun    {job.name}")
            time.sleep(POLL)
            for ended in [each for each in self.running if each.process.poll() is not None]:
                self._close(ended)
                free.append(ended.slot)

    def _close(self, ended: _Running) -> None:
        self.running.remove(ended)
        ended.output.close()
        if ended.process.stdin:
            ended.process.stdin.close()
        took = time.monotonic() - ended.begun
        self.done += 1
        if ended.folder.result():
            self.tell(f"finished {ended.job.name} in {took:.0f} s ({self.done} of {self.total})")
            return
        code = ended.process.returncode
        reason = ended.folder.last_words() if code >= 0 else f"ended by signal {-code}"
        self.outcome.failed[ended.job.name] = f"{reason} (all of it in {ended.folder.output})"
        self.tell(f"FAILED   {ended.job.name}: {self.outcome.failed[ended.job.name]}")

    def stop(self) -> None:
        """Asks all for an end and waits until they have saved."""
        for each in self.running:
            with suppress(OSError):
                each.process.send_signal(signal.SIGTERM)
        limit = time.monotonic() + PATIENCE
        with suppress(KeyboardInterrupt):
            while any(each.process.poll() is None for each in self.running) and time.monotonic() < limit:
                time.sleep(POLL)

    def end(self) -> None:
        """Leaves no process behind."""
        for each in self.running:
            if each.process.poll() is None:
                each.process.kill()
            each.process.wait()
            each.output.close()
        self.running.clear()


def _finished(job: Job, study: Path) -> bool:
    folder = job_folder(study, job)
    if folder.told():
        folder.prepare(job)  # says so, if another job was begun here
    return folder.result() is not None


def _prepare(folder: JobFolder, job: Job) -> None:
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"cannot write to '{folder.path}': {error.strerror or error}; give another --out"
        ) from error
    folder.prepare(job)


def command(folder: JobFolder) -> list[str]:
    """What a job's process is."""
    return [sys.executable, "-m", "unified.study.job", str(folder.path)]


def _begun(job: Job, folder: JobFolder, slot: Slot) -> _Running:
    """Its standard input stays open as long as this process lives: its end tells the job to save and stop."""
    output = folder.output.open("ab")
    process = subprocess.Popen(
        command(folder),
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, **slot.environment},
        start_new_session=True,  # Ctrl-C reaches the study alone, which then asks its jobs
    )
    return _Running(job, folder, process, output, slot, time.monotonic())
