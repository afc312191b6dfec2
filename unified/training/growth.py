# SPDX-License-Identifier: Apache-2.0
"""A run that adds to a trained network: what it keeps, what learns, and what a person must be told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unified.contracts import protocols
from unified.contracts.config import DataConfig, GrowthConfig, RunConfig, TaskConfig
from unified.contracts.document import load_model_config, load_run_config
from unified.contracts.errors import ConfigError, suggestion
from unified.contracts.structures import Vocabulary
from unified.model.defaults import spelled_out
from unified.model.growth import numbers_of, on_its_own
from unified.trained import trained_config, trained_scores, trained_words
from unified.training.joint import JointModel

PARTS = ("backbone", "neck")


@dataclass(frozen=True)
class Wish:
    """What is to be added to a trained network.

    Attributes:
        start: folder of the run or model that is grown.
        tasks: registered kinds, or ``name:kind``.
        classes: a task that gets further classes, instead of ``tasks``.
        latents: which z stands where for the new tasks, in words such as ``align.*=mul trunk.*=lowrank``; None: as the
            model says.
        unfreeze: ``backbone`` or ``neck``, which learn all the same.
        distill: weight of the loss that holds old answers near what they were.
    """

    start: Path
    tasks: tuple[str, ...] = ()
    classes: str | None = None
    latents: str | None = None
    unfreeze: tuple[str, ...] = ()
    distill: float = 0.0

    def names(self, known: RunConfig) -> tuple[str, ...]:
        """The new tasks as ``name:kind``.

        Raises:
            ConfigError: a name that is taken, a kind or a task that is not known, or a wish that makes no sense.
        """
        if bool(self.tasks) == bool(self.classes):
            raise ConfigError("give either --add-task or --add-classes; for both, add one after the other")
        if self.classes:
            return (_further(self.classes, known),)
        for text in self.tasks:
            name, _, kind = text.partition(":")
            _check_kind(text, kind or name)
            if name in known.tasks:
                raise ConfigError(
                    f"--add-task {text}: {self.start} has a task '{name}' already; give the new one another name, "
                    f"such as {name}2:{kind or name}, or more classes to the old one: --add-classes {name}"
                )
        return self.tasks

    def check(self) -> None:
        """Raises ConfigError where parts are not known, or nothing could be distilled."""
        for part in self.unfreeze:
            if part not in PARTS:
                raise ConfigError(f"--unfreeze: unknown part '{part}'{suggestion(part, PARTS)}")
        if self.distill < 0:
            raise ConfigError(f"--distill must be 0 or more, got {self.distill:g}")
        if self.distill and not self.unfreeze:
            raise ConfigError("--distill holds what --unfreeze endangers; everything old stands still, so leave it out")


def _check_kind(text: str, kind: str) -> None:
    known = protocols.tasks.names()
    if kind not in known:
        raise ConfigError(f"--add-task {text}: unknown task '{kind}'{suggestion(kind, known)}")


def _further(task: str, known: RunConfig) -> str:
    if task not in known.tasks:
        raise ConfigError(f"--add-classes: this model has no task '{task}'{suggestion(task, known.tasks)}")
    kind = known.tasks[task].task
    if protocols.tasks.get(kind).labels not in ("boxes", "tags"):
        raise ConfigError(f"--add-classes {task}: a task of kind '{kind}' has no classes to add to")
    number = 2
    while f"{task}_{number}" in known.tasks:
        number += 1
    return f"{task}_{number}:{kind}"


def grown_run(
    wish: Wish,
    data: str,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> tuple[RunConfig, Path]:
    """The configuration of a run that adds to a trained network, and the folder its datasets' paths start from.

    Args:
        wish: what is added to what.
        data, recipe, overrides, options: as of :func:`unified.contracts.document.load_run_config`.

    Raises:
        ConfigError: a word that is not understood, or settings that would change the old network.
        CheckpointError: ``wish.start`` is no run or model, or is damaged.
    """
    wish.check()
    known = trained_config(wish.start)
    config, base = load_run_config(
        model=known.model,
        data=data,
        tasks=wish.names(known),
        recipe=recipe,
        overrides=overrides,
        options=options,
    )
    return grown(config, wish), base


def grown(config: RunConfig, wish: Wish) -> RunConfig:
    """A run's configuration with all that it keeps of the network it begins with.

    Args:
        config: of the new tasks alone, with the model of ``wish.start``.
        wish: what was asked.

    Raises:
        ConfigError: settings that would change the old network.
        CheckpointError: ``wish.start`` is no run or model, or is damaged.
    """
    known, words = spelled_out(trained_config(wish.start)), trained_words(wish.start)
    config = spelled_out(config)
    theirs, mine = (each.model.model_copy(update={"heads": {}, "default_heads": {}}) for each in (known, config))
    if theirs != mine:
        raise ConfigError(
            "--add-task keeps the network as it is: leave out settings of the model; --latents is for new z"
        )
    rules = load_model_config("unified-n", wish.latents).latents if wish.latents is not None else None
    tasks = {name: _new(task, rules, wish.classes, known) for name, task in config.tasks.items()}
    kept = {name: on_its_own(name, task, known.model, words) for name, task in known.tasks.items()}
    growth = GrowthConfig.model_validate(
        {
            "tasks": kept,
            "metrics": {k: v for k, v in trained_scores(wish.start).items() if k.partition("/")[0] in kept},
            "unfreeze": wish.unfreeze,
            "distill": wish.distill,
        }
    )
    return config.model_copy(update={"tasks": tasks, "growth": growth, "data": labelled_too(config.data, tasks)})


def _new(task: TaskConfig, rules: Sequence[object] | None, classes: str | None, known: RunConfig) -> TaskConfig:
    """A new task; one of further classes is made like the task that it extends."""
    update: dict[str, object] = {"latents": rules} if rules is not None else {}
    if classes:
        old = known.tasks[classes]
        update |= {"extends": old.extends or classes, "head": task.head or old.head, "options": old.options}
    return task.model_copy(update=update)


def labelled_too(data: DataConfig, tasks: Mapping[str, TaskConfig]) -> DataConfig:
    """What a dataset labels of a task, it labels of the further classes of this task."""
    further = {name: task.extends for name, task in tasks.items() if task.extends}
    datasets = {}
    for name, each in data.datasets.items():
        same = {new: each.labelled[old] for new, old in further.items() if old in each.labelled}
        datasets[name] = each.model_copy(update={"labelled": {**same, **each.labelled}})
    return data.model_copy(update={"datasets": datasets})


def further_words(config: RunConfig, vocabulary: Vocabulary) -> Vocabulary | None:
    """The words of the data without those that extended tasks know; None where no task is extended.

    Raises:
        ConfigError: nothing is left.
    """
    task = next((task for task in config.tasks.values() if task.extends), None)
    if task is None:
        return None
    table = protocols.tasks.get(task.task).labels
    same = [t for n, t in config.growth.tasks.items() if task.extends in (n, t.extends)]
    known = {word for old in same if old.words for word in getattr(old.words, table)}
    new = tuple(word for word in getattr(vocabulary, table) if word not in known)
    if not new:
        raise ConfigError(f"--add-classes {task.extends}: it knows every class that the data names; nothing is new")
    return Vocabulary(**{**vars(vocabulary), table: new})


def growth_notes(model: JointModel, config: RunConfig) -> list[str]:
    """What stands still, what learns and what is endangered, in lines for a person; none of an ordinary run.

    Args:
        model: settled.
    """
    growth, network = config.growth, model.network
    if not growth.tasks:
        return []
    old, new = ", ".join(growth.tasks), ", ".join(config.tasks)
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    still = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    own = sum(p.numel() * p.element_size() for name in config.tasks for p in numbers_of(network, name))
    lines = [
        f"grown: {new} learn{'s' if len(config.tasks) == 1 else ''} {learned:,} numbers, {still:,} stand still; "
        f"a pack of what is new takes about {own / 1e3:,.0f} kB"
    ]
    if not growth.unfreeze:
        return [*lines, f"{old}: trunk, norms, heads and z stand still, so every answer stays bit for bit the same"]
    what = " and ".join(growth.unfreeze)
    held = f"held by --distill {growth.distill:g}" if growth.distill else "held by nothing; --distill 1 would hold them"
    return [*lines, f"--unfreeze {what} endangers {old}: they read it, and their answers will change ({held})"]
