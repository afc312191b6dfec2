# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: what is written where."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from unified.checkpoint import Checkpoint
from unified.contracts.config import RunConfig
from unified.contracts.document import dump_run_config, read_run_config
from unified.contracts.errors import CheckpointError
from unified.disk import append, make_folder, reason, replace_file, unwritable, write_bytes
from unified.shelf import Pointer, Say, Shelf, tell


class RunFolder:
    """Paths and files of one run.

    ``config.yaml`` the resolved configuration; ``log.jsonl`` a line for every logged step and evaluation;
    ``metrics.json`` the last evaluation; ``checkpoints/step-N`` with the pointers ``last`` and ``best``; ``plots/``.
    A disk that is full does not end a run by its log: lines are left out, which is said once.

    Args:
        path: the folder.
        say: takes a line for a person, such as that of a damaged checkpoint.
    """

    def __init__(self, path: Path, say: Say = tell) -> None:
        self.path, self.say = path, say
        self._left_out = 0

    @classmethod
    def create(cls, out: Path | None, model: str) -> RunFolder:
        """A fresh folder: ``out``, or ``runs/MODEL-DATE``.

        Raises:
            CheckpointError: it holds a run already, or cannot be written.
        """
        path = out or Path("runs") / f"{model}-{datetime.now():%Y%m%d-%H%M%S}"
        cls.check_free(path)
        try:
            make_folder(path)
            (path / "log.jsonl").touch()
        except OSError as error:
            raise unwritable(path, error) from error
        return cls(path)

    @staticmethod
    def check_free(path: Path) -> None:
        """Whether a fresh run may go there.

        Raises:
            CheckpointError: it holds a run already.
        """
        if (path / "config.yaml").exists():
            raise CheckpointError(f"'{path}' already holds a run; give another --out, or --resume {path}")

    @classmethod
    def open(cls, path: Path, say: Say = tell) -> RunFolder:
        """A folder that holds a run.

        Raises:
            CheckpointError: it does not.
        """
        if not (path / "config.yaml").is_file():
            raise CheckpointError(f"no run at '{path}': it holds no config.yaml")
        return cls(path, say)

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def shelf(self) -> Shelf:
        """The run's checkpoints."""
        return Shelf(self.checkpoints)

    def write_config(self, config: RunConfig) -> None:
        write_bytes(self.path / "config.yaml", dump_run_config(config).encode())

    def read_config(self) -> RunConfig:
        return read_run_config(self.path / "config.yaml")

    def log(self, line: Mapping[str, Any]) -> None:
        """Appends one JSON line to the log, or leaves it out where there is no room."""
        data = (json.dumps(line) + "\n").encode()
        self._record(lambda: append(self.path / "log.jsonl", data))

    def trim_log(self, step: int) -> None:
        """Drops log lines of steps after ``step``, which a resumed run will take again, and any that is cut short."""
        path = self.path / "log.jsonl"
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        kept = [line for line in lines if _step(line) <= step]
        write_bytes(path, "".join(f"{line}\n" for line in kept).encode())

    def write_metrics(self, metrics: Mapping[str, float]) -> None:
        """Scores of the last evaluation; the file of the one before stays where there is no room."""
        data = json.dumps(dict(metrics), indent=1, sort_keys=True).encode()
        self._record(lambda: replace_file(self.path / "metrics.json", data))

    def _record(self, write: Callable[[], None]) -> None:
        """Writes what a run can do without; tells of the first that is left out, and when there is room again."""
        try:
            write()
        except OSError as error:
            if not self._left_out:
                self.say(f"{reason(self.path, error)}; log lines and metrics are left out until there is room")
            self._left_out += 1
            return
        if self._left_out:
            self.say(f"'{self.path}' can be written again; {self._left_out} log lines or metrics were left out")
            self._left_out = 0

    def read_metrics(self) -> dict[str, float]:
        """Scores of the last evaluation; empty before the first, or if the file is damaged: the log has them too."""
        try:
            found = json.loads((self.path / "metrics.json").read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def save(self, step: int, checkpoint: Checkpoint, best: bool, keep_last: int = 2) -> Path:
        """Writes ``checkpoints/step-N``, moves the pointers, then removes what no pointer needs.

        Raises:
            CheckpointError: the disk is full or cannot be written; what was good before still is.
        """
        return self.shelf.save(step, checkpoint, best, keep_last)

    def pointed(self, pointer: Pointer) -> Path | None:
        """The checkpoint that ``last`` or ``best`` points to, None before the first."""
        return self.shelf.pointed(pointer)

    def load(self, pointer: Pointer, parts: tuple[str, ...] | None = None) -> Checkpoint:
        """The last or best checkpoint, verified; of damaged ones the one before, which is said.

        Raises:
            CheckpointError: there is none yet, or none is whole.
        """
        return self.shelf.load(pointer, parts, self.say).checkpoint


def _step(line: str) -> float:
    """The step of a log line: 0 where it tells none, infinite where the line is cut short."""
    try:
        content = json.loads(line)
        return float(content.get("step", 0))
    except (ValueError, AttributeError, TypeError, RecursionError):
        return float("inf")
