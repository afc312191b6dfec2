# SPDX-License-Identifier: Apache-2.0
"""One training of a study: its folder, and the process that trains in it.

``python -m unified.study.job FOLDER`` trains what the folder's ``config.yaml`` says, or goes on where it stopped, and
leaves ``result.json``. It stops, with its state saved, when its standard input closes: its study has died.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from unified.checkpoint import write_bytes
from unified.contracts.config import RunConfig
from unified.contracts.document import dump_run_config, read_run_config
from unified.contracts.errors import CheckpointError, ConfigError, UnifiedError
from unified.study.design import slug

INTERRUPTED = 130
RESULT = "result.json"
SHOWN = 240  # letters of a failed job's last line


@dataclass(frozen=True)
class Job:
    """A training that a study asks for."""

    arm: str
    seed: int
    config: RunConfig
    base: Path  # that relative paths of its datasets start from
    part: str = ""  # the task, of an arm that has a network for each

    @property
    def name(self) -> str:
        """What a person reads."""
        return f"{self.arm}{f' ({self.part})' if self.part else ''}, seed {self.seed}"

    @property
    def slug(self) -> str:
        """Its folder below the study's."""
        return "-".join(part for part in (slug(self.arm), slug(self.part), str(self.seed)) if part)


class JobFolder:
    """``job.json`` who it is, ``config.yaml`` what it trains, ``run/`` the training, ``output.txt`` what it said."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def output(self) -> Path:
        return self.path / "output.txt"

    def prepare(self, job: Job) -> None:
        """Writes what the job's process needs.

        Raises:
            ConfigError: another job was begun here.
        """
        if self.told():
            self._check(job)
            return
        write_bytes(self.path / "config.yaml", dump_run_config(job.config).encode())
        who = {"arm": job.arm, "part": job.part, "seed": job.seed, "base": str(job.base)}
        write_bytes(self.path / "job.json", json.dumps(who, indent=1).encode())

    def _check(self, job: Job) -> None:
        """Whether what was begun here is this job; settings that are newer than it have their defaults."""
        begun = dotted(read_run_config(self.path / "config.yaml").model_dump(mode="json"))
        asked = dotted(job.config.model_dump(mode="json"))
        other = sorted(key for key in begun.keys() | asked.keys() if begun.get(key) != asked.get(key))
        if other:
            what = f"{other[0]} {begun.get(other[0])}, not {asked.get(other[0])}"
            raise ConfigError(f"'{self.path}' holds '{job.name}' with {what}; give another --out, or remove it")

    def told(self) -> dict[str, Any]:
        """Who the job is; empty before it was prepared."""
        path = self.path / "job.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def result(self) -> dict[str, Any] | None:
        """What a finished job says; None before its end."""
        path = self.path / RESULT
        return json.loads(path.read_text()) if path.is_file() else None

    def steps(self) -> tuple[int, int] | None:
        """Steps done and planned, as the training's log told last."""
        path = self.run / "log.jsonl"
        for text in reversed(path.read_text().splitlines() if path.is_file() else []):
            with contextlib.suppress(ValueError):
                return int(json.loads(text)["step"]), read_run_config(self.path / "config.yaml").train.max_steps or 0
        return None

    def last_words(self) -> str:
        """The last line the job's process printed."""
        lines = self.output.read_text(errors="replace").split("\n") if self.output.is_file() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        return last if len(last) <= SHOWN else f"{last[:SHOWN]}..."


def dotted(value: Any, key: str = "") -> dict[str, Any]:
    """Leaves by dotted key; lists and empty mappings are leaves."""
    if not isinstance(value, Mapping) or not value:
        return {key: value}
    return {k: v for name, item in value.items() for k, v in dotted(item, f"{key}.{name}" if key else name).items()}


def work(path: Path) -> int:
    """Trains to the end, or until asked to stop; the exit code."""
    import unified  # noqa: F401  (first: it lets torchvision be imported beside a CPU-only torch)
    from unified.study.result import result_of
    from unified.training.folder import RunFolder
    from unified.training.run import train

    folder = JobFolder(path)
    with _alone(folder):
        told, begun = folder.told(), (folder.run / "checkpoints" / "last").exists()
        if not begun and folder.run.exists():
            shutil.rmtree(folder.run)  # died before its first checkpoint
        # a begun run is told its own words: the job's leave out what is the default
        config = RunFolder.open(folder.run).read_config() if begun else read_run_config(folder.path / "config.yaml")
        summary = train(config, Path(told["base"]), out=folder.run, resume=folder.run if begun else None)
        if summary.interrupted:
            return INTERRUPTED
        result = result_of(folder.run, arm=told["arm"])
        write_bytes(folder.path / RESULT, json.dumps(result.as_json(), indent=1).encode())
    return 0


@contextlib.contextmanager
def _alone(folder: JobFolder) -> Iterator[None]:
    """Waits out a process of a study that died a moment ago; two never train in one folder."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder.path / "lock").open("a") as file:
        _lock(fcntl, file, folder)
        yield


def _lock(fcntl: Any, file: TextIO, folder: JobFolder) -> None:
    waiting = threading.Event()
    for _ in range(120):
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        waiting.wait(0.5)
    raise CheckpointError(f"'{folder.path}' is being trained by another process; wait for its end, or end it")


def _heed_parent() -> None:
    """Asks for a stop once standard input ends, as it does when the study's own process is gone."""

    def listen() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1024):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen, daemon=True).start()


def main() -> int:
    """The process of one job."""
    _heed_parent()
    try:
        return work(Path(sys.argv[1]))
    except UnifiedError as error:
        print(f"error: {error}", flush=True)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        import traceback

        traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0]
        print(f"{type(error).__name__}: {first}", flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
