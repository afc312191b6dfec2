# SPDX-License-Identifier: Apache-2.0
"""A model whose tasks come and go: trained anew, mounted from packs, taken away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unified.contracts.errors import ConfigError, suggestion
from unified.hardware import Hardware
from unified.inference.fused import check_whole
from unified.inference.predictor import Predictor
from unified.model.network import UnifiedNetwork
from unified.packs import mounted, pack_of, read_task, removed, write_task
from unified.trained import Trained


class Growable:
    """What :class:`unified.UnifiedModel` can do with single tasks; a fused one refuses all of it (ConfigError)."""

    trained: Trained
    network: UnifiedNetwork
    hardware: Hardware
    size: int
    _predictor: Predictor

    def add_task(self, task: str | Sequence[str] = (), data: str = "shapes", **options: Any) -> Mapping[str, float]:
        """Trains one more task on this network and takes it in; trunk, norms, old heads and old z stand still.

        Args:
            task: a registered kind, or ``name:kind``; several as a list.
            data: name or path of a data file, or a dataset's folder.
            options: ``classes`` (a task that gets the data's further classes, instead of ``task``), ``latents`` (which
                z stands where for the new task), ``unfreeze`` and ``distill`` (as of ``unified-train``), ``recipe``,
                ``out`` (the run's folder), ``settings`` (``["max_steps=500"]``), ``monitor``.

        Returns:
            The new tasks' scores by flat name; :attr:`trained` tells the run's folder (``source``).

        Raises:
            UnifiedError: a word that is not understood, or data that cannot be used; the model is as it was.
        """
        check_whole(self.network)
        from unified import grow  # by the public door: training stands beside this room, not below it

        return grow(self, task, data, **options).metrics  # type: ignore[arg-type]

    def save_task(self, task: str, path: str | Path) -> Path:
        """Writes one task as a pack: head, z, vocabulary, scores and the fingerprint of the trunk it fits.

        Raises:
            ConfigError: no such task.
            CheckpointError: the file cannot be written.
        """
        check_whole(self.network)
        write_task(Path(path), pack_of(self.trained, self.network, task))
        return Path(path)

    def load_task(self, path: str | Path, name: str | None = None) -> str:
        """Mounts a pack, under the name it was saved as or another, and returns this name.

        Raises:
            CheckpointError: it is missing, damaged, or was trained on another trunk; the model is as it was.
            ConfigError: the model has a task of this name.
        """
        check_whole(self.network)
        pack = read_task(Path(path))
        self.become(mounted(self.trained, self.network, pack, name or pack.name, str(path)))
        return name or pack.name

    def remove_task(self, task: str) -> None:
        """Takes a task away; the others answer as before.

        Raises:
            ConfigError: no such task, or no other.
        """
        check_whole(self.network)
        self.become(removed(self.trained, self.network, task))

    def become(self, trained: Trained) -> None:
        """Is another model from now on; passes under way end with the old one."""
        network: UnifiedNetwork = self.hardware.place(trained.network).eval()
        self._predictor = Predictor(network, trained.tasks, self.hardware)
        self.trained, self.network, self.size = trained, network, trained.config.train.size
        self.__dict__.pop("spaces", None)

    def _asked(self, tasks: str | Sequence[str]) -> Sequence[str]:
        """Names of tasks, in the model's order where further classes join those asked for.

        Raises:
            ConfigError: one is not known, or none was named.
        """
        known = tuple(self.network.heads)
        asked = known if tasks == "all" else (tasks,) if isinstance(tasks, str) else tuple(tasks)
        for task in asked:
            if task not in known:
                raise ConfigError(f"this model has no task '{task}'{suggestion(task, known)}")
        if not asked:
            raise ConfigError(f"no task was asked for{suggestion('', known)}")
        joins = {name for name, task in self.trained.config.tasks.items() if task.extends in asked}
        return (*asked, *(name for name in known if name in joins and name not in asked))
