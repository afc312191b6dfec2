# SPDX-License-Identifier: Apache-2.0
"""``unified-train``: one network for several tasks, from a model, a recipe and a data file."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unified.cli.command import Debug, Json, make_app, run, split_names
from unified.contracts.errors import ConfigError

if TYPE_CHECKING:
    from unified.contracts.config import ModelConfig, RunConfig
    from unified.training.monitor import Monitor, RunSummary

MODEL, DATA, TASKS = "unified-n", "shapes", "det,cls,emb"

_WHAT, _HOW, _RUN, _SCREEN = "What is learned", "How it learns", "The run", "Screen"

app = make_app()


@app.command()
def train(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Any setting, such as lr=0.01 or tasks.emb.weight=0.5."),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(metavar="A,B", help=f"Kinds of task, or name:kind; {TASKS} if not given.", rich_help_panel=_WHAT),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help=f"Data file, or a dataset's folder; {DATA} if not given.", rich_help_panel=_WHAT
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help=f"Model file (YAML); {MODEL} if not given.", rich_help_panel=_WHAT),
    ] = None,
    latents: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|RULES",
            help="Which z stands where, such as yolor or 'align.*=mul pre.*=add:neural'; the model's if not given.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Recipe (YAML); the data file's if not given.", rich_help_panel=_HOW),
    ] = None,
    size: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Input side in pixels.", rich_help_panel=_HOW)
    ] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Images an optimizer step.", rich_help_panel=_HOW)
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(metavar="N", help="Passes over all training images.", rich_help_panel=_HOW)
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(metavar="N", help="End after so many steps.", rich_help_panel=_HOW)
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(metavar="N", help="End in time; the schedule shortens itself.", rich_help_panel=_HOW)
    ] = None,
    lr: Annotated[
        float | None, typer.Option(metavar="RATE", help="Highest learning rate.", rich_help_panel=_HOW)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Any setting; may be repeated.", rich_help_panel=_HOW),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A new folder; runs/MODEL-DATE if not given.", rich_help_panel=_RUN),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="DIR", help="Begin with the weights of a run or model that fit.", rich_help_panel=_WHAT
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.", rich_help_panel=_RUN)
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=_RUN)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Loader processes.", rich_help_panel=_RUN)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of weights, order and augmentation.", rich_help_panel=_RUN)
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what would happen, step by step; train nothing.", rich_help_panel=_RUN),
    ] = False,
    no_lint: Annotated[
        bool,
        typer.Option("--no-lint", help="Train on data that unified-lint refuses.", rich_help_panel=_RUN),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show errors only.", rich_help_panel=_SCREEN)] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train one network for several tasks.

    Without anything else, [bold]unified-train[/bold] learns boxes, tags and embeddings on the built-in shapes.
    Options may also be written as settings: [bold]size=320[/bold].
    """
    options = {
        "model.latents": latents,
        "train.size": size,
        "train.batch": batch,
        "train.epochs": epochs,
        "train.max_steps": max_steps,
        "train.max_minutes": max_minutes,
        "train.lr": lr,
        "train.device": device,
        "train.workers": workers,
        "train.seed": seed,
    }
    words = {"--tasks": tasks, "--data": data, "--model": model, "--recipe": recipe}
    if start:
        words["--from"] = str(start)
    overrides = [*(settings or []), *(set_ or [])]
    config, base = _resumed(resume, words, options, overrides) if resume else _fresh(words, options, overrides)
    if not (resume or no_lint):
        _lint(config, base, data or DATA, quiet)
    if dry_run:
        _show(config, base, quiet, as_json, out=out, resume=resume, start=start)
        return
    summary = _train(config, base, out, resume, _monitor(quiet), start)
    if as_json:
        print(json.dumps(_as_json(summary)))
    if summary.interrupted:
        raise typer.Exit(130)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)


def _fresh(words: dict[str, str | None], options: dict[str, Any], overrides: Sequence[str]) -> tuple[RunConfig, Path]:
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
        options=options,
    )


def _resumed(
    folder: Path, words: dict[str, str | None], options: dict[str, Any], overrides: Sequence[str]
) -> tuple[RunConfig, Path]:
    """A run goes on as it began; only where it runs may change."""
    from unified.contracts.document import read_run_config

    free = {"train.device": "device", "train.workers": "workers"}
    given = {name: value for key, name in free.items() if (value := options[key]) is not None}
    fixed = [name for name, value in words.items() if value is not None]
    fixed += [f"--{k.split('.')[1].replace('_', '-')}" for k, v in options.items() if v is not None and k not in free]
    fixed += list(overrides)
    if fixed:
        raise ConfigError(f"--resume goes on with the run as it began; leave out {', '.join(fixed)}")
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"--resume {folder}: no run there; a run's folder holds config.yaml and checkpoints")
    config = read_run_config(folder / "config.yaml")
    return config.model_copy(update={"train": config.train.model_copy(update=given)}), folder.resolve()


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
    config: RunConfig, base: Path, out: Path | None, resume: Path | None, monitor: Monitor, start: Path | None = None
) -> RunSummary:
    try:
        from unified.training.run import train

        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        return train(config, base, out=out, resume=resume, monitor=monitor, command=command, start=start)
    finally:
        monitor.close()


def _show(config: RunConfig, base: Path, quiet: bool, as_json: bool, **folders: Path | None) -> None:
    """The dry run; ``quiet`` leaves errors and the exit code."""
    from unified.cli import preview as screen
    from unified.training.preview import preview

    found = preview(config, base, **folders)
    if as_json:
        print(json.dumps(screen.as_json(found)))
    elif not quiet:
        screen.show(found)


def _as_json(summary: RunSummary) -> dict[str, Any]:
    return {
        "folder": str(summary.folder),
        "metrics": dict(summary.metrics),
        "steps": summary.steps,
        "seconds": round(summary.seconds, 3),
        "interrupted": summary.interrupted,
    }
