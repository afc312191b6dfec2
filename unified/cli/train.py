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
    from unified.contracts.config import RunConfig
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
        typer.Option(metavar="NAME|FILE", help=f"Data file (YAML); {DATA} if not given.", rich_help_panel=_WHAT),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help=f"Model file (YAML); {MODEL} if not given.", rich_help_panel=_WHAT),
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
    quiet: Annotated[bool, typer.Option("--quiet", help="Show errors only.", rich_help_panel=_SCREEN)] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train one network for several tasks.

    Without anything else, [bold]unified-train[/bold] learns boxes, tags and embeddings on the built-in shapes.
    Options may also be written as settings: [bold]size=320[/bold].
    """
    options = {
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
    overrides = [*(settings or []), *(set_ or [])]
    config, base = _resumed(resume, words, options, overrides) if resume else _fresh(words, options, overrides)
    summary = _train(config, base, out, resume, _monitor(quiet))
    if as_json:
        print(json.dumps(_as_json(summary)))
    if summary.interrupted:
        raise typer.Exit(130)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)


def _fresh(words: dict[str, str | None], options: dict[str, Any], overrides: Sequence[str]) -> tuple[RunConfig, Path]:
    from unified.contracts.document import load_run_config

    return load_run_config(
        model=words["--model"] or MODEL,
        data=words["--data"] or DATA,
        tasks=split_names(words["--tasks"] or TASKS) or (),
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


def _monitor(quiet: bool) -> Monitor:
    from unified.cli.display import Display
    from unified.training.monitor import Monitor

    return Monitor() if quiet else Display()


def _train(config: RunConfig, base: Path, out: Path | None, resume: Path | None, monitor: Monitor) -> RunSummary:
    try:
        from unified.training.run import train

        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        return train(config, base, out=out, resume=resume, monitor=monitor, command=command)
    finally:
        monitor.close()


def _as_json(summary: RunSummary) -> dict[str, Any]:
    return {
        "folder": str(summary.folder),
        "metrics": dict(summary.metrics),
        "steps": summary.steps,
        "seconds": round(summary.seconds, 3),
        "interrupted": summary.interrupted,
    }
