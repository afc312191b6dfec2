# SPDX-License-Identifier: Apache-2.0
"""The options of ``unified-train``: what each is called, and which setting it stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

MODEL, DATA, TASKS = "unified-n", "shapes", "det,cls,emb"

_WHAT, _HOW, _RUN, _LOOK, _SCREEN = "What is learned", "How it learns", "The run", "Before a long run", "Screen"
_GROW = "Adding to a trained network"


def batch_size(text: str) -> int | str:
    """``16``, or ``auto``."""
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError as error:
        raise typer.BadParameter(f"'{text}' is no number of images; write one, or auto") from error


Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Any setting, such as lr=0.01 or tasks.emb.weight=0.5."),
]

Tasks = Annotated[
    str | None,
    typer.Option(metavar="A,B", help=f"Kinds of task, or name:kind; {TASKS} if not given.", rich_help_panel=_WHAT),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE", help=f"Data file, or a dataset's folder; {DATA} if not given.", rich_help_panel=_WHAT
    ),
]
Model = Annotated[
    str | None,
    typer.Option(metavar="NAME|FILE", help=f"Model file (YAML); {MODEL} if not given.", rich_help_panel=_WHAT),
]
Latents = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|RULES",
        help="Which z stands where, such as yolor or 'align.*=mul pre.*=add:neural'; the model's if not given.",
        rich_help_panel=_WHAT,
    ),
]
Start = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="DIR", help="Begin with the weights of a run or model that fit.", rich_help_panel=_WHAT
    ),
]
AddTask = Annotated[
    str | None,
    typer.Option(
        "--add-task",
        metavar="A,B",
        help="With --from: kinds, or name:kind, that learn while all that is there stands still.",
        rich_help_panel=_GROW,
    ),
]
AddClasses = Annotated[
    str | None,
    typer.Option(
        "--add-classes",
        metavar="TASK",
        help="With --from: the data's further classes for a task that keeps its own.",
        rich_help_panel=_GROW,
    ),
]
Unfreeze = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="backbone or neck learn too, and old answers change.", rich_help_panel=_GROW),
]
Distill = Annotated[
    float | None,
    typer.Option(metavar="WEIGHT", help="With --unfreeze: hold old answers near the old.", rich_help_panel=_GROW),
]

Recipe = Annotated[
    str | None,
    typer.Option(metavar="NAME|FILE", help="Recipe (YAML); the data file's if not given.", rich_help_panel=_HOW),
]
Size = Annotated[int | None, typer.Option(metavar="PIXELS", help="Input side in pixels.", rich_help_panel=_HOW)]
Batch = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto", parser=batch_size, help="Images an optimizer step; auto: what fits.", rich_help_panel=_HOW
    ),
]
Epochs = Annotated[
    float | None, typer.Option(metavar="N", help="Passes over all training images.", rich_help_panel=_HOW)
]
MaxSteps = Annotated[int | None, typer.Option(metavar="N", help="End after so many steps.", rich_help_panel=_HOW)]
MaxMinutes = Annotated[
    float | None, typer.Option(metavar="N", help="End in time; the schedule shortens itself.", rich_help_panel=_HOW)
]
Rate = Annotated[float | None, typer.Option(metavar="RATE", help="Highest learning rate.", rich_help_panel=_HOW)]
Course = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Of the learning rate: cosine, linear, one-cycle, constant, steps.", rich_help_panel=_HOW
    ),
]
Patience = Annotated[
    int | None,
    typer.Option(metavar="N", help="End after so many evaluations without a better score.", rich_help_panel=_HOW),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Any setting; may be repeated.", rich_help_panel=_HOW),
]

Out = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="A new folder; runs/MODEL-DATE if not given.", rich_help_panel=_RUN),
]
Resume = Annotated[
    Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.", rich_help_panel=_RUN)
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Resume although settings or data have changed.", rich_help_panel=_RUN),
]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=_RUN)]
Precision = Annotated[str | None, typer.Option(metavar="NAME", help="auto, fp32, bf16 or fp16.", rich_help_panel=_RUN)]
Compile = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="Run the network as compiled code.", rich_help_panel=_RUN),
]
Deterministic = Annotated[
    bool | None,
    typer.Option(
        "--deterministic/--no-deterministic", help="The same bits every time, on a GPU too.", rich_help_panel=_RUN
    ),
]
Workers = Annotated[int | None, typer.Option(metavar="N", min=0, help="Loader processes.", rich_help_panel=_RUN)]
Seed = Annotated[
    int | None, typer.Option(metavar="N", help="Of weights, order and augmentation.", rich_help_panel=_RUN)
]
NoLint = Annotated[
    bool, typer.Option("--no-lint", help="Train on data that unified-lint refuses.", rich_help_panel=_RUN)
]

DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Show what would happen, step by step; train nothing.", rich_help_panel=_LOOK),
]
FastDevRun = Annotated[
    bool,
    typer.Option(
        "--fast-dev-run", help="Try it all: 3 steps, an evaluation, a checkpoint; keep nothing.", rich_help_panel=_LOOK
    ),
]
FindRate = Annotated[
    bool,
    typer.Option("--find-lr", help="Look for a learning rate; draw lr-finder.png.", rich_help_panel=_LOOK),
]

Tensorboard = Annotated[
    bool | None,
    typer.Option("--tensorboard", help="Write event files for TensorBoard too.", rich_help_panel=_SCREEN),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show errors only.", rich_help_panel=_SCREEN)]

SETTINGS: Final = {  # parameter of the command -> key of the configuration
    "latents": "model.latents",
    "size": "train.size",
    "batch": "train.batch",
    "epochs": "train.epochs",
    "max_steps": "train.max_steps",
    "max_minutes": "train.max_minutes",
    "lr": "train.lr",
    "course": "train.course",
    "patience": "train.patience",
    "device": "train.device",
    "precision": "train.precision",
    "compile_": "train.compile",
    "deterministic": "train.deterministic",
    "workers": "train.workers",
    "seed": "train.seed",
}
WORDS: Final = {"tasks": "--tasks", "data": "--data", "model": "--model", "recipe": "--recipe"}
