# SPDX-License-Identifier: Apache-2.0
"""``unified-lint``: every fault of a data file in one pass, a line each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from unified.cli.command import Debug, Json, make_app, run, split_names

if TYPE_CHECKING:
    from unified.contracts.config import DataConfig
    from unified.data.lint.counts import Counts
    from unified.data.lint.linter import Report

SHOWN: Final = 20  # lines of one fault in one file
_WIDTH: Final = 110  # characters that the table of counts needs
_COLOURS: Final = {"error": "bold red", "warning": "yellow", "note": "dim"}

app = make_app()


@app.command()
def lint(
    data: Annotated[
        str, typer.Argument(metavar="NAME|PATH", help="A data file (YAML), or a data set as it lies there.")
    ],
    tasks: Annotated[
        str | None, typer.Option(metavar="A,B", help="Tasks by name:kind, where they are not named after their kind.")
    ] = None,
    fix: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write a repaired copy of the annotations to a new folder.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with samples, histograms and counts.")
    ] = None,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every picture, not only its header.")] = False,
    complete: Annotated[
        bool, typer.Option("--complete", help="Compare all pictures of train and val, however many.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help=f"Print every line, not {SHOWN} of a kind.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Name every fault of a data set, and count what it labels.

    Leaves with 1 where training would refuse the data. Nothing in the data's own folders is changed.
    """
    from unified.contracts.document import load_data
    from unified.data.lint.likeness import BUDGET
    from unified.data.lint.linter import lint as look

    kinds = {name: kind or name for name, _, kind in (task.partition(":") for task in split_names(tasks) or ())}
    config, base = load_data(data, kinds or None, as_found=True)
    compare = None if complete else BUDGET
    report = look(config, base, data, kinds=kinds or None, depth="pixels" if decode else "headers", compare=compare)
    changes = _repair(report, config, base, fix)
    if html is not None:
        from unified.data.lint.page import write_page

        write_page(report, html)
    if as_json:
        print(json.dumps({**report.as_json(), **({"changes": changes} if fix else {})}))
    else:
        _show(report, SHOWN if not every else None, changes, fix, html)
    if report.findings.refused:
        raise typer.Exit(1)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)


def _repair(report: Report, config: DataConfig, base: Path, out: Path | None) -> list[str]:
    if out is None:
        return []
    from unified.data.lint.repair import write_repaired

    return write_repaired(report, config, base, out)


def _show(report: Report, most: int | None, changes: Sequence[str], fix: Path | None, html: Path | None) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    console.width = max(console.width, _WIDTH)
    for severity, line in lines(report, most):
        console.print(Text.assemble((f"{severity}: ", _COLOURS[severity]), line))
    if report.counts:
        console.print(_table(report.counts, most))
    for shared in report.shared:
        parts = ", ".join(
            f"{name} {n}{'' if shared.labelled[name] else ' (unlabelled)'}" for name, n in shared.boxes.items()
        )
        console.print(Text(f"class '{shared.word}' in {len(shared.boxes)} data sets, boxes: {parts}"))
    if report.looked:
        console.print(Text(f"compared {report.looked}"))
    for change in changes:
        console.print(Text(f"fixed: {change}"))
    if fix is not None:
        console.print(Text(f"{len(changes)} changes in the copy: {fix / 'data.yaml'}"))
    if html is not None:
        console.print(Text(f"page: {html}"))
    console.print(Text(verdict(report), style="bold red" if report.findings.refused else "bold green"))


def lines(report: Report, most: int | None) -> Iterator[tuple[str, str]]:
    """Severity and text of every line; with ``most``, so many of one fault in one file."""
    told: dict[tuple[str, str], int] = {}
    for finding in report.findings:
        key = finding.file, finding.fault
        told[key] = told.get(key, 0) + 1
        if most is None or told[key] <= most:
            yield finding.severity, finding.line
        elif told[key] == most + 1:
            rest = report.findings.counts[key] - most
            yield finding.severity, f"{finding.file}: and {rest} more of {finding.fault}; --all shows each"


def verdict(report: Report) -> str:
    """The last line."""
    numbers = (report.findings.number("error"), report.findings.number("warning"), report.findings.number("note"))
    told = ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in zip(numbers, _COLOURS, strict=True))
    drawn = f"; drawn, not read: {', '.join(report.drawn)}" if report.drawn else ""
    ending = "training would refuse this data" if report.findings.refused else "training would take this data"
    return f"{told} in {report.seconds:.1f} s{drawn}: {ending}"


def _table(counts: Sequence[Counts], most: int | None) -> object:
    """Images by state, for every class of every task and split."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("data set", "split", "task", "class"):
        table.add_column(name, overflow="fold")
    for name in ("boxes", "unlabelled", "ignore", "negative", "positive", "empty"):
        table.add_column(name, justify="right", no_wrap=True)
    for part in counts:
        for task in dict.fromkeys(row.task for row in part.rows):
            rows = [row for row in part.rows if row.task == task]
            for k, row in enumerate(rows[:most]):
                place = (row.dataset, row.split, task) if k == 0 else ("", "", "")
                table.add_row(*place, row.word, *map(str, (row.boxes, *row.images)))
            if most is not None and len(rows) > most:
                table.add_row("", "", "", f"and {len(rows) - most} more; --all shows each")
        if part.images < part.total:
            table.add_row("", "", "", f"counted in {part.images} of {part.total} images")
    return table
