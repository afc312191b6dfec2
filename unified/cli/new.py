# SPDX-License-Identifier: Apache-2.0
"""``unified-new``: a plug-in package to begin with, complete and tested."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from unified.cli.command import Debug, Json, make_app, run
from unified.contracts.errors import ConfigError, suggestion

KINDS = ("task",)

app = make_app()


@app.command(name="new")
def new(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="What is to be written: task.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the task: small letters, digits and _.")],
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="A new folder; unified-NAME if not given.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a pip-installable plug-in package with a task, its head, tests and a README."""
    if kind not in KINDS:
        raise ConfigError(f"unknown kind '{kind}'{suggestion(kind, KINDS)}")
    from unified.kit.package import write_task

    folder = write_task(name, out)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if as_json:
        print(json.dumps({"folder": str(folder), "files": files}))
        return
    print("\n".join(f"{folder / file}" for file in files))
    print(f"\nnext:\n  pip install -e {folder}\n  python -m pytest {folder}\n  unified-list tasks --foreign")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)
