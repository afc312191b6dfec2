# SPDX-License-Identifier: Apache-2.0
"""A run's page after a fresh look at its best checkpoint: for runs that were trained without one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from unified.contracts.errors import CheckpointError
from unified.data.loader import EvalLoader, spoilage_of
from unified.data.mixing import open_mixture
from unified.hardware import pick
from unified.trained import joined_words, load_trained
from unified.training.evaluator import evaluate
from unified.training.folder import RunFolder
from unified.training.monitor import EvaluationRecord
from unified.training.page.document import NAME
from unified.training.page.log import read_log
from unified.training.page.story import Story


def look_again(run: Path, tell: Callable[[str], None] | None = None) -> Path:
    """Scores the best checkpoint of a run on its validation data and writes the page anew; returns its path.

    Raises:
        UnifiedError: the run, its checkpoint or its data is not there.
    """
    folder, trained = RunFolder.open(run), load_trained(run)
    config, settings = trained.config, trained.config.train
    if not config.data.datasets:
        raise CheckpointError(
            f"'{run}' was imported or handed on and brings no data of its own; there is nothing to look at"
        )
    learned = {name: trained.config.tasks[name] for name in folder.read_config().tasks}  # not what a grown run kept
    config = config.model_copy(update={"tasks": learned})
    tasks = {name: trained.tasks[name] for name in learned}
    own = any(task.words for task in learned.values())
    given = {
        "labels": {name: task.labels for name, task in tasks.items()},
        "size": settings.size,
        "base": trained.base,
        "breaks": {name: task.breaks for name, task in tasks.items()},
        "vocabulary": joined_words(learned) if own else trained.vocabulary,
    }
    train, val = (open_mixture(config.data, split=split, **given) for split in ("train", "val"))  # type: ignore[arg-type]
    numbered = re.match(r"step-(\d+)", trained.source.name)
    step = int(numbered[1]) if numbered else read_log(run).last_step
    network, hardware = trained.network, pick(settings.device, settings.precision)
    story = Story(folder, config, tasks, train, val, network, resumed=step, tell=tell)
    loader = EvalLoader(val, batch=2 * settings.batch, spoilage=spoilage_of(val, settings.unreadable))
    evaluation = evaluate(hardware.place(network), tasks, loader, hardware, total=val.images)
    story.look(network, evaluation)
    story.evaluation(EvaluationRecord(step, evaluation.metrics, evaluation.images, evaluation.seconds, best=False))
    return run / NAME
