# SPDX-License-Identifier: Apache-2.0
"""``unified-eval``: the scores of a run's best checkpoint."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from unified.cli.command import Debug, Json, make_app, run, split_names
from unified.contracts.errors import ConfigError, suggestion

SPLITS: dict[str, Literal["train", "val"]] = {"train": "train", "val": "val"}

app = make_app()


@app.command(name="eval")
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME|PATH", help="Data file, or a dataset's folder; the run's own if not given."),
    ] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="train or val.")] = "val",
    tasks: Annotated[str | None, typer.Option(metavar="A,B", help="Only these tasks.")] = None,
    size: Annotated[
        int | None, typer.Option(min=1, metavar="PIXELS", help="Input side; the run's own if not given.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Images a pass; the run's own if not given.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first images.")] = None,
    rectangular: Annotated[
        bool, typer.Option("--rectangular", help="Pad images of like shape together, not each to a square.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Score the run's own validation data and write its report.html anew.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Evaluate a trained network."""
    from unified.training.evaluator import evaluate_run

    if report:
        given = {"--data": data, "--tasks": tasks, "--size": size, "--batch": batch, "--limit": limit}
        _report(folder, [name for name, value in given.items() if value is not None], as_json)
        return
    if split not in SPLITS:
        raise ConfigError(f"--split: unknown split '{split}'{suggestion(split, SPLITS)}")
    from unified.cli.progress import Bar

    with Bar("batches", quiet=as_json) as bar:
        metrics = evaluate_run(
            folder,
            data=data,
            split=SPLITS[split],
            tasks=split_names(tasks),
            size=size,
            batch=batch,
            limit=limit,
            rectangular=rectangular,
            tell=lambda line: print(f"note: {line}", file=sys.stderr),
            begin=bar.of,
            say=bar.add,
        )
    if as_json:
        print(json.dumps(metrics))
        return
    from rich.console import Console

    from unified.cli.display import metric_table

    Console().print(metric_table(metrics, title=f"{folder}, {split}"))


def _report(folder: Path, others: Sequence[str], as_json: bool) -> None:
    """Writes the page of a run again."""
    if others:
        raise ConfigError(f"--report is of the run's own data and size; leave out {', '.join(others)}")
    from unified.training.page.again import look_again

    path = look_again(folder, lambda line: print(f"note: {line}", file=sys.stderr))
    print(json.dumps({"report": str(path)}) if as_json else path)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)
