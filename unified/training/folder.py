# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: what is written where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from unified.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, unwritable, write_bytes
from unified.contracts.config import RunConfig
from unified.contracts.document import dump_run_config, read_run_config
from unified.contracts.errors import CheckpointError


class RunFolder:
    """Paths and files of one run.

    ``config.yaml`` the resolved configuration; ``log.jsonl`` a line for every logged step and evaluation;
    ``metrics.json`` the last evaluation; ``checkpoints/step-N`` with the pointers ``last`` and ``best``; ``plots/``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, out: Path | None, model: str) -> RunFolder:
        """A fresh folder: ``out``, or ``runs/MODEL-DATE``.

        Raises:
            CheckpointError: it holds a run already, or cannot be written.
        """
        path = out or Path("runs") / f"{model}-{datetime.now():%Y%m%d-%H%M%S}"
        cls.check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
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
    def open(cls, path: Path) -> RunFolder:
        """A folder that holds a run.

        Raises:
            CheckpointError: it does not.
        """
        if not (path / "config.yaml").is_file():
            raise CheckpointError(f"no run at '{path}': it holds no config.yaml")
        return cls(path)

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def write_config(self, config: RunConfig) -> None:
        write_bytes(self.path / "config.yaml", dump_run_config(config).encode())

    def read_config(self) -> RunConfig:
        return read_run_config(self.path / "config.yaml")

    def log(self, line: Mapping[str, Any]) -> None:
        """Appends one JSON line to the log."""
        with (self.path / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def trim_log(self, step: int) -> None:
        """Drops log lines of steps after ``step``, which a resumed run will take again."""
        path = self.path / "log.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        kept = [line for line in lines if json.loads(line).get("step", 0) <= step]
        write_bytes(path, "".join(f"{line}\n" for line in kept).encode())

    def write_metrics(self, metrics: Mapping[str, float]) -> None:
        write_bytes(self.path / "metrics.json", json.dumps(dict(metrics), indent=1, sort_keys=True).encode())

    def read_metrics(self) -> dict[str, float]:
        """Scores of the last evaluation; empty before the first."""
        path = self.path / "metrics.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def save(self, step: int, checkpoint: Checkpoint, best: bool, keep_last: int = 1) -> Path:
        """Writes ``checkpoints/step-N``, moves the pointers, then removes what no pointer needs."""
        folder = self._unused(f"step-{step:08d}")
        save_checkpoint(folder, checkpoint)
        for pointer in ("last", "best") if best else ("last",):
            write_bytes(self.checkpoints / pointer, folder.name.encode())
        self._sweep(keep_last)
        return folder

    def _unused(self, name: str) -> Path:
        """A step saved twice gets a second folder: what the pointers name is never touched."""
        folder, number = self.checkpoints / name, 1
        while folder.exists():
            number += 1
            folder = self.checkpoints / f"{name}.{number}"
        return folder

    def _sweep(self, keep_last: int) -> None:
        needed = {self.pointed(name) for name in ("last", "best")}
        steps = sorted(self.checkpoints.glob("step-*"))
        for folder in steps[:-keep_last]:
            if folder not in needed:
                shutil.rmtree(folder, ignore_errors=True)
        for stale in self.checkpoints.glob(".new-*"):  # of a process that was killed
            if stale.is_dir():
                shutil.rmtree(stale, ignore_errors=True)
            else:
                stale.unlink(missing_ok=True)

    def pointed(self, pointer: str) -> Path | None:
        """The checkpoint that ``last`` or ``best`` points to, None before the first."""
        path = self.checkpoints / pointer
        return self.checkpoints / path.read_text().strip() if path.is_file() else None

    def load(self, pointer: str, parts: tuple[str, ...] | None = None) -> Checkpoint:
        """The last or best checkpoint, verified.

        Raises:
            CheckpointError: there is none yet, or it is damaged.
        """
        folder = self.pointed(pointer)
        if folder is None:
            raise CheckpointError(f"run '{self.path}' has no checkpoint yet")
        return load_checkpoint(folder, parts)
