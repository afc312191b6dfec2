# SPDX-License-Identifier: Apache-2.0
"""``unified-list``: every registered part, where it comes from and what it is, in a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unified.cli.command import Debug, Json, make_app, run
from unified.contracts.errors import ConfigError, suggestion

if TYPE_CHECKING:
    from rich.table import Table

    from unified.contracts.registry import Part

app = make_app()


@app.command(name="list")
def list_parts(
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help="Only parts of one kind, such as tasks or heads.")
    ] = None,
    foreign: Annotated[bool, typer.Option("--foreign", help="Only parts of other packages and plug-in files.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show every registered part: tasks, heads, backbones, data formats and more.

    A part that cannot be used is shown with the reason; it harms nobody who does not ask for it.
    """
    from unified.contracts.protocols import registries
    from unified.contracts.registry import HOME

    by_group = {registry.group.partition(".")[2]: registry for registry in registries()}
    if kind is not None and kind not in by_group:
        raise ConfigError(f"unknown kind '{kind}'{suggestion(kind, by_group)}")
    chosen = by_group if kind is None else {kind: by_group[kind]}
    found = {group: [registry.part(name) for name in registry.names()] for group, registry in chosen.items()}
    if foreign:
        found = {group: [part for part in parts if part.package != HOME] for group, parts in found.items()}
    if as_json:
        print(json.dumps([_as_json(group, part) for group, parts in found.items() for part in parts]))
    else:
        _show({group: parts for group, parts in found.items() if parts})


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)


def _as_json(group: str, part: Part) -> dict[str, Any]:
    return {"group": group, **asdict(part), "origin": part.origin}


def _show(found: dict[str, list[Part]]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.width = max(console.width, 100)
    for group, parts in found.items():
        console.print(_table(group, parts))
    broken = [part.error for parts in found.values() for part in parts if part.error]
    for line in broken:
        console.print(f"cannot be used: {line}", style="red", markup=False, soft_wrap=True)
    if not found:
        console.print("nothing is registered but the platform's own parts")


def _table(group: str, parts: Sequence[Part]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=group, title_justify="left", box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(no_wrap=True, style="dim")
    table.add_column()
    for part in parts:
        where = f"{part.package} {part.version}".strip() if part.package else part.origin
        words = Text("cannot be used", style="red") if part.error else Text(part.summary)
        table.add_row(Text(part.name), Text(where), words)
    return table
