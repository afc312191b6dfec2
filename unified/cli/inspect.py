# SPDX-License-Identifier: Apache-2.0
"""``unified-inspect``: which z stands where in a network, what of it folds, and how many parameters each part has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unified.cli.command import Debug, Json, make_app, run, split_names
from unified.contracts.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from unified.model.inventory import FreeSite, Inventory
    from unified.model.network import UnifiedNetwork

TASKS = "det,cls,emb"

app = make_app()


@app.command(name="inspect")
def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL|RUN", help="Name or file of a model, or folder of a run.")],
    tasks: Annotated[
        str | None, typer.Option(metavar="A,B", help=f"Kinds of task for a model by name; {TASKS} if not given.")
    ] = None,
    latents: Annotated[
        str | None, typer.Option(metavar="NAME|RULES", help="Latents instead of the model's own, such as yolor.")
    ] = None,
    sites: Annotated[bool, typer.Option("--sites", help="List the sites without a latent too.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the latents, the sites and the parameters of a network.

    A model by name is built with fresh weights for 80 classes, 20 tags and 100 identities.
    """
    from unified.model.inventory import inventory

    stock = inventory(_network(model, tasks, latents))
    if as_json:
        print(json.dumps(_as_json(model, stock, sites)))
    else:
        _print(model, stock, sites)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)


def _network(model: str, tasks: str | None, latents: str | None) -> UnifiedNetwork:
    if Path(model).is_dir():
        given = [name for name, value in (("--tasks", tasks), ("--latents", latents)) if value is not None]
        if given:
            raise ConfigError(f"'{model}' is a trained network as it is; leave out {' and '.join(given)}")
        from unified.trained import load_trained

        return load_trained(Path(model)).network
    from unified.model.build import create_model

    return create_model(model, split_names(tasks or TASKS) or (), latents=latents)


def _as_json(model: str, stock: Inventory, sites: bool) -> dict[str, Any]:
    lines = [{**vars(line), "foldable": line.reason is None} for line in stock.latents]
    parameters = {**stock.parameters, "total": stock.total}
    result = {"model": model, "latents": lines, "parameters": parameters, "trunk_passes": stock.trunk_passes}
    return {**result, "sites": [vars(free) for free in stock.free]} if sites else result


def _print(model: str, stock: Inventory, sites: bool) -> None:
    from rich.console import Console

    console = Console()
    console.print(_latent_table(model, stock) if stock.latents else f"{model} has no latents", soft_wrap=True)
    if sites:
        console.print(_site_table(stock.free))
    console.print(_part_table(stock))
    if stock.trunk_passes > 1:
        console.print(f"Answering all tasks takes {stock.trunk_passes} trunk passes: latents stand inside the trunk.")


def _latent_table(model: str, stock: Inventory) -> Table:
    from rich.table import Table

    table = Table(title=f"Latents of {model}", title_justify="left")
    for name in ("task", "site", "latent", "operator", "shape", "parameters", "foldable"):
        numeric = name in ("shape", "parameters")
        table.add_column(name, justify="right" if numeric else "left", no_wrap=name != "foldable")
    before = None
    for line in stock.latents:
        if before not in (None, line.task):
            table.add_section()
        shape = "x".join(map(str, line.shape))
        verdict = "yes" if line.reason is None else f"kept as a constant: {line.reason}"
        task = line.task if line.task != before else ""
        operator = line.operator.replace("[", r"\[")  # else rich reads [w,h] as a style
        table.add_row(task, line.site, line.latent, operator, shape, f"{line.parameters:,}", verdict)
        before = line.task
    return table


def _site_table(free: Iterable[FreeSite]) -> Table:
    from rich.table import Table

    table = Table("task", "site", "channels", title="Sites without a latent", title_justify="left")
    for site in free:
        table.add_row(site.task, site.site, f"{site.channels:,}")
    return table


def _part_table(stock: Inventory) -> Table:
    from rich.table import Table

    table = Table("part", "parameters", "share", title="Parameters", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, count in stock.parameters.items():
        table.add_row(name, f"{count:,}", f"{count / stock.total:.3%}")
    table.add_section()
    table.add_row("total", f"{stock.total:,}", "")
    return table
