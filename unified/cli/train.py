# SPDX-License-Identifier: Apache-2.0
"""``unified-train``: one network for several tasks, from a model, a recipe and a data file."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from unified.cli import options
from unified.cli.command import Debug, Json, make_app, run, split_names
from unified.cli.options import DATA, MODEL, TASKS
from unified.contracts.errors import ConfigError

if TYPE_CHECKING:
    from unified.contracts.config import ModelConfig, RunConfig
    from unified.training.monitor import Monitor, RunSummary

app = make_app()


@app.command()
def train(
    context: typer.Context,
    settings: options.Settings = None,
    tasks: options.Tasks = None,
    data: options.Data = None,
    model: options.Model = None,
    latents: options.Latents = None,
    recipe: options.Recipe = None,
    size: options.Size = None,
    batch: options.Batch = None,
    epochs: options.Epochs = None,
    max_steps: options.MaxSteps = None,
    max_minutes: options.MaxMinutes = None,
    lr: options.Rate = None,
    course: options.Course = None,
    patience: options.Patience = None,
    set_: options.Set = None,
    out: options.Out = None,
    start: options.Start = None,
    add_task: options.AddTask = None,
    add_classes: options.AddClasses = None,
    unfreeze: options.Unfreeze = None,
    distill: options.Distill = None,
    resume: options.Resume = None,
    force: options.Force = False,
    device: options.Device = None,
    precision: options.Precision = None,
    compile_: options.Compile = None,
    deterministic: options.Deterministic = None,
    workers: options.Workers = None,
    seed: options.Seed = None,
    no_lint: options.NoLint = False,
    dry_run: options.DryRun = False,
    fast_dev_run: options.FastDevRun = False,
    find_lr: options.FindRate = False,
    tensorboard: options.Tensorboard = None,
    quiet: options.Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train one network for several tasks.

    Without anything else, [bold]unified-train[/bold] learns boxes, tags and embeddings on the built-in shapes.
    Options may also be written as settings: [bold]size=320[/bold].
    """
    given = {key: context.params[name] for name, key in options.SETTINGS.items()}
    words = {word: context.params[name] for name, word in options.WORDS.items()}
    if start:
        words["--from"] = str(start)
    given["train.logging"] = ("tensorboard",) if tensorboard else None
    overrides = [*(settings or []), *(set_ or [])]
    look = _look(dry_run, fast_dev_run, find_lr, resume)
    grow = {"--add-task": add_task, "--add-classes": add_classes, "--unfreeze": unfreeze, "--distill": distill}
    if resume:
        words |= {word: str(value) for word, value in grow.items() if value is not None}
        config, base = _resumed(resume, words, given, overrides, force)
    elif any(value is not None for value in grow.values()):
        config, base = _grown(words, grow, given, overrides)
    else:
        config, base = _fresh(words, given, overrides)
    if not (resume or no_lint):
        _lint(config, base, data or DATA, quiet)
    if look:
        look(config, base, quiet, as_json, out=out, resume=resume, start=start)
        return
    summary = _train(config, base, out, resume, _monitor(quiet), start, force)
    if as_json:
        print(json.dumps(_as_json(summary)))
    if summary.interrupted and summary.signal:
        raise typer.Exit(128 + summary.signal)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    if threading.current_thread() is not threading.main_thread():
        return run(app, argv)
    before = signal.signal(signal.SIGTERM, _terminated)  # outside of training nothing is to be saved
    try:
        run(app, argv)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _fresh(words: dict[str, str | None], given: dict[str, Any], overrides: Sequence[str]) -> tuple[RunConfig, Path]:
    """A new run; one that begins with a model's weights is of its network and tasks, unless others are named."""
    from unified.contracts.document import load_run_config

    model: str | ModelConfig = words["--model"] or MODEL
    tasks = words["--tasks"] or TASKS
    if start := words.get("--from"):
        from unified.trained import trained_config

        begun = trained_config(Path(start))
        model = words["--model"] or begun.model
        tasks = words["--tasks"] or ",".join(f"{name}:{task.task}" for name, task in begun.tasks.items())
    return load_run_config(
        model=model,
        data=words["--data"] or DATA,
        tasks=split_names(tasks) or (),
        recipe=words["--recipe"],
        overrides=overrides,
        options=given,
    )


def _grown(
    words: dict[str, str | None], grow: dict[str, Any], given: dict[str, Any], overrides: Sequence[str]
) -> tuple[RunConfig, Path]:
    """A run that adds to a trained network."""
    from unified.training.growth import Wish, grown_run

    start = words.get("--from")
    first = next(word for word, value in grow.items() if value is not None)
    if not start:
        raise ConfigError(f"{first} adds to a trained network; say which with --from RUN")
    if stray := [word for word in ("--tasks", "--model") if words[word]]:
        raise ConfigError(f"{first} keeps the network of --from; leave out {stray[0]}")
    wish = Wish(
        start=Path(start),
        tasks=split_names(grow["--add-task"]) or (),
        classes=grow["--add-classes"],
        latents=given.get("model.latents"),
        unfreeze=split_names(grow["--unfreeze"]) or (),
        distill=grow["--distill"] or 0.0,
    )
    rest = {key: value for key, value in given.items() if key != "model.latents"}
    return grown_run(wish, words["--data"] or DATA, words["--recipe"], overrides, rest)


def _resumed(
    folder: Path, words: dict[str, str | None], given: dict[str, Any], overrides: Sequence[str], force: bool
) -> tuple[RunConfig, Path]:
    """A run goes on as it began; only where it runs may change, and settings where they are forced upon it."""
    from unified.contracts.document import read_run_config

    free = {"train.device": "device", "train.workers": "workers", "train.logging": "logging"}
    where = {name: value for key, name in free.items() if (value := given[key]) is not None}
    fixed = [name for name, value in words.items() if value is not None]
    settings = {k: v for k, v in given.items() if v is not None and k not in free}
    fixed += [] if force else [*(f"--{k.split('.')[1].replace('_', '-')}" for k in settings), *overrides]
    if fixed:
        more = "" if force else " (settings may be changed with --force)"
        raise ConfigError(f"--resume goes on with the run as it began; leave out {', '.join(fixed)}{more}")
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"--resume {folder}: no run there; a run's folder holds config.yaml and checkpoints")
    config = read_run_config(folder / "config.yaml", overrides, settings)
    return config.model_copy(update={"train": config.train.model_copy(update=where)}), folder.resolve()


def _lint(config: RunConfig, base: Path, data: str, quiet: bool) -> None:
    """Refuses data that training would have to guess about, and says how many warnings there are."""
    from unified.data.lint.linter import refuse_faults

    kinds = {name: task.task for name, task in config.tasks.items()}
    warnings = refuse_faults(config.data, base, data, kinds)
    if warnings and not quiet:
        more = f" (and {len(warnings) - 1} more; unified-lint {data} shows them)" if len(warnings) > 1 else ""
        print(f"note: {warnings[0]}{more}", file=sys.stderr)


def _monitor(quiet: bool) -> Monitor:
    from unified.cli.display import Display
    from unified.training.monitor import Monitor

    return Monitor() if quiet else Display()


def _train(
    config: RunConfig,
    base: Path,
    out: Path | None,
    resume: Path | None,
    monitor: Monitor,
    start: Path | None = None,
    force: bool = False,
) -> RunSummary:
    try:
        from unified.training.run import train

        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        return train(config, base, out=out, resume=resume, monitor=monitor, command=command, start=start, force=force)
    finally:
        monitor.close()


def _look(dry: bool, fast: bool, find: bool, resume: Path | None) -> Callable[..., None] | None:
    """What is done instead of training, if anything."""
    asked = [name for name, flag in (("--dry-run", dry), ("--fast-dev-run", fast), ("--find-lr", find)) if flag]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)} do different things; give one of them")
    if resume and (fast or find):
        raise ConfigError(f"{asked[0]} looks at a new run; leave out --resume")
    return {"--dry-run": _show, "--fast-dev-run": _rehearse, "--find-lr": _find}[asked[0]] if asked else None


def _show(config: RunConfig, base: Path, quiet: bool, as_json: bool, **folders: Path | None) -> None:
    """The dry run; ``quiet`` leaves errors and the exit code."""
    from unified.cli import preview as screen
    from unified.training.preview import preview

    found = preview(config, base, **folders)
    if as_json:
        print(json.dumps(screen.as_json(found)))
    elif not quiet:
        screen.show(found)


def _rehearse(config: RunConfig, base: Path, quiet: bool, as_json: bool, **folders: Path | None) -> None:
    from unified.training.rehearsal import rehearse

    monitor = _monitor(quiet or as_json)
    try:
        done = rehearse(config, base, start=folders["start"], monitor=monitor)
    finally:
        monitor.close()
    if as_json:
        print(json.dumps(asdict(done)))
    elif not quiet:
        print(done.line())


def _find(config: RunConfig, base: Path, quiet: bool, as_json: bool, **folders: Path | None) -> None:
    from unified.cli.progress import Bar
    from unified.training.finder import STEPS, draw, find_rate

    with Bar("steps at a growing rate", STEPS, quiet=quiet or as_json) as bar:
        found = find_rate(config, base, start=folders["start"], tell=lambda rate, loss: bar.add(1))
    path = draw(found, (folders["out"] or Path()) / "lr-finder.png")
    if as_json:
        print(json.dumps({**asdict(found), "plot": str(path)}))
    elif not quiet:
        print(f"{found.line()}\n{path} shows it; train with --lr {found.suggestion:.1e}")


def _as_json(summary: RunSummary) -> dict[str, Any]:
    return {
        "folder": str(summary.folder),
        "metrics": dict(summary.metrics),
        "steps": summary.steps,
        "seconds": round(summary.seconds, 3),
        "interrupted": summary.interrupted,
    }
