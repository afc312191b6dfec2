# SPDX-License-Identifier: Apache-2.0
"""``unified-data``: make data sets, and bring them into one format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from unified.cli.command import Debug, Json, make_app, run
from unified.contracts.errors import ConfigError, DataError, suggestion

app = make_app()


@app.callback()
def data() -> None:
    """Make data sets."""


@app.command()
def shapes(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder.")],
    train: Annotated[int, typer.Option(metavar="N", min=0, help="Training pictures.")] = 1000,
    val: Annotated[int, typer.Option(metavar="N", min=0, help="Validation pictures.")] = 200,
    level: Annotated[str, typer.Option(metavar="NAME", help="easy, medium or hard.")] = "medium",
    size: Annotated[int, typer.Option(metavar="N", min=32, help="Side in pixels.")] = 160,
    seed: Annotated[int, typer.Option(metavar="N", help="Other seeds give other pictures.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the built-in shapes as a COCO folder, with a data file to train on it."""
    from unified.data.shapes import write_coco

    try:
        write_coco(out, train=train, val=val, seed=seed, level=level, size=size)
    except ValueError as error:  # its words are meant for the person who chose the folder and the level
        raise DataError(str(error)) from error
    file = out / "data.yaml"
    file.write_text(_data_file(train, val), encoding="utf-8")
    if as_json:
        print(json.dumps({"folder": str(out), "file": str(file), "images": {"train": train, "val": val}}))
        return
    print(f"{train} training and {val} validation pictures in {out}")
    print(f"train on them: unified-train --tasks det,cls,emb --data {file} --recipe shapes")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A data set's folder or file, or a data file (YAML).")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder.")],
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="Which one, of a file with several.")] = None,
    images: Annotated[
        str, typer.Option(metavar="WORD", help="reference: they stay where they are; copy: they come along.")
    ] = "reference",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a data set of any format as COCO, with a data file to train on it."""
    from unified.contracts.document import load_data
    from unified.data import convert as converter

    if images not in ("reference", "copy"):
        raise ConfigError(f"--images: unknown word '{images}'{suggestion(images, ('reference', 'copy'))}")
    config, base = load_data(source, as_found=True)
    names = [dataset] if dataset else list(config.datasets)
    if len(names) > 1 or names[0] not in config.datasets:
        got = f"no dataset '{dataset}'" if dataset else f"{len(names)} datasets"
        raise ConfigError(f"{source} has {got}; choose one with --dataset{suggestion(dataset or '', config.datasets)}")
    done = converter.convert(names[0], config.datasets[names[0]], base, out, images)  # type: ignore[arg-type]
    if as_json:
        told = {"file": str(done.file), "images": dict(done.images), "boxes": dict(done.boxes)}
        print(json.dumps({**told, "remarks": list(done.remarks)}))
        return
    for remark in done.remarks:
        print(f"note: {remark}")
    for split, count in done.images.items():
        print(f"{split}: {count} images, {done.boxes[split]} boxes")
    print(f"train on them: unified-train --data {done.file}")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(app, argv)


def _data_file(train: int, val: int) -> str:
    from unified.contracts.source import dump_yaml

    counts = {"train": train, "val": val}
    splits = {s: {"images": s, "annotations": f"annotations/instances_{s}.json"} for s, n in counts.items() if n}
    dataset = {
        "path": ".",
        **splits,
        "tags": {"fields": ["tags"], "categories": True},
        "identity": {"boxes": "identity"},
        "labelled": {"det": "all", "cls": "all", "emb": "all"},
    }
    return dump_yaml({"datasets": {"shapes": dataset}})
