# SPDX-License-Identifier: Apache-2.0
"""``unified-report``: runs that exist, compared as ``unified-ablate`` compares its own."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unified.cli.command import Debug, Json, make_app, run, split_names

if TYPE_CHECKING:
    from unified.study.comparison import Comparison

app = make_app()


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or of a study.")],
    baseline: Annotated[
        str | None,
        typer.Option(metavar="NAME|RUN", help="The arm, or one of its runs, that is the measure; single-task runs."),
    ] = None,
    differ: Annotated[
        str | None, typer.Option(metavar="A,B", help="Settings that may differ, such as train.lr: what is tested.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Leave table, picture, page and raw numbers here.")
    ] = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="Of these files.")] = "report",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare finished runs: relative change against single-task baselines, over seeds, with what they cost.

    Runs that differ only in their seed are one arm. What does not match is refused.
    """
    from unified.study.collection import collect
    from unified.study.table import as_json_rows

    found, results = collect(runs, baseline, split_names(differ) or ())
    if out:
        from unified.study.archive import Archive, leave

        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        for path in leave(Archive(name, "", "", command, tuple(results)), found, out):
            print(path, file=sys.stderr)
    if as_json:
        print(json.dumps(as_json_rows(found)))
    else:
        show(found)


def show(found: Comparison, title: str = "") -> None:
    """Prints a table and what it does not say itself."""
    from rich.console import Console

    from unified.study.table import footnotes, rich_tables

    console = Console()
    console.print(*rich_tables(found, title, console.width))
    for line in footnotes(found):
        console.print(line, style="bright_black", highlight=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)
