# SPDX-License-Identifier: Apache-2.0
"""``unified-pack``: one task of a model as a file, and such files mounted on a trunk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unified.cli.command import Debug, Json, make_app, run
from unified.contracts.errors import ConfigError

if TYPE_CHECKING:
    from unified.packs import TaskPack

app = make_app()

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a run, or of a model to hand on.")]


@app.callback()
def packs() -> None:
    """Keep single tasks as small files, and mount them on the trunk they were trained on."""


@app.command()
def save(
    model: Model,
    task: Annotated[str, typer.Argument(metavar="TASK", help="A task of it.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where it goes, such as ppe.pack.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write one task as a pack: head, z, vocabulary, scores and the fingerprint of its trunk."""
    from unified.packs import pack_of, write_task
    from unified.trained import load_trained

    trained = load_trained(model)
    pack = pack_of(trained, trained.network, task)
    size = write_task(file, pack)
    _tell(pack, {"file": str(file), "bytes": size}, as_json)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A pack.")], as_json: Json = False, debug: Debug = False
) -> None:
    """Verify a pack and say what is in it."""
    from unified.packs import read_task

    pack = read_task(file)
    _tell(pack, {"file": str(file), "bytes": file.stat().st_size}, as_json)


@app.command()
def mount(
    model: Model,
    files: Annotated[
        list[str], typer.Argument(metavar="[NAME=]FILE...", help="Packs; NAME= gives a task another name.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the model with all its tasks goes.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a model that has the tasks of packs too; every command takes its folder."""
    from unified.inference.model import load

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: exists already; give a new folder")
    loaded = load(model, device="cpu", precision="fp32")
    for text in files:
        name, equals, path = text.rpartition("=")
        if equals and not name.isidentifier():
            raise ConfigError(f"'{name}' is no name of a task; write FILE, or NAME=FILE")
        loaded.load_task(path, name or None)
    loaded.save_pretrained(out)
    found = {"folder": str(out), "tasks": list(loaded.tasks), "trunk_passes": loaded.network.trunk_passes()}
    print(json.dumps(found) if as_json else f"{out}: {', '.join(loaded.tasks)}; trunk passes: {found['trunk_passes']}")


def _tell(pack: TaskPack, where: dict[str, Any], as_json: bool) -> None:
    words, own = dict(pack.config.words or ()), _tables(pack.config.task)
    classes = {name: len(words[name]) for name in words if words[name] and (not own or name in own)}
    head = pack.config.head.name if pack.config.head else ""
    said = {
        **where,
        "task": pack.name,
        "kind": pack.config.task,
        "head": head,
        "parameters": pack.parameters,
        "vocabulary": classes,
        "trained_at": pack.size,
        "metrics": dict(pack.metrics),
        "model": pack.model,
        "trunk": pack.trunk,
    }
    if as_json:
        print(json.dumps(said))
        return
    print(f"{where['file']}: {where['bytes'] / 1e3:,.1f} kB, {pack.parameters:,} numbers")
    print(f"  task   {pack.name} ({pack.config.task}, head {head}), trained at {pack.size} pixels")
    print(f"  words  {', '.join(f'{count} {name}' for name, count in classes.items()) or 'none'}")
    print(f"  scores {', '.join(f'{name} {value:.3f}' for name, value in pack.metrics.items()) or 'none kept'}")
    print(f"  trunk  {pack.trunk} of {pack.model}")


def _tables(kind: str) -> tuple[str, ...]:
    """The tables of words that a kind of task answers with; empty where that is not known."""
    from unified.contracts.protocols import tasks

    labels = tasks.get(kind).labels if kind in tasks.names() else "none"
    return {"boxes": ("boxes",), "tags": ("tags",), "identities": ("identities", "image_identities")}.get(labels, ())


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)
